from __future__ import annotations

from pathlib import Path

import pytest

from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import PLANS
from tasks.rollout.phases import Phase
from tasks.rollout.state import ModelState, open_state
from tasks.rollout.steer import main, steer


@pytest.fixture
def state(tmp_path: Path) -> ModelState:
    made = open_state(tmp_path, "shop")
    made.reserve_slot("first")
    made.promote("first")
    return made


def in_step_1(state: ModelState) -> None:
    state.reserve_slot("second")
    state.begin_step("second", 1, PLANS["replay"], per_try_timeout_ms=50)


def test_a_person_pauses_and_resumes_and_the_ledger_says_who_and_why(
    state: ModelState, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_step_1(state)
    assert main([str(tmp_path), "shop", "pause", "person ann", "odd numbers"]) == 0
    assert "shop: second is paused at 0 %" in capsys.readouterr().out
    assert state.peek().status.phase is Phase.PAUSED
    assert main([str(tmp_path), "shop", "resume", "person bea", "explained"]) == 0
    assert "shop: second is stepping at 5 %" in capsys.readouterr().out
    told = [(entry.kind, entry.who, entry.why) for entry in state.history()[-2:]]
    assert told == [
        ("paused", "person ann", "odd numbers"),
        ("resumed", "person bea", "explained"),
    ]


def test_pausing_twice_changes_nothing_twice(state: ModelState) -> None:
    in_step_1(state)
    for _ in range(2):
        steer(state, "pause", who="person ann", why="odd")
    assert [entry.kind for entry in state.history()].count("paused") == 1


def test_nothing_in_progress_and_unknown_actions_are_refused(
    state: ModelState, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "shop", "pause", "person ann", "odd"]) == 4
    assert "expected a release in progress to pause, found none" in capsys.readouterr().err
    in_step_1(state)
    with pytest.raises(BadRequestError, match="expected an action of"):
        steer(state, "promote", who="person ann", why="odd")
    state.cut("second", 1, numbers={})
    with pytest.raises(BadRequestError, match="the verdict on step 1 is roll_back"):
        steer(state, "resume", who="person ann", why="odd")
    assert main([]) == 2
