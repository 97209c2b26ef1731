"""Bake a traffic step: wait, without a worker, until its time is over or its replay is used up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from headrace_airflow.deployment import Deployment
from headrace_airflow.sealed_store import SealedStore
from tasks.contracts.artifacts import Address
from tasks.contracts.bake import used_up_path
from tasks.contracts.json_types import parse_object
from tasks.contracts.requests import ReleaseRequest, parse_utc

POLL_SECONDS = 0.5
RENEWALS_PER_LEASE = 3


@dataclass(frozen=True, kw_only=True)
class Bake:
    """One bake: when it ends at the latest, what ends it earlier, whose lease it renews."""

    until: str  # ISO 8601 UTC
    used_up: str  # a file that exists once the step's share of the replay has been asked
    renewal: tuple[str, ...]  # command that renews the candidate's lease
    lease_seconds: float

    @property
    def deadline(self) -> datetime:
        """Return the latest end."""
        return parse_utc(self.until)


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
    )


def renewal_command(deployment: Deployment, release: ReleaseRequest) -> tuple[str, ...]:
    """Return the command that renews the lease of a release once."""
    return (
        str(deployment.python),
        *("-m", "tasks.rollout.renew_lease"),
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
        bake = plan_bake(release, self.step, str(step.get("started_at")), self.deployment)
        self.log.info("step %s bakes until %s or %s", self.step, bake.until, bake.used_up)
        return self.defer(trigger=BakeTrigger(**asdict(bake)), method_name="baked")

    def baked(self, context: Any, event: dict[str, Any]) -> str:
        """Say why the bake ended."""
        del context
        self.log.info("%s", event["sentence"])
        if event["failed"]:
            raise AirflowException(event["sentence"])
        return str(event["sentence"])


class BakeTrigger(BaseTrigger):
    """Fire when the time is over or the replay is used up; renew the lease until then."""

    def __init__(
        self, *, until: str, used_up: str, renewal: tuple[str, ...], lease_seconds: float
    ) -> None:
        super().__init__()
        self.bake = Bake(
            until=until, used_up=used_up, renewal=tuple(renewal), lease_seconds=lease_seconds
        )

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer needs to make this trigger again."""
        values = asdict(self.bake) | {"renewal": list(self.bake.renewal)}
        return f"{BakeTrigger.__module__}.{BakeTrigger.__qualname__}", values

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait; a lease that cannot be renewed lapses by itself, so it only ends the bake."""
        failed, sentence = await _wait(self.bake)
        yield TriggerEvent({"failed": failed, "sentence": sentence})


async def _wait(bake: Bake) -> tuple[bool, str]:
    loop = asyncio.get_running_loop()
    pause = bake.lease_seconds / RENEWALS_PER_LEASE
    renew_at = loop.time()
    while datetime.now(tz=UTC) < bake.deadline:
        if Path(bake.used_up).exists():  # noqa: ASYNC240  one stat of a local file
            return False, "baked: the replay of this step is used up"
        if loop.time() >= renew_at:
            end = await renewed(bake.renewal)
            if end.exit_code != 0:
                return True, f"the bake ended early: {end.sentence}"
            renew_at = loop.time() + pause
        await asyncio.sleep(POLL_SECONDS)
    return False, f"baked until {bake.until}"


@dataclass(frozen=True, kw_only=True)
class RenewalEnd:
    """How one renewal ended: exit code and what it said."""

    exit_code: int
    sentence: str


async def renewed(renewal: tuple[str, ...]) -> RenewalEnd:
    """Renew the lease once, in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    process = await asyncio.create_subprocess_exec(
        *renewal,
        env=kept,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    sentence = said.decode(errors="replace").strip()[-500:]
    code = process.returncode or 0
    return RenewalEnd(exit_code=code, sentence=sentence or f"exit code {code}")
