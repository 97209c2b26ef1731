"""Any task of a release cleared and run again at any time: the record and the ledger stay as they are.

What each task asks of the state record is asked again after each later task, and beside a person's
pause, a lapse, a cut and the release's end. (Stages also answer from their seals: ADR 4.)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json
from tasks.contracts.requests import PLANS, ReleaseRequest
from tasks.contracts.stage_io import StageContext
from tasks.rollout.phases import Decision
from tasks.rollout.record import Lease, StateRecord
from tasks.rollout.state import ModelState, open_state
from tasks.stages import roll_back_release
from tests.rollout_context import rollout_context

PLAN = PLANS["replay"]
RELEASE = ReleaseRequest(
    release_id="second",
    model="shop",
    dataset="ml-1m",
    as_of="2026-01-31T00:00:00Z",
    recipe="markov",
    compression="int8",
    plan=PLAN,
)
BUNDLE = "serving_bundle/" + "b" * 64
Task = tuple[str, Callable[[], object]]


@pytest.fixture
def state(tmp_path: Path) -> ModelState:
    made = open_state(tmp_path / "state", "shop", ObjectStore(f"file://{tmp_path}/store"))
    made.reserve_slot("first")
    made.promote("first")
    return made


def tasks_of(state: ModelState, name: str = "second") -> list[Task]:
    """Return what the tasks of a release that wins ask, in order."""
    found: list[Task] = [("stage_bundle", partial(state.reserve_slot, name, bundle=BUNDLE))]
    verdicts = (Decision.PROCEED, Decision.PROCEED, Decision.SHIP)
    for step, said in enumerate(verdicts, start=1):
        begin = partial(state.begin_step, name, step, PLAN, per_try_timeout_ms=50.0 + step)
        judge = partial(state.record_verdict, name, step, said, numbers={"users": step})
        found += [(f"shift_traffic {step}", begin), (f"judge_step {step}", judge)]
    return [*found, ("promote_release", partial(state.promote, name))]


def own_rollback(tmp_path: Path, **settings: Json) -> StageContext:
    """Return what `roll_back_release` is asked by a release's own run."""
    return rollout_context(tmp_path, release=RELEASE, settings=settings)


def told(state: ModelState) -> tuple[StateRecord, int]:
    """Return the record without its lease, which renewals change, and the ledger's length."""
    return replace(state.peek(), lease=Lease()), len(state.history())


def again(state: ModelState, tasks: list[Task]) -> list[str]:
    """Run tasks again, whatever they say; return those that were refused. Nothing may change."""
    before, refused = told(state), []
    for task, ask in tasks:
        try:
            ask()
        except BadRequestError:
            refused.append(task)
        assert told(state) == before, f"{task} changed something"
    return refused


def test_each_task_may_run_again_after_each_later_one(state: ModelState) -> None:
    tasks = tasks_of(state)
    for number, (_, ask) in enumerate(tasks, start=1):
        ask()
        refused = again(state, tasks[:number])
        ended = number == len(tasks)
        # Once promoted, steps and verdicts are over: they are refused by name, not done again.
        assert (refused != []) == ended, refused
    assert state.verify() == []


@pytest.mark.parametrize("failed", ("approval", "step_1.shift_traffic"))
def test_a_cleared_task_of_a_promoted_release_that_fails_takes_nothing_out(
    state: ModelState, tmp_path: Path, failed: str
) -> None:
    """Nobody answered the approval a second time; or a step was refused, for it has ended."""
    for _, ask in tasks_of(state, RELEASE.release_id):
        ask()
    asked = own_rollback(tmp_path, reason=f"failed: {failed}", promotion_failed=False)
    before = told(state)
    outcome = roll_back_release.run(asked)
    assert told(state) == before
    assert outcome.sentence == (
        "shop: nothing was changed: release 2 was promoted and serves; the DAG roll_back with the "
        "release `stable` takes it out"
    )


def test_a_promotion_that_fails_after_its_entry_is_rolled_back(
    state: ModelState, tmp_path: Path
) -> None:
    for _, ask in tasks_of(state, RELEASE.release_id):
        ask()
    reason = "failed: promote_release"
    roll_back_release.run(own_rollback(tmp_path, reason=reason, promotion_failed=True))
    entry = state.history()[-1]
    assert (entry.kind, entry.release_id, entry.why) == ("rolled_back", RELEASE.release_id, reason)
    stable = state.peek().stable
    assert stable is not None
    assert stable.release_id == "first"


def test_a_promotion_that_is_cleared_hours_later_and_fails_takes_nothing_out(
    state: ModelState, tmp_path: Path
) -> None:
    hours_ago = replace(state, clock=lambda: time.time() - 3 * 3600)
    for _, ask in tasks_of(hours_ago, RELEASE.release_id):
        ask()
    before = told(state)
    roll_back_release.run(own_rollback(tmp_path, reason="it failed", promotion_failed=True))
    assert told(state) == before


@pytest.mark.parametrize("done", range(2, 7), ids=lambda done: f"after {done} tasks")
def test_no_cleared_task_ends_a_persons_pause_or_a_cut(state: ModelState, done: int) -> None:
    tasks = tasks_of(state)
    for _, ask in tasks[:done]:
        ask()
    state.pause("second")
    again(state, tasks[:done])
    state.resume("second")
    state.cut("second", state.peek().status.step or 0, numbers={})
    again(state, tasks[:done])
    assert state.peek().status.share == 0


@pytest.mark.parametrize("done", range(2, 7), ids=lambda done: f"after {done} tasks")
def test_after_a_lapse_only_the_step_in_progress_goes_on(state: ModelState, done: int) -> None:
    tasks = tasks_of(state)
    for _, ask in tasks[:done]:
        ask()
    step = state.peek().status.step or 0
    others = [task for task in tasks[:done] if task[0] != f"shift_traffic {step}"]
    state.lapse("second", state.peek().lease.renewals)
    again(state, others)
    judged = step in state.peek().status.verdicts
    state.begin_step("second", step, PLAN, per_try_timeout_ms=50)
    # A step that was judged has nothing left to do: its lease's next renewal goes on instead.
    assert (state.peek().status.share > 0) is not judged
    state.renew("second", 60)
    assert state.peek().status.share > 0


@pytest.mark.parametrize("done", range(1, 8), ids=lambda done: f"after {done} tasks")
def test_nothing_of_a_release_that_was_rolled_back_comes_back(state: ModelState, done: int) -> None:
    tasks = tasks_of(state)
    for _, ask in tasks[:done]:
        ask()
    state.roll_back("second")
    rollback: Task = ("roll_back_release", partial(state.roll_back, "second"))
    refused = again(state, [*tasks, rollback])
    assert refused == [task for task, _ in tasks]
    stable = state.peek().stable
    assert stable is not None
    assert stable.release_id == "first"


def test_tasks_of_a_release_before_do_nothing_to_the_one_in_progress(state: ModelState) -> None:
    old, new = tasks_of(state), tasks_of(state, "third")
    for _, ask in old:
        ask()
    for number, (_, ask) in enumerate(new, start=1):
        ask()
        rollback: Task = ("roll_back_release", partial(state.roll_back, "second"))
        if number < len(new):  # of the stable release, beside one in progress, it is refused
            assert "roll_back_release" in again(state, [*old, rollback])
        else:
            again(state, [*old, *new, rollback])
