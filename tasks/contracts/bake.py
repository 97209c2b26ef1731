"""Files of the state folder that both sides look at while a step bakes or a person decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import parse_object

STATE_FILE = "state.json"


def used_up_path(state_dir: Path, model: str, release_id: str, step: int) -> Path:
    """Return the file that exists once the step's share of the replay was asked and has landed."""
    return state_dir / model / "traffic" / f"replayed-{release_id}-step-{step}"


def state_path(state_dir: Path, model: str) -> Path:
    """Return a model's state record; it is replaced at every change."""
    return state_dir / model / STATE_FILE


@dataclass(frozen=True, kw_only=True)
class RolloutNow:
    """What a bake needs to know of a state record; names of phases are `tasks.rollout.phases`'s."""

    release_id: str | None
    promoted: frozenset[str]  # releases that serve, or did until the last promotion
    phase: str
    step: int | None
    paused_by: str | None
    verdict: str | None  # on the step in progress
    last_kind: str  # of the ledger's newest entry: how it came to this
    last_at: str
    last_words: str
    silent: frozenset[str] = frozenset()  # roles whose slot did not answer: stable, candidate
    lease_expires_at: float = 0.0  # unix time; 0 where no lease runs
    lease_seconds: float = 0.0  # as last renewed

    @property
    def waits(self) -> bool:
        """Return whether the step neither goes on nor has ended."""
        return self.phase in {"paused", "halted"}

    def lapsed_unseen(self, now: datetime) -> datetime | None:
        """Return when a step's lease ran out that no keeper has paused yet: none is alive, say.

        Envoy's routes refuse the candidate from then on, so the step has not baked since.
        """
        at = datetime.fromtimestamp(self.lease_expires_at, tz=UTC)
        return at if self.phase == "stepping" and self.lease_expires_at and at < now else None

    def renewed_after(self, held_until: float) -> bool:
        """Return whether the lease that ended at `held_until` (unix time) was renewed too late."""
        return self.lease_expires_at - self.lease_seconds > held_until

    @property
    def refused(self) -> bool:
        """Return whether the step in progress was cut or judged unfavourably."""
        return self.verdict in {"roll_back", "keep_champion"}


def rollout_now_of(text: bytes, where: str) -> RolloutNow | None:
    """Read the text of a state record; None where it is not whole."""
    try:
        record: Any = parse_object(text, where)
        status: Mapping[str, Any] = record["status"]
        last: Mapping[str, Any] = record["entries"][-1]
        step = status["step"]
        roles: Mapping[str, Any] = record["roles"]
        lease: Mapping[str, Any] = record.get("lease", {})
        served = [roles[role] for role in ("stable", "previous")]
        unready = record.get("unready", ())
        return RolloutNow(
            release_id=record["release_id"],
            promoted=frozenset(record["slots"][one]["release_id"] for one in served if one),
            phase=str(status["phase"]),
            step=step,
            paused_by=status.get("paused_by"),
            verdict=status["verdicts"].get(str(step)),
            last_kind=str(last["kind"]),
            last_at=str(last["at"]),
            last_words=f"{last['kind']} by {last['who']} at {last['at']}: {last['why']}",
            silent=frozenset(
                role for role in ("stable", "candidate") if roles.get(role) in unready
            ),
            lease_expires_at=float(lease.get("expires_at", 0.0)),
            lease_seconds=float(lease.get("seconds", 0.0)),
        )
    except (BadRequestError, LookupError, TypeError, ValueError, AttributeError):
        return None
