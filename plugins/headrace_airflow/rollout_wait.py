"""Wait, without a worker, until a rollout may take the next step or be promoted.

A person's pause and a silent slot pass. Without this wait the stage would be refused, and the
release rolled back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from airflow.sdk.exceptions import AirflowFailException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from headrace_airflow.bake import LONGEST_PAUSE, LONGEST_SILENCE
from headrace_airflow.deployment import Deployment
from headrace_airflow.rollout_record import read_now, record_place, text_now
from headrace_airflow.sealed_store import SealedStore
from tasks.contracts.bake import RolloutNow, rollout_now_of
from tasks.contracts.requests import parse_utc
from tasks.contracts.stages import Stage

POLL_SECONDS = 1.0


class WaitsFor(StrEnum):
    """What a rollout waits for; the words end the sentence "it waits:"."""

    RESUME = "a person paused it (`headrace resume`, or roll back)"
    STABLE = "stable's slot did not answer and the candidate takes everybody (roll back)"
    SLOT = "a slot does not answer (see its log)"


@dataclass(frozen=True, kw_only=True)
class RolloutWait:
    """Which stage waits for which release, and for how long."""

    stage: str
    release_id: str
    state: str  # place of the model's state record
    until: str  # ISO 8601 UTC
    silence_seconds: float  # how long a silent slot is waited for


def step_waits_for(now: RolloutNow) -> WaitsFor | None:
    """Return what the next step waits for; beside a person's pause it begins paused."""
    if now.phase == "halted":
        return WaitsFor.STABLE
    return WaitsFor.SLOT if now.silent else None


def promotion_waits_for(now: RolloutNow) -> WaitsFor | None:
    """Return what a promotion waits for; it also ends a halt, and needs no stable."""
    if now.paused_by == "person":
        return WaitsFor.RESUME
    return WaitsFor.SLOT if "candidate" in now.silent else None


_RULES: Mapping[Stage, Callable[[RolloutNow], WaitsFor | None]] = MappingProxyType(
    {Stage.SHIFT_TRAFFIC: step_waits_for, Stage.PROMOTE_RELEASE: promotion_waits_for}
)


def waits_for(wait: RolloutWait, now: RolloutNow) -> WaitsFor | None:
    """Return what the stage waits for; one whose release has ended or was refused is told so."""
    if now.release_id != wait.release_id or now.refused:
        return None
    return _RULES[Stage(wait.stage)](now)


def wait_before(stage: Stage, release: str | None, deployment: Deployment) -> RolloutWait | None:
    """Return the wait that a stage must begin with; none where the record cannot be read."""
    if stage not in _RULES or release is None:
        return None
    pinned = SealedStore(url=deployment.store_url).release_request(release)
    wait = RolloutWait(
        stage=stage.value,
        release_id=pinned.release_id,
        state=record_place(deployment, pinned.model),
        until=(datetime.now(tz=UTC) + LONGEST_PAUSE).isoformat(),
        silence_seconds=LONGEST_SILENCE.total_seconds(),
    )
    text = text_now(wait.state)
    now = None if text is None else rollout_now_of(text, wait.state)
    return None if now is None or waits_for(wait, now) is None else wait


def defer_for_rollout(operator: Any, release: str | None) -> None:
    """Defer an operator while its rollout waits; it goes on in its method `after_wait`."""
    wait = wait_before(operator.call.stage, release, operator.deployment)
    if wait is None:
        return
    operator.log.info("%s waits until release %s may go on", wait.stage, wait.release_id)
    operator.defer(trigger=RolloutWaitTrigger(**asdict(wait)), method_name="after_wait")


def demand_over(event: Mapping[str, Any]) -> None:
    """Fail for good where the wait was too long: the release is then rolled back."""
    if event["lost"] is not None:
        raise AirflowFailException(str(event["lost"]))


class RolloutWaitTrigger(BaseTrigger):
    """Fire when the rollout goes on or has ended, or nobody waits any longer."""

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self.wait = RolloutWait(**values)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer needs to make this trigger again."""
        path = f"{RolloutWaitTrigger.__module__}.{RolloutWaitTrigger.__qualname__}"
        return path, asdict(self.wait)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look once a second."""
        yield TriggerEvent({"lost": await _lost(self.wait)})


async def _lost(wait: RolloutWait) -> str | None:
    """Return why the wait was too long, or None where it is over."""
    silent_since: datetime | None = None
    reason: WaitsFor | None = None
    while (moment := datetime.now(tz=UTC)) < parse_utc(wait.until):
        now = await read_now(wait.state)
        reason = reason if now is None else waits_for(wait, now)
        if now is not None and reason is None:
            return None
        silent_since = (silent_since or moment) if reason is WaitsFor.SLOT else None
        longest = timedelta(seconds=wait.silence_seconds)
        if silent_since is not None and moment - silent_since > longest:
            break
        await asyncio.sleep(POLL_SECONDS)
    why = reason or "its state record cannot be read"
    return f"{wait.stage} no longer waits for release {wait.release_id}: {why}"
