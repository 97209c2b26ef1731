import numpy as np
import pytest

from tasks.contracts.errors import BadRequestError
from tasks.statistics.planner import plan_precision, users_needed, visible_effect
from tasks.statistics.user_means import UserMeans, welch


def test_the_textbook_case_is_worked_out_by_hand() -> None:
    # One-sided 5 %, power 80 %: (1.6449 + .8416)^2 = 6.1826; sd .5, effect .05, halves:
    # variance per user .25 * 4 = 1; 6.1826 / .0025 = 2473.03
    needed = users_needed(
        standard_deviation=0.5, effect=0.05, share=0.5, error_rate=0.05, power=0.8
    )
    assert needed == 2474


def test_an_uneven_split_needs_more_users() -> None:
    def needed(share: float) -> int:
        return users_needed(
            standard_deviation=0.5, effect=0.05, share=share, error_rate=0.05, power=0.8
        )

    assert needed(0.05) > 5 * needed(0.5)


def test_with_the_planned_users_the_planned_effect_is_seen_as_often_as_planned() -> None:
    draw = np.random.default_rng(3)
    needed = users_needed(
        standard_deviation=0.4, effect=0.08, share=0.5, error_rate=0.05, power=0.8
    )
    seen = 0
    for _ in range(400):
        candidate, stable = draw.normal(0.38, 0.4, needed // 2), draw.normal(0.30, 0.4, needed // 2)
        groups = [
            UserMeans(users=len(means), mean=float(means.mean()), variance=float(means.var(ddof=1)))
            for means in (candidate, stable)
        ]
        found = welch(*groups)
        seen += found.p_not_above(0.0) <= 0.05
    assert 0.74 < seen / 400 < 0.86


def test_the_visible_effect_inverts_the_plan() -> None:
    error = 0.5 * (4 / 2474) ** 0.5
    assert visible_effect(standard_error=error, error_rate=0.05, power=0.8) == pytest.approx(
        0.05, rel=1e-3
    )


@pytest.mark.parametrize(("effect", "share"), ((0.0, 0.5), (0.1, 0.0), (0.1, 1.0)))
def test_impossible_plans_are_refused(effect: float, share: float) -> None:
    with pytest.raises(BadRequestError, match="planner"):
        users_needed(standard_deviation=1.0, effect=effect, share=share, error_rate=0.05, power=0.8)


def precision(standard_error: float):
    return plan_precision(
        users=1000, standard_error=standard_error, margin=0.005, largest_share=1 / 3.3
    )


@pytest.mark.parametrize(
    ("standard_error", "refused"),
    (
        pytest.param(0.00151, False, id="just below margin / 3.3 = .0015152 there is a verdict"),
        pytest.param(0.00152, True, id="just above margin / 3.3 there is none"),
        pytest.param(0.0, False, id="a model that differs nowhere needs no more users"),
        pytest.param(float("nan"), True, id="an unknown standard error is no small one"),
    ),
)
def test_the_planner_refuses_above_the_margin_over_three_point_three(
    standard_error: float, refused: bool
) -> None:
    assert precision(standard_error).refused is refused


def test_twice_the_admitted_standard_error_takes_four_times_the_users() -> None:
    found = plan_precision(users=1000, standard_error=0.25, margin=0.5, largest_share=0.25)
    assert (found.limit, found.users_that_would_do) == (0.125, 4000)


@pytest.mark.parametrize(("margin", "share"), ((0.0, 0.3), (-0.1, 0.3), (0.1, 0.0), (0.1, 1.0)))
def test_a_precision_that_cannot_be_tested_is_refused(margin: float, share: float) -> None:
    with pytest.raises(BadRequestError, match="planner: expected margin > 0"):
        plan_precision(users=10, standard_error=0.1, margin=margin, largest_share=share)
