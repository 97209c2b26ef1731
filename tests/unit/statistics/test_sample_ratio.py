import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from tasks.statistics.sample_ratio import sample_ratio_p


def test_the_p_value_is_that_of_chi_square_worked_out_by_hand() -> None:
    # 1000 users, 5 % expected: 50 and 950; found 80 and 920: 30^2/50 + 30^2/950 = 18.947
    assert sample_ratio_p(80, 920, 0.05) == pytest.approx(float(chi2.sf(18.947368, 1)), rel=1e-6)


@pytest.mark.parametrize(
    ("candidate", "stable", "share", "alarms"),
    (
        pytest.param(50, 950, 0.05, False, id="the planned split raises no alarm"),
        pytest.param(90, 910, 0.05, True, id="twice the planned share raises the alarm"),
        pytest.param(10, 990, 0.05, True, id="candidate users who vanish raise the alarm"),
        pytest.param(0, 0, 0.5, False, id="no users are no alarm"),
        pytest.param(0, 30, 0.05, False, id="none of thirty at five percent is no surprise"),
        pytest.param(9, 30, 0.05, True, id="nine of thirty-nine at five percent is one"),
    ),
)
def test_an_alarm_at_p_below_0_0005(
    candidate: int, stable: int, share: float, alarms: bool
) -> None:
    assert (sample_ratio_p(candidate, stable, share) < 0.0005) is alarms


@given(st.integers(0, 5000), st.integers(0, 5000), st.floats(0.01, 0.99))
def test_naming_the_other_variant_first_changes_nothing(
    first: int, second: int, share: float
) -> None:
    there = sample_ratio_p(first, second, share)
    back = sample_ratio_p(second, first, 1 - share)
    assert there == pytest.approx(back, rel=1e-6, abs=1e-12)
