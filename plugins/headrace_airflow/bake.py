"""Bake a traffic step: wait, without a worker, until its time is over or its replay is used up.

A cut ends the bake at once, and the judge says so. While the step is paused it does not bake: its
time goes on when the step does.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from headrace_airflow.deployment import Deployment
from headrace_airflow.rollout_record import read_now, record_place
from headrace_airflow.sealed_store import SealedStore
from tasks.contracts.artifacts import Address
from tasks.contracts.bake import RolloutNow, used_up_path
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.json_types import parse_object
from tasks.contracts.requests import ReleaseRequest, parse_utc

_log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
BAKE_KEY = "bake"  # in Airflow's task state store
RENEWALS_PER_LEASE = 3
LONGEST_RETRY_SECONDS = 30.0
RENEWAL_SECONDS = 60.0  # then a renewal hangs: it asks the Kubernetes API for 30 s at most
LONGEST_PAUSE = timedelta(days=7)  # then the run fails, and the release is rolled back
LONGEST_SILENCE = timedelta(minutes=15)  # of a candidate's slot: nobody wanted this pause

# Entries after which a step waits; a step that begins paused has baked nothing yet.
_PAUSES = frozenset({"paused", "halted", "step_began"})


@dataclass(frozen=True, kw_only=True)
class Bake:
    """One bake: when it ends at the latest, what ends it earlier, whose lease it renews."""

    until: str  # ISO 8601 UTC
    used_up: str  # a file that exists once the step's share of the replay has been asked
    renewal: tuple[str, ...]  # command that renews the candidate's lease
    lease_seconds: float
    state: str  # place of the model's state record: it tells of a cut, a pause or the release's end
    release_id: str
    step: int
    left_seconds: float | None = None  # of a bake that waits for its paused step

    @property
    def deadline(self) -> datetime:
        """Return the latest end."""
        return parse_utc(self.until)


class EndKind(StrEnum):
    """How a wait for a step ended."""

    BAKED = "baked"
    CUT = "cut"  # or judged unfavourably: the judge has the last word
    PAUSED = "paused"
    GOES_ON = "goes on"
    LOST = "lost"  # the release ended, or stayed paused for too long: no retry can help
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class BakeEnd:
    """The end of a wait, and the bake that follows a pause."""

    kind: EndKind
    sentence: str
    then: Bake | None = None

    def to_event(self) -> dict[str, Any]:
        """Return what the trigger hands to the operator."""
        then = None if self.then is None else as_values(self.then)
        return {"kind": self.kind.value, "sentence": self.sentence, "then": then}


def as_values(bake: Bake) -> dict[str, Any]:
    """Return a bake as the metadata database keeps it."""
    return asdict(bake) | {"renewal": list(bake.renewal)}


def read_bake(values: Mapping[str, Any]) -> Bake:
    """Return the bake that `as_values` wrote."""
    return Bake(**{**values, "renewal": tuple(values["renewal"])})


def _as_kept(context: Any, bake: Bake) -> Bake:
    """Return the bake as an earlier try of this step left it: a pause has moved its end."""
    store = context["task_state_store"]
    kept = store.get(BAKE_KEY)
    if kept is None or kept["planned"] != bake.until:  # of an earlier time that the step began
        store.set(BAKE_KEY, {"planned": bake.until, **_end_of(bake)})
        return bake
    return replace(bake, until=kept["until"], left_seconds=kept["left_seconds"])


def _keep(context: Any, bake: Bake) -> None:
    """Keep over the tries what a pause did to a bake's end."""
    store = context["task_state_store"]
    store.set(BAKE_KEY, {**(store.get(BAKE_KEY) or {}), **_end_of(bake)})


def _end_of(bake: Bake) -> dict[str, Any]:
    return {"until": bake.until, "left_seconds": bake.left_seconds}


