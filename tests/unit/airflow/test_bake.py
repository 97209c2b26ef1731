from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from headrace_airflow import bake as module
from headrace_airflow.bake import (
    Bake,
    BakeOperator,
    BakeTrigger,
    as_values,
    plan_bake,
    read_bake,
    renewed,
)

from tasks.contracts.bake import RolloutNow
from tasks.contracts.requests import ReleaseRequest, parse_utc, plan_named
from tasks.contracts.stages import Stage
from tasks.rollout.phases import Decision, Phase
from tasks.rollout.record import Colour
from tasks.rollout.state import ModelState, Note, open_state

RELEASE = ReleaseRequest(
    release_id="r7",
    model="recommender",
    dataset="ml-1m",
    as_of="2026-01-31T00:00:00Z",
    recipe="markov",
    compression="int8",
    plan=plan_named("replay"),
)


def bake(tmp_path: Path, seconds: float, renewal: str = "pass", lease: float = 600) -> Bake:
    return Bake(
        state=str(tmp_path / "shop" / "state.json"),
        release_id="second",
        step=1,
        until=(datetime.now(tz=UTC) + timedelta(seconds=seconds)).isoformat(),
        used_up=str(tmp_path / "used-up"),
        renewal=(sys.executable, "-c", renewal),
        lease_seconds=lease,
    )


async def _first_event(trigger: BakeTrigger) -> dict[str, Any]:
    async for event in trigger.run():
        return dict(event.payload)
    raise AssertionError("the trigger ended without an event")


def fire(asked: Bake) -> tuple[dict[str, Any], float]:
    started = time.monotonic()
    event = asyncio.run(_first_event(BakeTrigger(**asdict(asked))))
    return event, time.monotonic() - started


@pytest.fixture
def state(tmp_path: Path) -> ModelState:
    made = open_state(tmp_path, "shop")
    made.reserve_slot("first")
    made.promote("first")
    made.reserve_slot("second")
    made.begin_step("second", 1, RELEASE.plan, per_try_timeout_ms=50)
    return made


def test_a_bake_counts_from_the_ledgers_time(deployment: Any) -> None:
    planned = plan_bake(RELEASE, 3, "2026-11-24T01:00:00+00:00", deployment)
    assert planned.until == "2026-11-24T01:10:00+00:00"  # the third step bakes 600 s
    traffic = deployment.state_dir / "recommender" / "traffic"
    assert planned.used_up == str(traffic / "replayed-r7-step-3")


@pytest.mark.usefixtures("state")
def test_a_bake_ends_in_time(tmp_path: Path) -> None:
    event, seconds = fire(bake(tmp_path, 1))
    assert event["kind"] == "baked"
    assert 0.9 <= seconds < 5


@pytest.mark.usefixtures("state")
def test_a_bake_whose_time_is_over_ends_at_once(tmp_path: Path) -> None:
    assert fire(bake(tmp_path, -60))[1] < 0.5


@pytest.mark.usefixtures("state")
def test_a_bake_ends_when_the_replay_is_used_up(tmp_path: Path) -> None:
    (tmp_path / "used-up").touch()
    event, seconds = fire(bake(tmp_path, 60))
    assert "used up" in event["sentence"]
    assert seconds < 5


@pytest.mark.usefixtures("state")
def test_the_lease_is_renewed_while_it_bakes(tmp_path: Path) -> None:
    renewals = tmp_path / "renewals"
    fire(bake(tmp_path, 3, f"open({str(renewals)!r}, 'a').write('x')", lease=1.5))
    assert 2 <= len(renewals.read_text()) <= 6  # at once and every half second, polled


@pytest.mark.usefixtures("state")
def test_a_refused_renewal_ends_the_bake_as_failed(tmp_path: Path) -> None:
    event, _ = fire(bake(tmp_path, 60, "print('no such release'); raise SystemExit(4)"))
    assert event["kind"] == "failed"
    assert "no such release" in event["sentence"]


def failing_once(tmp_path: Path) -> str:
    """Return a renewal that crashes the first time; each leaves a letter."""
    log = str(tmp_path / "renewals")
    return f"open({log!r}, 'a').write('x'); raise SystemExit(1 if len(open({log!r}).read()) < 2 else 0)"


@pytest.mark.usefixtures("state")
def test_a_renewal_that_crashes_is_tried_again_and_the_bake_goes_on(tmp_path: Path) -> None:
    event, _ = fire(bake(tmp_path, 3, failing_once(tmp_path), lease=1.5))
    assert event["kind"] == "baked"
    assert len((tmp_path / "renewals").read_text()) >= 2


@pytest.mark.usefixtures("state")
def test_a_bake_does_not_end_while_nobody_knows_whether_its_share_lapsed(tmp_path: Path) -> None:
    event, seconds = fire(bake(tmp_path, 0.5, failing_once(tmp_path), lease=6))
    assert event["kind"] == "baked"
    assert seconds > 2  # until the second renewal, after the planned end


