"""Paired comparisons: values worked out by hand, and errors at the rates that are promised."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tasks.statistics.bootstrap import holm, mean_interval, paired_bootstrap, paired_difference


def test_the_difference_of_four_users_by_hand() -> None:
    candidate = np.asarray([0.5, 0.7, 0.2, 0.6])
    other = np.asarray([0.4, 0.5, 0.2, 0.5])  # differences .1 .2 .0 .1
    found = paired_difference(candidate, other, confidence=0.95)
    # Variance (0 + .01 + .01 + 0) / 3; its root over the root of 4 is the error.
    assert found.mean == pytest.approx(0.1)
    assert found.standard_error == pytest.approx(math.sqrt(0.02 / 3) / 2)
    reach = 3.182446305 * math.sqrt(0.02 / 3) / 2  # t of 0.975 with 3 degrees of freedom
    assert found.lower == pytest.approx(0.1 - reach)
    assert found.upper == pytest.approx(0.1 + reach)


def test_p_values_equal_scipys_paired_test() -> None:
    generator = np.random.default_rng(5)
    candidate, other = generator.random(40), generator.random(40)
    found = paired_difference(candidate, other)
    scipys = stats.ttest_rel(candidate, other, alternative="greater")
    assert found.p_superior == pytest.approx(float(scipys.pvalue))
    shifted = stats.ttest_rel(candidate + 0.05, other, alternative="greater")
    assert found.p_noninferior(0.05) == pytest.approx(float(shifted.pvalue))


def test_equal_models_are_never_superior_but_always_noninferior() -> None:
    values = np.asarray([0.1, 0.1, 0.1, 0.3])
    found = paired_difference(values, values)
    assert (found.mean, found.standard_error, found.p_superior) == (0.0, 0.0, 1.0)
    assert found.p_noninferior(0.001) == 0.0


def test_a_constant_loss_of_more_than_the_margin_is_inferior() -> None:
    other = np.asarray([0.5, 0.25, 0.75])
    found = paired_difference(other - 0.125, other)
    assert found.p_noninferior(0.1) == 1.0
    assert found.p_noninferior(0.2) == 0.0


def test_a_margin_of_zero_is_refused() -> None:
    found = paired_difference(np.asarray([1.0, 2.0]), np.asarray([1.0, 1.0]))
    with pytest.raises(ValueError, match="margin > 0"):
        found.p_noninferior(0.0)


@pytest.mark.parametrize(
    ("candidate", "other", "message"),
    (
        pytest.param([1.0], [1.0], "at least 2", id="one user is no comparison"),
        pytest.param([1.0, 2.0], [1.0], "same users", id="other users are no pairs"),
        pytest.param([1.0, float("nan")], [1.0, 1.0], "finite", id="a missing value is not zero"),
    ),
)
def test_what_cannot_be_compared_is_refused(
    candidate: list[float], other: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        paired_difference(np.asarray(candidate), np.asarray(other))


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03: times 3, 2, 1 are .03 .04 .03; the last may not fall below the second.
    adjusted = holm({"a": 0.03, "b": 0.01, "c": 0.02})
    assert adjusted == pytest.approx({"b": 0.03, "c": 0.04, "a": 0.04})


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1), max_size=6))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values: dict[str, float]) -> None:
    adjusted = holm(p_values)
    assert all(adjusted[name] >= p_values[name] for name in p_values)
    ordered = sorted(p_values, key=lambda name: p_values[name])
    assert [adjusted[name] for name in ordered] == sorted(adjusted.values())


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(11)
    draws = generator.exponential(1.0, (1000, 60))
    covered = [
        interval.lower <= 1.0 <= interval.upper
        for interval in (mean_interval(row, confidence=0.9) for row in draws)
    ]
    assert 0.86 <= np.mean(covered) <= 0.93


def test_bootstrap_and_students_interval_agree_on_many_users_and_repeat_with_the_seed() -> None:
    generator = np.random.default_rng(3)
    candidate, other = generator.random(800), generator.random(800)
    student = paired_difference(candidate, other)
    found = paired_bootstrap(candidate, other, seed=7)
    assert found == paired_bootstrap(candidate, other, seed=7)
    assert found.lower == pytest.approx(student.lower, abs=0.1 * student.standard_error + 0.002)
    assert found.upper == pytest.approx(student.upper, abs=0.1 * student.standard_error + 0.002)
