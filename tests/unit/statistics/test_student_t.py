"""Student's t by hand-made fractions against scipy."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from tasks.statistics.student_t import quantile, upper_tail


@given(t=st.floats(-60, 60), degrees=st.integers(1, 5000))
@example(t=2.0869568332476693e-07, degrees=512)
@example(t=-1e-9, degrees=5000)
@example(t=1e-200, degrees=3)
def test_the_tail_equals_scipys(t: float, degrees: int) -> None:
    expected = float(stats.t.sf(t, degrees))
    assert upper_tail(t, degrees) == pytest.approx(expected, rel=1e-7, abs=1e-14)


@given(p=st.floats(0.0005, 0.9995), degrees=st.integers(1, 5000))
def test_the_quantile_equals_scipys(p: float, degrees: int) -> None:
    expected = float(stats.t.ppf(p, degrees))
    assert quantile(p, degrees) == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_one_degree_of_freedom_is_cauchys_distribution() -> None:
    assert upper_tail(1.0, 1) == pytest.approx(0.25)  # arctan(1) is a quarter of pi
