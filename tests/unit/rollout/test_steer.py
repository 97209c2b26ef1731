from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.adapters.object_store import ObjectStore
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


class Clock:
    """A minute goes by between two entries."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 27, 3, tzinfo=UTC)

    def __call__(self) -> float:
        self.now += timedelta(minutes=1)
        return self.now.timestamp()


class Later:
    """A model in step 1, and what persons' runs ask of it, now or when they are cleared."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.store = ObjectStore(f"file://{folder}/store")
        self.state = open_state(folder / "state", "shop", self.store, clock=self.clock)
        self.state.reserve_slot("first")
        self.state.promote("first")
        in_step_1(self.state)

    def asks(self, who: str, action: str, asked_at: datetime | None = None) -> str:
        moment = self.clock.now if asked_at is None else asked_at
        return steer(self.state, action, who=who, why="odd", asked_at=moment, ledger=self.store)

    def refused(self, who: str, action: str, asked_at: datetime) -> str:
        before = self.state.text()
        with pytest.raises(BadRequestError) as refused:
            self.asks(who, action, asked_at)
        assert self.state.text() == before
        return str(refused.value)


@pytest.fixture
def later(tmp_path: Path) -> Later:
    return Later(tmp_path)


ANN, BOB = "person ann, run manual__1", "person bob, run manual__2"


@pytest.mark.parametrize("next_release", (False, True), ids=("the same release", "the next one"))
def test_a_resume_that_is_cleared_says_what_it_did_and_resumes_nobody_elses_pause(
    later: Later, *, next_release: bool
) -> None:
    later.state.pause("second")
    asked_at = later.clock.now
    later.asks(ANN, "resume")
    done = later.state.history()[-1]
    if next_release:
        later.state.roll_back("second")
        later.state.reserve_slot("third")
        later.state.begin_step("third", 1, PLANS["replay"], per_try_timeout_ms=50)
    later.asks(BOB, "pause")
    before = later.state.text()
    assert later.asks(ANN, "resume", asked_at) == (
        f"shop: second was resumed by {ANN} at {done.at} (sequence {done.sequence}) already; "
        "nothing was changed"
    )
    assert later.state.text() == before


@pytest.mark.parametrize("action", ("pause", "resume"))
def test_a_try_that_comes_when_another_release_is_in_progress_is_refused(
    later: Later, action: str
) -> None:
    """The first try was killed before it did anything."""
    asked_at = later.clock.now
    later.state.roll_back("second")
    later.state.reserve_slot("third")
    later.state.begin_step("third", 1, PLANS["replay"], per_try_timeout_ms=50)
    said = later.refused(ANN, action, asked_at)
    assert f"expected to {action} what was in progress at 2026-11-27T03:06:00Z, when it was" in said
    assert "third was slot_reserved by airflow at 2026-11-27T03:08:00.000Z (sequence 6)" in said
    assert "if it is wanted now, trigger a new run" in said


def test_a_try_that_comes_after_a_later_pause_does_not_end_it(later: Later) -> None:
    later.state.pause("second")
    asked_at = later.clock.now
    later.state.resume("second")
    later.asks(BOB, "pause")
    assert f"second was paused by {BOB}" in later.refused(ANN, "resume", asked_at)


def test_a_try_that_comes_after_a_persons_resume_pauses_no_more(later: Later) -> None:
    asked_at = later.clock.now
    later.asks(BOB, "pause")
    later.asks(BOB, "resume")
    assert f"second was resumed by {BOB}" in later.refused(ANN, "pause", asked_at)


def test_a_renewed_lease_is_no_reason_not_to_pause(later: Later) -> None:
    asked_at = later.clock.now
    later.state.lapse("second", later.state.peek().lease.renewals)
    later.state.renew("second", 60)
    assert "second is paused at 0 %" in later.asks(ANN, "pause", asked_at)


def test_a_pause_needs_no_store_when_the_record_says_enough(later: Later) -> None:
    class Away(ObjectStore):
        def read(self, path: str) -> bytes:
            raise OSError(path)

    away = Away(later.store.url)
    moment = later.clock.now
    said = steer(later.state, "pause", who=ANN, why="odd", asked_at=moment, ledger=away)
    assert "second is paused at 0 %" in said
