"""While a person decides, keep the candidate's share alive: renew its lease beside the approval."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from headrace_airflow.approval import LONGEST_WAIT
from headrace_airflow.bake import (
    RENEWALS_PER_LEASE,
    renewal_command,
    renewed,
    silent_for_long,
)
from headrace_airflow.deployment import Deployment
from headrace_airflow.rollout_record import record_place, record_text
from headrace_airflow.sealed_store import SealedStore
from tasks.contracts.bake import rollout_now_of
from tasks.contracts.requests import parse_utc

POLL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Whose lease is renewed, how long at most, and the record that tells when it is over."""

    until: str  # ISO 8601 UTC
    state: str  # place of the model's state record; it changes when the release is decided
    renewal: tuple[str, ...]
    lease_seconds: float
    release_id: str


@dataclass(frozen=True, kw_only=True)
class HoldEnd:
    """Why the renewals ended; a cut leaves nothing to approve."""

    sentence: str
    cut: bool = False


class HoldShareOperator(BaseOperator):
    """Renew the lease until the release is promoted or rolled back; fails only when it is cut or stays silent.

    Then the rollback follows at once, though nobody has answered yet: Airflow cannot take the
    question back, and a late approval finds no release in progress. Without Airflow nobody renews: the share then lapses by itself, and so it should.
    """

    ui_color = "#fdf3e1"

    def __init__(self, *, release: str, deployment: Deployment, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.release = release
        self.deployment = deployment

    def execute(self, context: Any) -> str:
        """Hand the renewals to the triggerer, or skip where no approval was asked for."""
        store = SealedStore(url=self.deployment.store_url)
        release = store.release_request(str(context["ti"].xcom_pull(task_ids=self.release)))
        if not release.approval:
            raise AirflowSkipException("no approval was asked for: promotion follows at once")
        hold = Hold(
            until=(datetime.now(tz=UTC) + LONGEST_WAIT).isoformat(),
            state=record_place(self.deployment, release.model),
            renewal=renewal_command(self.deployment, release),
            lease_seconds=release.plan.lease_seconds,
            release_id=release.release_id,
        )
        return self.defer(trigger=HoldShareTrigger(**asdict(hold)), method_name="held")

    def held(self, context: Any, event: dict[str, Any]) -> str:
        """Say why the renewals ended."""
        del context
        if event["cut"]:
            raise AirflowFailException(event["sentence"])
        self.log.info("%s", event["sentence"])
        return str(event["sentence"])


class HoldShareTrigger(BaseTrigger):
    """Renew three times a lease, and at once when the state record changes."""

    def __init__(
        self,
        *,
        until: str,
        state: str,
        renewal: tuple[str, ...],
        lease_seconds: float,
        release_id: str = "",  # of a trigger that an earlier version made: it sees no cut
    ) -> None:
        super().__init__()
        self.hold = Hold(
            until=until,
            state=state,
            renewal=tuple(renewal),
            lease_seconds=lease_seconds,
            release_id=release_id,
        )

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer needs to make this trigger again."""
        values = asdict(self.hold) | {"renewal": list(self.hold.renewal)}
        return f"{HoldShareTrigger.__module__}.{HoldShareTrigger.__qualname__}", values

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Renew until the release was cut or has ended, or the longest wait is over."""
        yield TriggerEvent(asdict(await _hold(self.hold)))


async def _hold(hold: Hold) -> HoldEnd:
    loop = asyncio.get_running_loop()
    pause = hold.lease_seconds / RENEWALS_PER_LEASE
    deadline = parse_utc(hold.until)
    renew_at, seen = loop.time(), await record_text(hold.state)
    while datetime.now(tz=UTC) < deadline:
        text = await record_text(hold.state)
        now = None if text is None else rollout_now_of(text, hold.state)
        ours = now is not None and now.release_id == hold.release_id
        if now is not None and ours and (now.refused or silent_for_long(now)):
            return HoldEnd(sentence=f"nothing is left to approve: {now.last_words}", cut=True)
        if loop.time() >= renew_at or text != seen:
            end = await renewed(hold.renewal)
            if end.refused:  # promoted or rolled back: nothing to hold
                return HoldEnd(sentence=f"the share is no longer held: {end.sentence}")
            # Any other failure may pass; if it does not, the lease lapses and users meet stable.
            renew_at = loop.time() + end.next_after(pause)
            seen = await record_text(hold.state)
        await asyncio.sleep(POLL_SECONDS)
    return HoldEnd(sentence=f"held until {hold.until}, the longest wait for an approval")
