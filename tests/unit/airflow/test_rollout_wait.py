"""A person's pause and a silent slot pass: the next step and the promotion wait for that."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from headrace_airflow.local_stage_operator import LocalStageOperator
from headrace_airflow.pod_stage_operator import StageOperator
from headrace_airflow.rollout_wait import (
    RolloutWait,
    RolloutWaitTrigger,
    WaitsFor,
    wait_before,
    waits_for,
)
from headrace_airflow.stage_call import StageCall

from tasks.contracts.bake import rollout_now_of
from tasks.contracts.errors import BadRequestError, NotYetError
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.requests import ReleaseRequest, plan_named
from tasks.contracts.stages import Stage
from tasks.rollout.phases import Decision
from tasks.rollout.record import Colour
from tasks.rollout.state import ModelState, Note, open_state
from tests.unit.airflow.pod_world import World

RELEASE = ReleaseRequest(
    release_id="second",
    model="shop",
    dataset="ml-1m",
    as_of="2026-01-31T00:00:00Z",
    recipe="markov",
    compression="int8",
    plan=plan_named("replay"),
)
PERSON = Note(who="person ann", why="a look")
BLUE, GREEN = Colour.BLUE, Colour.GREEN  # stable's slot and the candidate's


@pytest.fixture
def state(deployment: Any) -> ModelState:
    """Return a model whose candidate has been given its slot, but no users."""
    made = open_state(deployment.state_dir, "shop")
    made.reserve_slot("first")
    made.promote("first")
    made.reserve_slot("second")
    return made


@pytest.fixture
def release(sealer: Any) -> str:
    sealed = sealer.seal(Stage.REQUEST_RELEASE, {"request.json": RELEASE.to_text()})
    return str(sealed.address)


def shipped(state: ModelState) -> None:
    for step, said in enumerate((Decision.PROCEED, Decision.PROCEED, Decision.SHIP), start=1):
        begin(state, step)
        state.record_verdict("second", step, said, numbers={})


def begin(state: ModelState, step: int) -> None:
    state.begin_step("second", step, RELEASE.plan, per_try_timeout_ms=50)


def asked(deployment: Any, stage: Stage, release_id: str = "second") -> RolloutWait:
    return RolloutWait(
        stage=stage.value,
        release_id=release_id,
        state=str(deployment.state_dir / "shop" / "state.json"),
        until=(datetime.now(tz=UTC) + timedelta(seconds=60)).isoformat(),
        silence_seconds=60,
    )


def awaited(deployment: Any, stage: Stage, release_id: str = "second") -> WaitsFor | None:
    wait = asked(deployment, stage, release_id)
    now = rollout_now_of(Path(wait.state).read_bytes(), wait.state)
    assert now is not None
    return waits_for(wait, now)


def test_a_promotion_waits_for_a_person_and_for_the_candidates_slot(
    deployment: Any, state: ModelState
) -> None:
    shipped(state)
    assert awaited(deployment, Stage.PROMOTE_RELEASE) is None
    state.pause("second", note=PERSON)
    assert awaited(deployment, Stage.PROMOTE_RELEASE) is WaitsFor.RESUME
    assert awaited(deployment, Stage.PROMOTE_RELEASE, "first") is None  # not in progress
    state.resume("second", note=PERSON)
    state.look({GREEN})
    assert awaited(deployment, Stage.PROMOTE_RELEASE) is WaitsFor.SLOT
    state.look(set())
    assert awaited(deployment, Stage.PROMOTE_RELEASE) is None
    state.promote("second")
    assert awaited(deployment, Stage.PROMOTE_RELEASE) is None


def test_a_halted_release_may_be_promoted_but_takes_no_step(
    deployment: Any, state: ModelState
) -> None:
    shipped(state)
    state.look({BLUE})
    assert awaited(deployment, Stage.PROMOTE_RELEASE) is None
    assert awaited(deployment, Stage.SHIFT_TRAFFIC) is WaitsFor.STABLE


def test_a_step_waits_for_either_slot_and_not_for_a_person(
    deployment: Any, state: ModelState
) -> None:
    for silent in (BLUE, GREEN):
        state.look({silent})
        assert awaited(deployment, Stage.SHIFT_TRAFFIC) is WaitsFor.SLOT
    state.look(set())
    begin(state, 1)
    state.pause("second", note=PERSON)
    assert awaited(deployment, Stage.SHIFT_TRAFFIC) is None  # it begins paused


def test_what_was_cut_does_not_wait(deployment: Any, state: ModelState) -> None:
    begin(state, 1)
    state.cut("second", 1, numbers={})
    state.look({GREEN})
    assert awaited(deployment, Stage.SHIFT_TRAFFIC) is None
    assert awaited(deployment, Stage.PROMOTE_RELEASE) is None


def test_other_stages_and_a_record_that_is_not_there_wait_for_nothing(
    deployment: Any, release: str
) -> None:
    assert wait_before(Stage.PROMOTE_RELEASE, release, deployment) is None
    assert wait_before(Stage.JUDGE_STEP, release, deployment) is None


def test_a_wait_is_as_long_as_a_bakes(deployment: Any, state: ModelState, release: str) -> None:
    state.look({GREEN})
    wait = wait_before(Stage.SHIFT_TRAFFIC, release, deployment)
    assert wait is not None
    assert wait.silence_seconds == 15 * 60
    left = datetime.fromisoformat(wait.until) - datetime.now(tz=UTC)
    assert timedelta(days=7) - timedelta(minutes=1) < left <= timedelta(days=7)


# The trigger


async def _first_event(trigger: RolloutWaitTrigger) -> dict[str, Any]:
    async for event in trigger.run():
        return dict(event.payload)
    raise AssertionError("the trigger ended without an event")


def fire(wait: RolloutWait) -> dict[str, Any]:
    path, values = RolloutWaitTrigger(**asdict(wait)).serialize()
    assert path == "headrace_airflow.rollout_wait.RolloutWaitTrigger"
    return asyncio.run(_first_event(RolloutWaitTrigger(**json.loads(json.dumps(values)))))


def meanwhile(wait: RolloutWait, act: Callable[[], object]) -> dict[str, Any]:
    timer = threading.Timer(0.5, act)
    timer.start()
    event = fire(wait)
    timer.join()
    return event


def test_a_wait_ends_when_a_person_resumes_or_the_release_ends(
    deployment: Any, state: ModelState
) -> None:
    shipped(state)
    wait = asked(deployment, Stage.PROMOTE_RELEASE)
    for act in (state.resume, state.roll_back):
        state.pause("second", note=PERSON)
        began = time.monotonic()
        assert meanwhile(wait, lambda act=act: act("second", note=PERSON)) == {"lost": None}
        assert 0.4 < time.monotonic() - began < 10


def test_a_slot_that_stays_silent_and_a_pause_that_never_ends_are_lost(
    deployment: Any, state: ModelState
) -> None:
    state.look({GREEN})
    wait = asked(deployment, Stage.SHIFT_TRAFFIC)
    began = time.monotonic()
    lost = fire(replace(wait, silence_seconds=0.5))["lost"]
    assert time.monotonic() - began < 10
    assert "shift_traffic no longer waits for release second: a slot does not answer" in lost
    state.look(set())
    shipped(state)
    state.pause("second", note=PERSON)
    soon = (datetime.now(tz=UTC) + timedelta(seconds=1.5)).isoformat()
    lost = fire(replace(asked(deployment, Stage.PROMOTE_RELEASE), until=soon, silence_seconds=0))
    assert "a person paused it" in lost["lost"]


# The operators


def local(deployment: Any, tmp_path: Path) -> LocalStageOperator:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o700)
    call = StageCall(stage=Stage.PROMOTE_RELEASE, release="request_release")
    return LocalStageOperator(
        call=call, deployment=replace(deployment, python=python), task_id="promote_release"
    )


def test_on_one_machine_the_stage_begins_only_after_the_wait(
    deployment: Any, tmp_path: Path, state: ModelState, release: str, task_instance: Any
) -> None:
    shipped(state)
    state.pause("second", note=PERSON)
    task_instance.pulled = {"request_release": release}
    context, operator = {"ti": task_instance}, local(deployment, tmp_path)
    with pytest.raises(TaskDeferred) as found:
        operator.execute(context)
    assert found.value.method_name == "after_wait"
    assert isinstance(found.value.trigger, RolloutWaitTrigger)
    with pytest.raises(TaskDeferred):  # paused anew just then
        operator.after_wait(context, {"lost": None})
    with pytest.raises(AirflowFailException, match="no longer waits"):
        operator.after_wait(context, {"lost": "promote_release no longer waits"})
    state.resume("second", note=PERSON)
    with pytest.raises(AirflowException, match="crashed with exit code 1"):  # it ran
        operator.after_wait(context, {"lost": None})


def test_on_a_cluster_no_pod_is_made_before_the_wait_is_over(
    world: World, state: ModelState, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped(state)
    state.pause("second", note=PERSON)
    monkeypatch.setattr(world.ti, "xcom_pull", lambda task_ids: release)
    operator: StageOperator = world.operator(call={"release": "request_release"})
    with pytest.raises(TaskDeferred) as found:
        operator.execute(world.context)
    assert found.value.method_name == "after_wait"
    assert world.fake.pods == {}
    with pytest.raises(AirflowFailException, match="no longer waits"):
        operator.after_wait(world.context, {"lost": "promote_release no longer waits"})


# What comes between the wait and the stage


def test_a_refusal_that_may_pass_is_tried_again_and_any_other_is_not(state: ModelState) -> None:
    state.look({BLUE})
    with pytest.raises(NotYetError, match="stable's slot does not answer") as step:
        begin(state, 1)
    state.look(set())
    with pytest.raises(BadRequestError, match="verdict ship") as early:
        state.promote("second")
    shipped(state)
    state.pause("second", note=PERSON)
    with pytest.raises(NotYetError, match="resume it first") as paused:
        state.promote("second")
    codes = [found.value.exit_code for found in (step, early, paused)]
    assert codes == [ExitCode.CRASHED, ExitCode.BAD_REQUEST, ExitCode.CRASHED]
