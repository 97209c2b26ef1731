from pathlib import Path

import pytest

from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import PLANS
from tasks.rollout.state import open_state
from tasks.rollout.traffic_step import TrafficStepBegun, per_try_timeout_ms, step_begun

PLAN = PLANS["replay"]  # accepts a p95 of 50 ms


@pytest.mark.parametrize(
    ("stable_p99_ms", "limit_ms"),
    (
        pytest.param(None, 150.0, id="unknown: three times the p95 that the plan accepts"),
        pytest.param(4.0, 150.0, id="a fast stable: three times the p95 that the plan accepts"),
        pytest.param(80.0, 240.0, id="a slow stable: three times its p99"),
        pytest.param(900.0, 1000.0, id="a very slow stable: what users would not feel"),
    ),
)
def test_one_try_may_take(stable_p99_ms: float | None, limit_ms: float) -> None:
    assert per_try_timeout_ms(PLAN, stable_p99_ms) == limit_ms


def test_a_step_is_described_and_survives_its_file(tmp_path: Path) -> None:
    state = open_state(tmp_path, "shop", clock=lambda: 1_700_000_000.0)
    state.reserve_slot("first")
    state.promote("first")
    state.reserve_slot("second")
    entry = state.begin_step("second", 1, PLAN, per_try_timeout_ms=50)
    begun = step_begun(state.peek(), entry, PLAN)
    assert (begun.percent, begun.candidate_colour, begun.stable_colour) == (5.0, "green", "blue")
    assert begun.started_at == "2023-11-14T22:13:20.000Z"
    assert TrafficStepBegun.parse(begun.to_text(), "here") == begun
    assert begun.facts().earlier_share == 0


def test_a_step_of_a_release_that_has_left_is_refused(tmp_path: Path) -> None:
    state = open_state(tmp_path, "shop")
    state.reserve_slot("first")
    state.promote("first")
    state.reserve_slot("second")
    entry = state.begin_step("second", 1, PLAN, per_try_timeout_ms=50)
    state.roll_back("second")
    with pytest.raises(BadRequestError, match="rolled back meanwhile"):
        step_begun(state.peek(), entry, PLAN)
