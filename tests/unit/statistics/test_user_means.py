import math
from collections.abc import Iterable

import numpy as np
import pytest
from scipy.stats import ttest_ind

from tasks.statistics.user_means import UserMeans, UserSums, welch


def user_means(outcomes: Iterable[tuple[str, float | None]]) -> UserMeans:
    sums = UserSums()
    for user, outcome in outcomes:
        sums.add(user, outcome)
    return sums.means()


def test_a_user_with_many_requests_counts_once() -> None:
    pairs = [("ann", 1.0), ("ann", 1.0), ("ann", 0.0), ("ann", 0.0), ("bob", 1.0)]
    assert user_means(pairs) == UserMeans(users=2, mean=0.75, variance=0.125)


def test_no_outcomes_are_no_users() -> None:
    assert user_means([]) == UserMeans(users=0, mean=0.0, variance=0.0)


def test_a_user_without_an_outcome_is_in_no_mean() -> None:
    pairs = [("ann", 1.0), ("bob", None), ("cat", None), ("cat", 0.0)]
    assert user_means(pairs) == UserMeans(users=2, mean=0.5, variance=0.5)


def test_one_user_has_no_variance() -> None:
    assert user_means([("ann", 1.0)]) == UserMeans(users=1, mean=1.0, variance=0.0)


def test_the_difference_agrees_with_scipys_welch_test() -> None:
    draw = np.random.default_rng(7)
    treatment, control = draw.normal(0.31, 0.2, 80), draw.normal(0.25, 0.4, 50)
    found = welch(
        user_means((str(number), value) for number, value in enumerate(treatment)),
        user_means((str(number), value) for number, value in enumerate(control)),
    )
    theirs = ttest_ind(treatment, control, equal_var=False, alternative="greater")
    assert found.p_not_above(0.0) == pytest.approx(theirs.pvalue, rel=1e-9)
    bounds = theirs.confidence_interval(0.95)
    assert found.lower_bound(0.05) == pytest.approx(bounds.low, rel=1e-9)


def test_a_margin_moves_the_tested_bound() -> None:
    group = UserMeans(users=100, mean=0.30, variance=0.04)
    difference = welch(group, group)
    # Equal means, standard error sqrt(.04/100 + .04/100) = .0283: -.05 is 1.77 of them away.
    assert difference.standard_error == pytest.approx(0.028284, abs=1e-6)
    assert difference.p_not_above(0.0) == pytest.approx(0.5)
    assert difference.p_not_above(-0.05) == pytest.approx(0.0393, abs=2e-4)


def test_equal_constants_are_not_above_zero_but_above_a_margin() -> None:
    never = UserMeans(users=50, mean=0.0, variance=0.0)
    difference = welch(never, never)
    assert difference.p_not_above(0.0) == 1.0
    assert difference.p_not_above(-0.02) == 0.0
    assert difference.degrees_of_freedom == math.inf
