from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tasks.statistics.guardrails import quantile, rate_lower_bound


def test_no_event_proves_nothing() -> None:
    assert rate_lower_bound(0, 1000, 0.01) == 0.0


def test_all_events_are_worked_out_by_hand() -> None:
    # 10 of 10: the bound p solves p^10 = .01
    assert rate_lower_bound(10, 10, 0.01) == pytest.approx(0.01**0.1)


def test_the_bound_is_clopper_and_pearsons() -> None:
    theirs = binomtest(7, 200, alternative="greater").proportion_ci(0.99, method="exact")
    assert rate_lower_bound(7, 200, 0.01) == pytest.approx(theirs.low, rel=1e-9)


def test_one_error_in_twenty_does_not_prove_more_than_one_percent() -> None:
    assert rate_lower_bound(1, 20, 0.01) < 0.01 < rate_lower_bound(4, 20, 0.01)


def test_no_values_have_no_quantile() -> None:
    assert quantile({}, 0.95, 0.01) is None


def test_few_values_have_no_upper_bound() -> None:
    found = quantile(Counter([3.0, 1.0, 2.0]), 0.95, 0.01)
    assert found is not None
    assert (found.low, found.high) == (2.0, None)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=400))
def test_the_bounds_surround_the_estimate(values: list[float]) -> None:
    found = quantile(Counter(values), 0.95, 0.01)
    assert found is not None
    assert found.low <= found.estimate
    assert found.high is None or found.estimate <= found.high


@given(st.lists(st.sampled_from([0.5, 1.0, 1.25, 7.0, 9.5]), min_size=1, max_size=400))
@pytest.mark.parametrize("share", (0.5, 0.95, 0.99))
def test_values_that_come_often_are_counted_and_not_kept(share: float, values: list[float]) -> None:
    found = quantile(Counter(values), share, 0.01)
    assert found is not None
    assert found.estimate == pytest.approx(float(np.quantile(values, share)), abs=1e-12)
    assert found.low in {0.0, *values}


def test_each_bound_is_wrong_no_more_often_than_stated() -> None:
    draw = np.random.default_rng(5)
    true = float(np.log(20))  # the 95th percentile of the exponential distribution
    too_high = too_low = 0
    for _ in range(2000):
        found = quantile(Counter(draw.exponential(size=300).tolist()), 0.95, 0.05)
        assert found is not None
        assert found.high is not None
        too_high += found.low > true
        too_low += found.high < true
    assert 0.02 < too_high / 2000 < 0.06
    assert 0.02 < too_low / 2000 < 0.06
