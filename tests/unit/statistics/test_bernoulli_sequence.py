from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad

from tasks.statistics.bernoulli_sequence import (
    log_evidence_above,
    lower_bound,
    start_weight,
    upper_bound,
)


def test_it_gives_the_figures_of_the_authors_own_reference() -> None:
    # confseq, test/uniform_boundaries_unittest.cpp, "target values are from a reference
    # implementation in R": one-sided beta-binomial mixture, v_opt 100, alpha_opt .05, g .2, h .8,
    # v 100: log at s = 10 is -0.07134019, the bound at log(1 / .05) is s = 28.41238.
    # With g = p and h = 1 - p, v is trials p (1 - p) and s is events - trials p: 625 trials.
    at_10 = log_evidence_above(125 + 10, 625, 0.2, tuned_for=625)
    assert at_10 == pytest.approx(-0.07134019, abs=1e-7)
    at_the_bound = log_evidence_above(125 + 28.41238, 625, 0.2, tuned_for=625)
    assert at_the_bound == pytest.approx(math.log(1 / 0.05), abs=1e-5)


@pytest.mark.parametrize(
    ("events", "trials", "rate", "tuned_for", "expected"),
    (
        (5, 5, 0.01, 10, 20.8420561),
        (5, 30, 0.01, 10, 8.14405695),
        (12, 24, 0.05, 10, 18.1709623),
        (40, 1000, 0.05, 10, -4.0770296),
        (60, 1000, 0.05, 500, 0.23905345),
        (300, 10000, 0.02, 2000, 20.4080066),
        (0, 100, 0.01, 10, -2.26801563),
    ),
)
def test_it_gives_what_the_authors_published_package_gives(
    events: int, trials: int, rate: float, tuned_for: float, expected: float
) -> None:
    # confseq's uniform_boundaries.h, compiled: beta_binomial_log_mixture(events - trials rate,
    # trials rate (1 - rate), tuned_for rate (1 - rate), rate, 1 - rate, .05, true). The package
    # itself does not build with Python 3.11, so its figures stand here.
    found = log_evidence_above(events, trials, rate, tuned_for=tuned_for)
    assert found == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
    ("events", "trials", "rate"),
    (
        pytest.param(5, 5, 0.01, id="all fail"),
        pytest.param(5, 30, 0.01, id="some fail"),
        pytest.param(12, 24, 0.05, id="half fail"),
        pytest.param(1, 200, 0.01, id="fewer fail than at the rate"),
    ),
)
def test_it_is_a_likelihood_ratio_averaged_over_larger_rates(
    events: int, trials: int, rate: float
) -> None:
    # r = rate (1 - rate) (10 / (2 log 10 + log(1 + 2 log 10)) - 1) = .5818 rate (1 - rate)
    spread = 10 / (2 * math.log(10) + math.log(1 + 2 * math.log(10))) - 1

    def weight(x: float) -> float:
        return float(x ** (spread * rate - 1) * (1 - x) ** (spread * (1 - rate) - 1))

    def ratio(x: float) -> float:
        return float((x / rate) ** events * ((1 - x) / (1 - rate)) ** (trials - events))

    averaged = quad(lambda x: weight(x) * ratio(x), rate, 1)[0] / quad(weight, rate, 1)[0]
    assert log_evidence_above(events, trials, rate) == pytest.approx(math.log(averaged), abs=1e-4)


@pytest.mark.parametrize(("events", "trials"), ((1, 1), (5, 5), (3, 100), (50, 100), (990, 1000)))
def test_the_evidence_falls_with_the_rate_so_that_the_bound_holds_below_it(
    events: int, trials: int
) -> None:
    rates = np.linspace(1e-4, events / trials - 1e-6, 200)
    told = [log_evidence_above(events, trials, float(rate)) for rate in rates]
    assert all(late < early for early, late in pairwise(told))
    bound = lower_bound(events, trials, 0.01)
    assert log_evidence_above(events, trials, bound) == pytest.approx(math.log(100), abs=1e-3)


def test_bounds_lie_on_their_sides_of_what_was_seen() -> None:
    assert (lower_bound(0, 50, 0.01), upper_bound(50, 50, 0.01)) == (0.0, 1.0)
    assert (lower_bound(0, 0, 0.01), upper_bound(0, 0, 0.01)) == (0.0, 1.0)
    assert 0.12 < lower_bound(30, 100, 0.01) < 0.3 < upper_bound(30, 100, 0.01) < 0.5
    assert upper_bound(0, 1000, 0.01) < 0.02


def _ever_above(rate: float, streams: int, trials: int, error_rate: float) -> float:
    """Return how many of `streams` see evidence above their own rate at any of their looks."""
    draw = np.random.default_rng(7)
    events = (draw.random((streams, trials)) < rate).cumsum(axis=1)
    # The evidence grows with events: the fewest events that reach the threshold, by look.
    reached = np.zeros(streams, dtype=bool)
    fewest = 1
    for look in range(1, trials + 1):
        while fewest <= look and (
            log_evidence_above(fewest, look, rate) < math.log(1 / error_rate)
        ):
            fewest += 1
        reached |= events[:, look - 1] >= fewest
    return float(reached.mean())


@pytest.mark.parametrize("rate", (0.01, 0.05, 0.3))
def test_looking_after_every_trial_the_bound_is_wrong_no_more_often_than_stated(
    rate: float,
) -> None:
    wrong = _ever_above(rate, streams=4000, trials=2000, error_rate=0.05)
    assert wrong < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)
    assert wrong > 0.005, "a bound that is never wrong would see nothing"


def test_a_fixed_bound_looked_at_after_every_trial_would_be_wrong_far_more_often() -> None:
    draw = np.random.default_rng(7)
    events = (draw.random((1000, 2000)) < 0.3).cumsum(axis=1)
    looks = np.arange(1, 2001)
    reach = 1.645 * np.sqrt(0.3 * 0.7 * looks)
    assert ((events - 0.3 * looks > reach)[:, 30:].any(axis=1)).mean() > 0.2


def test_evidence_of_a_rate_that_changes_from_trial_to_trial_below_the_limit_stays_small() -> None:
    draw = np.random.default_rng(8)
    rates = np.where(np.arange(1000) % 2 == 0, 0.05, 0.0)
    reached = 0
    for _ in range(200):
        events = (draw.random(1000) < rates).cumsum()
        told = max(
            log_evidence_above(int(events[look - 1]), look, 0.05) for look in range(10, 1001, 10)
        )
        reached += told >= math.log(20)
    assert reached <= 0.05 * 200


def test_the_weights_of_late_starts_sum_to_one() -> None:
    assert sum(start_weight(start) for start in range(100_000)) == pytest.approx(1, abs=1e-4)
    assert start_weight(0) == 0.5


@pytest.mark.parametrize(
    ("events", "trials", "rate"), ((3, 2, 0.1), (-1, 2, 0.1), (1, 2, 0.0), (1, 2, 1.0))
)
def test_impossible_counts_are_refused(events: int, trials: int, rate: float) -> None:
    with pytest.raises(ValueError, match="0 <= events <= trials"):
        log_evidence_above(events, trials, rate)