def plan_bake(release: ReleaseRequest, step: int, started_at: str, deployment: Deployment) -> Bake:
    """Return the bake of a step; it counts from the ledger's time, so a retry is no longer."""
    seconds = release.plan.steps[step - 1].bake_seconds
    used_up = used_up_path(deployment.state_dir, release.model, release.release_id, step)
    lease = release.plan.lease_seconds
    return Bake(
        until=(parse_utc(started_at) + timedelta(seconds=seconds)).isoformat(),
        used_up=str(used_up),
        renewal=renewal_command(deployment, release),
        lease_seconds=lease,
        state=record_place(deployment, release.model),
        release_id=release.release_id,
        step=step,
    )


def renewal_command(deployment: Deployment, release: ReleaseRequest) -> tuple[str, ...]:
    """Return the command that renews the lease of a release once."""
    return (
        str(deployment.python),
        *("-m", "tasks.cli.renew_lease"),
        *(str(deployment.state_dir), release.model, release.release_id),
        str(release.plan.lease_seconds),
    )


class BakeOperator(BaseOperator):
    """Wait until a traffic step has baked."""

    ui_color = "#fdf3e1"

    def __init__(
        self, *, step: int, shift: str, release: str, deployment: Deployment, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.step = step
        self.shift = shift
        self.release = release
        self.deployment = deployment

    def execute(self, context: Any) -> str:
        """Hand the wait to the triggerer."""
        store = SealedStore(url=self.deployment.store_url)
        ti = context["ti"]
        release = store.release_request(str(ti.xcom_pull(task_ids=self.release)))
        shift = Address.parse(str(ti.xcom_pull(task_ids=self.shift)))
        step = parse_object(store.payload(shift, "step.json"), f"{shift}/step.json")
        started_at = str(step.get("started_at"))
        bake = _as_kept(context, plan_bake(release, self.step, started_at, self.deployment))
        self.log.info("step %s bakes until %s or %s", self.step, bake.until, bake.used_up)
        return self.defer(trigger=BakeTrigger(**as_values(bake)), method_name="baked")

    def baked(self, context: Any, event: dict[str, Any]) -> str:
        """Say why the wait ended; a pause is waited out, and then the rest is baked."""
        kind, sentence = EndKind(event["kind"]), str(event["sentence"])
        self.log.info("%s", sentence)
        if event["then"] is not None:
            _keep(context, read_bake(event["then"]))
            return self.defer(trigger=BakeTrigger(**event["then"]), method_name="baked")
        if kind is EndKind.LOST:
            raise AirflowFailException(sentence)
        if kind is EndKind.FAILED:
            raise AirflowException(sentence)
        return sentence


class BakeTrigger(BaseTrigger):
    """Fire when the wait for a step ends; renew the lease until then."""

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self.bake = read_bake(values)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer needs to make this trigger again."""
        return f"{BakeTrigger.__module__}.{BakeTrigger.__qualname__}", as_values(self.bake)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait; a renewal that fails is tried again, for a lease that nobody renews lapses by itself."""
        wait = _wait if self.bake.left_seconds is None else _wait_out
        yield TriggerEvent((await wait(self.bake)).to_event())


async def _wait(bake: Bake) -> BakeEnd:
    loop = asyncio.get_running_loop()
    pause = bake.lease_seconds / RENEWALS_PER_LEASE
    seen = await _first_seen(bake.state)  # a renewal would hide a lapse that nobody saw
    held_until = 0.0 if seen is None else seen.lease_expires_at
    renew_at, renewal = loop.time(), RENEWED
    while _bakes(bake, renewal):
        now = await read_now(bake.state)
        if now is not None:
            end = _interrupted(bake, now, held_until)
            if end is not None:
                return end
            held_until = now.lease_expires_at
        if Path(bake.used_up).exists():  # noqa: ASYNC240  one stat of a local file
            return _baked("the replay of this step is used up")
        if loop.time() >= renew_at:
            renewal = await renewed(bake.renewal)
            if renewal.refused:
                return await _now_interrupted(bake, held_until) or _failed(renewal)
            renew_at = loop.time() + renewal.next_after(pause)
        await asyncio.sleep(POLL_SECONDS)
    # What was paused while nobody looked here has not baked either.
    interrupted = await _now_interrupted(bake, held_until)
    return interrupted or (_failed(renewal) if renewal.exit_code else _baked(f"until {bake.until}"))


async def _first_seen(state: str) -> RolloutNow | None:
    """Return the first record that can be read; None where none can for a while."""
    loop = asyncio.get_running_loop()
    until = loop.time() + LONGEST_RETRY_SECONDS
    now = await read_now(state)
    while now is None and loop.time() < until:
        await asyncio.sleep(POLL_SECONDS)
        now = await read_now(state)
    return now


def _bakes(bake: Bake, renewal: RenewalEnd) -> bool:
    """Say whether its time goes on, or is over and nobody knows whether the share lapsed in it."""
    until = bake.deadline + LONGEST_PAUSE if renewal.exit_code else bake.deadline
    return datetime.now(tz=UTC) < until


async def _wait_out(bake: Bake) -> BakeEnd:
    """Wait until a paused step goes on; what a lapse paused goes on with a renewed lease."""
    loop = asyncio.get_running_loop()
    pause = bake.lease_seconds / RENEWALS_PER_LEASE
    renew_at = loop.time()
    while datetime.now(tz=UTC) < bake.deadline:
        now = await read_now(bake.state)
        end = None if now is None else _ended(bake, now)
        if end is not None:
            return end
        lapsed = now is not None and (now.paused_by == "lease" or _lapsed_at(now) is not None)
        if now is not None and not now.waits and not lapsed:
            return _goes_on(bake)
        if now is not None and silent_for_long(now):
            break
        if lapsed and loop.time() >= renew_at:
            await renewed(bake.renewal)  # one that fails is tried again
            renew_at = loop.time() + min(pause, LONGEST_RETRY_SECONDS)
        await asyncio.sleep(POLL_SECONDS)
    sentence = f"step {bake.step} was still paused at {datetime.now(tz=UTC).isoformat()}"
    return BakeEnd(kind=EndKind.LOST, sentence=sentence)


def silent_for_long(now: RolloutNow) -> bool:
    """Say whether the candidate's slot has not answered for longer than anybody waits for it."""
    since = datetime.now(tz=UTC) - parse_utc(now.last_at)
    return now.paused_by == "slot" and since > LONGEST_SILENCE


def _baked(why: str) -> BakeEnd:
    return BakeEnd(kind=EndKind.BAKED, sentence=f"baked: {why}")


def _failed(renewal: RenewalEnd) -> BakeEnd:
    words = f"the bake ended early: {renewal.sentence}"
    return BakeEnd(kind=EndKind.FAILED, sentence=words)


async def _now_interrupted(bake: Bake, held_until: float) -> BakeEnd | None:
    now = await read_now(bake.state)
    return None if now is None else _interrupted(bake, now, held_until)


def _interrupted(bake: Bake, now: RolloutNow, held_until: float) -> BakeEnd | None:
    end = _ended(bake, now)
    if end is not None:
        return end
    if now.waits or _lapsed_at(now) is not None:
        return _paused(bake, *_since_when(now))
    if held_until and now.renewed_after(held_until):
        since = datetime.fromtimestamp(held_until, tz=UTC)
        how = f"on again, met by nobody from {since.isoformat()} until its lease was renewed"
        return _paused(bake, since, how)
    return None


def _lapsed_at(now: RolloutNow) -> datetime | None:
    return now.lapsed_unseen(datetime.now(tz=UTC))


def _ended(bake: Bake, now: RolloutNow) -> BakeEnd | None:
    if bake.release_id in now.promoted:
        return _baked("the release was promoted since")  # this task was cleared, and runs again
    if now.release_id != bake.release_id:
        sentence = (
            f"release {bake.release_id} is no longer in progress; the ledger's last entry: "
            f"{now.last_words}"
        )
        return BakeEnd(kind=EndKind.LOST, sentence=sentence)
    if now.step is not None and now.step > bake.step:
        return _baked(f"step {now.step} has begun since")
    if now.step == bake.step and now.refused:
        sentence = f"step {bake.step} ended early, {now.last_words}"
        return BakeEnd(kind=EndKind.CUT, sentence=sentence)
    return None


def _paused(bake: Bake, since: datetime, how: str) -> BakeEnd:
    left = max(0.0, (bake.deadline - since).total_seconds())
    until = datetime.now(tz=UTC) + LONGEST_PAUSE
    sentence = (
        f"step {bake.step} is {how}; {left:.0f} s of its bake are left "
        "for when it goes on (`headrace resume`, or roll back)"
    )
    then = replace(bake, until=until.isoformat(), left_seconds=left)
    return BakeEnd(kind=EndKind.PAUSED, sentence=sentence, then=then)


def _since_when(now: RolloutNow) -> tuple[datetime, str]:
    """Return since when a step has not baked, and why."""
    lapsed = _lapsed_at(now)
    if lapsed is not None:
        return lapsed, f"met by nobody since its lease ran out at {lapsed.isoformat()}"
    since = parse_utc(now.last_at) if now.last_kind in _PAUSES else datetime.now(tz=UTC)
    return since, f"{now.phase}, {now.last_words}"


def _goes_on(bake: Bake) -> BakeEnd:
    until = datetime.now(tz=UTC) + timedelta(seconds=bake.left_seconds or 0.0)
    sentence = f"step {bake.step} goes on: {bake.left_seconds or 0.0:.0f} s of its bake are left"
    then = replace(bake, until=until.isoformat(), left_seconds=None)
    return BakeEnd(kind=EndKind.GOES_ON, sentence=sentence, then=then)


def environment_of_stages() -> dict[str, str]:
    """Return this process's environment without Airflow's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}


@dataclass(frozen=True, kw_only=True)
class RenewalEnd:
    """How one renewal ended: exit code and what it said."""

    exit_code: int
    sentence: str

    @property
    def refused(self) -> bool:
        """Return whether no renewal can help: the release is no longer in progress."""
        return self.exit_code == ExitCode.BAD_REQUEST

    def next_after(self, pause: float) -> float:
        """Return the seconds until the next renewal; one that failed is tried again soon."""
        return min(pause, LONGEST_RETRY_SECONDS) if self.exit_code else pause


RENEWED = RenewalEnd(exit_code=int(ExitCode.DONE), sentence="")


async def renewed(renewal: tuple[str, ...], *, seconds: float = RENEWAL_SECONDS) -> RenewalEnd:
    """Renew the lease once, in a process of its own; one that hangs or cannot be started failed."""
    try:
        end = await _one_renewal(renewal, seconds)
    except OSError as error:  # no process can be started just now
        end = RenewalEnd(exit_code=int(ExitCode.CRASHED), sentence=str(error))
    if end.exit_code:
        _log.warning("the lease was not renewed: %s", end.sentence)
    return end


async def _one_renewal(renewal: tuple[str, ...], seconds: float) -> RenewalEnd:
    process = await asyncio.create_subprocess_exec(
        *renewal,
        env=environment_of_stages(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), seconds)
    except TimeoutError:
        sentence = f"the renewal did not end within {seconds:g} s"
        return RenewalEnd(exit_code=int(ExitCode.CRASHED), sentence=sentence)
    finally:
        await _ended_process(process)
    sentence = said.decode(errors="replace").strip()[-500:]
    code = process.returncode or 0
    return RenewalEnd(exit_code=code, sentence=sentence or f"exit code {code}")


async def _ended_process(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