def test_a_process_that_cannot_be_started_ends_no_wait(tmp_path: Path, state: ModelState) -> None:
    nowhere = replace(bake(tmp_path, 60), renewal=("/nonexistent/python",))
    event, _ = meanwhile(nowhere, lambda: state.cut("second", 1, numbers={}))
    assert event["kind"] == "cut"
    state.roll_back("second")
    state.reserve_slot("third")
    state.begin_step("third", 1, RELEASE.plan, per_try_timeout_ms=50)
    state.lapse("third", state.peek().lease.renewals)
    lapsed = replace(nowhere, release_id="third", left_seconds=30.0)
    event, _ = meanwhile(lapsed, lambda: state.resume("third", note=PERSON))
    assert event["kind"] == "goes on"


def test_a_renewal_that_hangs_is_ended_and_has_failed(tmp_path: Path) -> None:
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    began = time.monotonic()
    end = asyncio.run(renewed((sys.executable, "-c", code), seconds=1.5))
    assert time.monotonic() - began < 10
    assert (end.exit_code, end.sentence) == (1, "the renewal did not end within 1.5 s")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_trigger_is_made_again_from_what_it_serializes(tmp_path: Path) -> None:
    asked = bake(tmp_path, 60)
    for one in (asked, replace(asked, left_seconds=7.5)):
        path, values = BakeTrigger(**asdict(one)).serialize()
        assert path == "headrace_airflow.bake.BakeTrigger"
        assert BakeTrigger(**json.loads(json.dumps(values))).bake == one


# What a state record says while a step bakes


def meanwhile(asked: Bake, act: Callable[[], object]) -> tuple[dict[str, Any], float]:
    """Fire, and do something when the wait has begun; return the seconds after that."""
    timer = threading.Timer(0.6, act)
    timer.start()
    event, seconds = fire(asked)
    timer.join()
    return event, seconds - 0.6


def test_what_lapsed_while_no_keeper_and_no_airflow_lived_has_not_baked(
    tmp_path: Path, state: ModelState
) -> None:
    """Both come back after the planned end: Envoy refused the candidate since the lease ran out."""
    open_state(tmp_path, "shop", clock=lambda: time.time() - 50).renew("second", 20)
    planned = bake(tmp_path, -5)  # it would have ended 25 s after the lease
    event, _ = fire(planned)
    assert event["kind"] == "paused"
    assert "met by nobody since its lease ran out" in event["sentence"]
    assert event["then"]["left_seconds"] == pytest.approx(25, abs=1)
    waiting = read_bake(event["then"])
    renew = ("-m", "tasks.cli.renew_lease")
    words = (sys.executable, *renew, str(tmp_path), "shop", "second", "600")
    event, _ = fire(replace(waiting, renewal=words))
    assert event["kind"] == "goes on"
    assert state.peek().lease.expires_at > time.time() + 500
    left = parse_utc(event["then"]["until"]) - datetime.now(tz=UTC)
    assert left.total_seconds() == pytest.approx(25, abs=2)


def away(monkeypatch: pytest.MonkeyPatch, is_away: Callable[[int], bool]) -> None:
    """Have the record unreadable at the looks, counted from 1, that `is_away` says."""
    real, looks = module.read_now, itertools.count(1)

    async def read(place: str) -> RolloutNow | None:
        return None if is_away(next(looks)) else await real(place)

    monkeypatch.setattr(module, "read_now", read)


def ran_out(tmp_path: Path) -> None:
    """Leave a lease that ran out 30 s ago, which no keeper has seen."""
    open_state(tmp_path, "shop", clock=lambda: time.time() - 50).renew("second", 20)


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize("seconds", (-5, 20))
def test_what_lapsed_is_waited_to_be_seen_before_the_lease_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """The API comes back a little later than the triggerer does, before or after the planned end."""
    ran_out(tmp_path)
    away(monkeypatch, lambda look: look == 1)
    asked = bake(tmp_path, seconds, renewing(tmp_path))
    event, _ = fire(asked)
    assert event["kind"] == "paused"
    assert event["then"]["left_seconds"] == pytest.approx(30 + seconds, abs=2)


