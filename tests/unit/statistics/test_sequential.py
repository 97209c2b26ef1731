import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from tasks.contracts.errors import BadRequestError
from tasks.statistics.sequential import look_levels, obrien_fleming_spent


def test_one_look_gets_the_whole_error_rate() -> None:
    assert look_levels(0.05, [1.0]) == [pytest.approx(0.05)]


def test_the_spending_function_has_the_published_values() -> None:
    # Lan & DeMets (1983), one-sided .025: at half of the data .00153, at 4/5 .01221
    assert obrien_fleming_spent(0.025, 0.5) == pytest.approx(0.00153, abs=1e-5)
    assert obrien_fleming_spent(0.025, 0.8) == pytest.approx(0.01221, abs=1e-5)


@given(st.lists(st.floats(0.01, 0.99), min_size=0, max_size=13, unique=True))
def test_the_levels_of_all_looks_add_up_to_the_error_rate(shares: list[float]) -> None:
    levels = look_levels(0.05, [*sorted(shares), 1.0])
    assert sum(levels) == pytest.approx(0.05)
    assert all(level >= 0 for level in levels)


@pytest.mark.parametrize(
    "looks",
    (
        pytest.param([], id="no looks"),
        pytest.param([0.5], id="a last look before all data"),
        pytest.param([0.5, 0.5, 1.0], id="the same look twice"),
        pytest.param([0.0, 1.0], id="a look at nothing"),
    ),
)
def test_looks_that_cannot_be_are_refused(looks: list[float]) -> None:
    with pytest.raises(BadRequestError, match="growing shares"):
        look_levels(0.05, looks)


def test_five_looks_at_no_difference_err_less_often_than_stated() -> None:
    draw = np.random.default_rng(11)
    looks = np.array([0.2, 0.4, 0.6, 0.8, 1.0])
    steps = draw.standard_normal((40_000, 5)) * np.sqrt(0.2)
    z = np.cumsum(steps, axis=1) / np.sqrt(looks)
    levels = np.array(look_levels(0.05, list(looks)))
    naive, ours = norm.sf(z) <= 0.05, norm.sf(z) <= levels
    assert 0.025 < ours.any(axis=1).mean() <= 0.05  # valid; the union bound leaves some unused
    assert naive.any(axis=1).mean() > 0.10  # what peeking without a plan does
