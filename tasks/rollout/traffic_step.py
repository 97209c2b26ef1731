"""A traffic step as an artifact: `step.json` (`traffic_step/1`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

from tasks.contracts.catalogues import HIT
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import check_format, parse_object, pretty_json
from tasks.contracts.requests import TrafficPlan, plan_from_record
from tasks.rollout.ledger import LedgerEntry
from tasks.rollout.observation import StepFacts
from tasks.rollout.record import StateRecord
from tasks.rollout.routes import MIN_PER_TRY_TIMEOUT_MS

TRY_FACTOR = 3.0
MAX_PER_TRY_TIMEOUT_MS = 1000.0


@dataclass(frozen=True, kw_only=True)
class TrafficStepBegun:
    """Which share a candidate got, in which slot, since which ledger entry."""

    model: str
    release_id: str
    rollout: str
    salt: str
    step: int  # 1 is the first
    steps: int
    share_basis_points: int
    percent: float
    candidate_colour: str
    candidate_release_number: int
    stable_colour: str
    stable_release_number: int
    per_try_timeout_ms: float
    sequence: int
    started_at: str  # ISO 8601 UTC, from the ledger
    plan: TrafficPlan
    outcome: str = HIT

    def to_text(self) -> str:
        """Return `step.json` as text."""
        return pretty_json({"format": "traffic_step/1", **asdict(self)})

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> TrafficStepBegun:
        """Read a step; errors name `where`."""
        record = parse_object(text, where)
        check_format(record, "traffic_step", 1, where)
        raw = cast("dict[str, Any]", {k: v for k, v in record.items() if k != "format"})
        try:
            return cls(**{**raw, "plan": plan_from_record(raw["plan"], where)})
        except (KeyError, TypeError) as error:
            message = f"{where}: expected a complete traffic_step/1, found: {error!r}"
            raise BadRequestError(message) from error

    def facts(self) -> StepFacts:
        """Return what the judge needs to know."""
        return StepFacts(
            model=self.model,
            release_id=self.release_id,
            rollout=self.rollout,
            salt=self.salt,
            step=self.step,
            candidate_colour=self.candidate_colour,
            per_try_timeout_ms=self.per_try_timeout_ms,
            plan=self.plan,
            outcome=self.outcome,
        )


def step_begun(
    record: StateRecord, entry: LedgerEntry, plan: TrafficPlan, outcome: str = HIT
) -> TrafficStepBegun:
    """Describe a step from the state record and the ledger entry with which it began."""
    candidate, stable = record.candidate, record.stable
    roles = record.roles
    if candidate is None or stable is None or entry.step is None:
        message = (
            f"{record.model}: expected a candidate and a stable release in step {entry.step}, "
            f"found roles {roles}; was the release rolled back meanwhile?"
        )
        raise BadRequestError(message)
    return TrafficStepBegun(
        model=record.model,
        release_id=candidate.release_id,
        rollout=f"r{candidate.release_number}",
        salt=str(entry.details["salt"]),
        step=entry.step,
        steps=len(plan.steps),
        share_basis_points=entry.share,
        percent=entry.share / 100,
        candidate_colour=str(roles.candidate),
        candidate_release_number=candidate.release_number,
        stable_colour=str(roles.stable),
        stable_release_number=stable.release_number,
        per_try_timeout_ms=float(cast("float", entry.details["per_try_timeout_ms"])),
        sequence=entry.sequence,
        started_at=entry.at,
        plan=plan,
        outcome=outcome,
    )


def per_try_timeout_ms(plan: TrafficPlan, stable_p99_ms: float | None) -> float:
    """Return how long the candidate may take before stable is asked beside it.

    Three times stable's p99 (DESIGN.md), or three times the p95 that the plan accepts: this limit
    is for slots that hang, the judge's is for slots that are slow. Never so long that users feel
    it, unless the plan accepts that.
    """
    accepted = TRY_FACTOR * plan.min_latency_bound_ms
    measured = 0.0 if stable_p99_ms is None else round(TRY_FACTOR * stable_p99_ms, 1)
    longest = max(MAX_PER_TRY_TIMEOUT_MS, accepted)
    return min(max(MIN_PER_TRY_TIMEOUT_MS, accepted, measured), longest)