@pytest.mark.usefixtures("state")
def test_a_lapse_that_its_own_renewal_hides_has_not_baked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API was away for longer than the lease, and the renewal was the first to reach it."""
    open_state(tmp_path, "shop").renew("second", 1.5)
    held = open_state(tmp_path, "shop").peek().lease.expires_at
    away(monkeypatch, lambda look: 2 < look <= 9)
    flag = str(tmp_path / "came-back")
    late = f"import os; came = os.path.exists({flag!r}); open({flag!r}, 'w'); came or exit(1)"
    monkeypatch.setattr(module, "LONGEST_RETRY_SECONDS", 3.0)
    asked = bake(tmp_path, 12, f"{late}\n{renewing(tmp_path)}", lease=9)
    event, _ = fire(asked)
    assert event["kind"] == "paused"
    assert "met by nobody from" in event["sentence"]
    unbaked = asked.deadline.timestamp() - held
    assert event["then"]["left_seconds"] == pytest.approx(unbaked, abs=0.01)


def test_a_bake_whose_record_cannot_be_read_renews_all_the_same_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_RETRY_SECONDS", 1.0)
    renewals = tmp_path / "renewals"
    event, seconds = fire(bake(tmp_path, 3, f"open({str(renewals)!r}, 'a').write('x')"))
    assert (event["kind"], renewals.read_text()) == ("baked", "x")
    assert seconds < 5


PERSON = Note(who="person ann", why="I saw something")


def test_a_cut_ends_the_bake_within_seconds_and_the_judge_has_the_last_word(
    tmp_path: Path, state: ModelState
) -> None:
    note = Note(who="keeper", why="errors: 9 of 10")
    event, seconds = meanwhile(
        bake(tmp_path, 60), lambda: state.cut("second", 1, numbers={}, note=note)
    )
    assert (event["kind"], event["then"]) == ("cut", None)
    assert "cut by keeper" in event["sentence"]
    assert "errors: 9 of 10" in event["sentence"]
    assert seconds < 3
    assert baked(event) == event["sentence"]  # green: the judge refuses


def test_a_release_that_a_person_took_out_ends_the_bake_for_good(
    tmp_path: Path, state: ModelState
) -> None:
    event, seconds = meanwhile(bake(tmp_path, 60), lambda: state.roll_back("second", note=PERSON))
    assert seconds < 3
    with pytest.raises(AirflowFailException, match="rolled_back by person ann .* saw something"):
        baked(event)


def test_a_pause_stops_the_bakes_time_until_a_person_resumes(
    tmp_path: Path, state: ModelState
) -> None:
    asked = bake(tmp_path, 60)
    event, seconds = meanwhile(asked, lambda: state.pause("second", note=PERSON))
    assert event["kind"] == "paused"
    assert "paused by person ann" in event["sentence"]
    assert seconds < 3
    waiting = deferred(event)
    paused_at = parse_utc(state.history()[-1].at)
    unbaked = (asked.deadline - paused_at).total_seconds()
    assert waiting.left_seconds == pytest.approx(unbaked, abs=0.01)
    event, seconds = meanwhile(waiting, lambda: state.resume("second", note=PERSON))
    assert event["kind"] == "goes on"
    assert seconds < 3
    rest = deferred(event)
    assert rest.left_seconds is None
    left = (rest.deadline - datetime.now(tz=UTC)).total_seconds()
    assert unbaked - 5 < left <= unbaked  # not what the pause has lasted


def test_nobody_but_a_person_ends_a_persons_pause(tmp_path: Path, state: ModelState) -> None:
    state.pause("second", note=PERSON)
    waiting = replace(bake(tmp_path, 3, renewing(tmp_path), lease=1), left_seconds=30.0)
    event, seconds = fire(waiting)
    assert seconds > 2
    assert state.peek().status.phase is Phase.PAUSED
    with pytest.raises(AirflowFailException, match="still paused"):  # after the longest pause
        baked(event)


def test_what_a_lapse_paused_goes_on_by_itself_and_the_gap_is_no_bake(
    tmp_path: Path, state: ModelState
) -> None:
    state.lapse("second", state.peek().lease.renewals)
    event, _ = fire(bake(tmp_path, 60, renewing(tmp_path)))
    assert event["kind"] == "paused"
    waiting = deferred(event)
    assert waiting.left_seconds == pytest.approx(60, abs=1)
    event, seconds = fire(waiting)
    assert event["kind"] == "goes on"
    assert seconds < 5
    assert state.peek().status.phase is Phase.STEPPING


def test_a_pause_that_nobody_saw_has_baked_nothing(tmp_path: Path, state: ModelState) -> None:
    """The triggerer was dead from before the pause until after the planned end."""
    state.pause("second", note=PERSON)
    time.sleep(1)
    asked = bake(tmp_path, -0.2)
    event, _ = fire(asked)
    assert event["kind"] == "paused"
    unbaked = (asked.deadline - parse_utc(state.history()[-1].at)).total_seconds()
    assert deferred(event).left_seconds == pytest.approx(unbaked, abs=0.01)
    assert unbaked > 0.7


def test_a_candidate_whose_slot_stays_silent_is_not_waited_for_as_long_as_a_person(
    tmp_path: Path, state: ModelState
) -> None:
    clock = [time.time() - 14 * 60]
    state = replace(state, clock=lambda: clock[0])
    state.look({Colour.GREEN}, note=Note(who="keeper"))
    waiting = replace(bake(tmp_path, 1), left_seconds=30.0)
    began = time.monotonic()
    assert fire(waiting)[0]["kind"] == "lost"  # only because its own time was over:
    assert time.monotonic() - began > 0.9
    clock[0] = time.time() - 16 * 60
    state.look(set())
    state.resume("second")
    state.look({Colour.GREEN}, note=Note(who="keeper"))
    event, seconds = fire(replace(waiting, until=bake(tmp_path, 60).until))
    assert (event["kind"], seconds < 3) == ("lost", True)


def test_a_cut_and_a_rollback_also_end_the_wait_for_a_paused_step(
    tmp_path: Path, state: ModelState
) -> None:
    state.pause("second", note=PERSON)
    waiting = replace(bake(tmp_path, 60), left_seconds=30.0)
    assert meanwhile(waiting, lambda: state.cut("second", 1, numbers={}))[0]["kind"] == "cut"
    state.roll_back("second", note=PERSON)
    assert fire(waiting)[0]["kind"] == "lost"


def test_a_bake_that_is_cleared_after_promotion_fails_nothing(
    tmp_path: Path, state: ModelState
) -> None:
    plan = RELEASE.plan
    for step, said in enumerate((Decision.PROCEED, Decision.PROCEED, Decision.SHIP), start=1):
        state.begin_step("second", step, plan, per_try_timeout_ms=50)
        state.record_verdict("second", step, said, numbers={})
        event, _ = fire(replace(bake(tmp_path, 1), step=1))
        assert event["kind"] == "baked"
    state.promote("second")
    event, seconds = fire(bake(tmp_path, 60))
    assert event["kind"] == "baked"
    assert "promoted" in event["sentence"]
    assert seconds < 1


def renewing(tmp_path: Path) -> str:
    main = "from tasks.rollout.renew_lease import main"
    return f"{main}; raise SystemExit(main([{str(tmp_path)!r}, 'shop', 'second', '60']))"


def operator() -> BakeOperator:
    made = BakeOperator(task_id="bake", step=1, shift="s", release="r", deployment=None)
    assert isinstance(made, BakeOperator)
    return made


def baked(event: dict[str, Any]) -> str:
    return operator().baked({"task_state_store": StateStore()}, event)


class StateStore(dict[str, Any]):
    """Airflow's task state store: it outlives the tries."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


def test_a_try_after_a_pause_bakes_what_is_left_and_another_step_all_of_it(
    tmp_path: Path, deployment: Any, sealer: Any, task_instance: Any
) -> None:
    def tried(address: str) -> Bake:
        task_instance.pulled = {"r": release, "s": address}
        made = BakeOperator(task_id="bake", step=1, shift="s", release="r", deployment=deployment)
        with pytest.raises(TaskDeferred) as found:
            made.execute({"ti": task_instance, "task_state_store": store})
        return BakeTrigger(**found.value.trigger.serialize()[1]).bake

    def shifted(at: str) -> str:
        files = {"step.json": json.dumps({"started_at": at})}
        return str(sealer.seal(Stage.SHIFT_TRAFFIC, files, {"at": at}).address)

    store = StateStore()
    sealed = sealer.seal(Stage.REQUEST_RELEASE, {"request.json": RELEASE.to_text()})
    release = str(sealed.address)
    first = shifted("2026-11-24T01:00:00Z")
    planned = tried(first)
    paused = replace(planned, left_seconds=240.0, until="2099-01-01T00:00:00+00:00")
    event = {"kind": "paused", "sentence": "paused", "then": as_values(paused)}
    with pytest.raises(TaskDeferred):
        operator().baked({"task_state_store": store}, event)
    assert tried(first) == paused
    assert tried(shifted("2026-11-25T01:00:00Z")).left_seconds is None


def deferred(event: dict[str, Any]) -> Bake:
    """Return the bake that the operator goes on with."""
    with pytest.raises(TaskDeferred) as found:
        baked(event)
    assert found.value.method_name == "baked"
    trigger = found.value.trigger
    assert isinstance(trigger, BakeTrigger)
    return trigger.bake


def test_the_longest_bake_may_be_cut(deployment: Any) -> None:
    short = replace(RELEASE, plan=plan_named("replay", bake_seconds=5))
    planned = plan_bake(short, 1, "2026-11-24T01:00:00Z", deployment)
    assert planned.until == "2026-11-24T01:00:05+00:00"


@pytest.mark.parametrize("started", ("None", "yesterday"))
def test_a_step_without_a_time_is_refused(deployment: Any, started: str) -> None:
    with pytest.raises(Exception, match="ISO 8601"):
        plan_bake(RELEASE, 1, started, deployment)
