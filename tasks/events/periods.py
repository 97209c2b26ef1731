"""Four disjoint periods, train < select < gate < canary, by time or by place in the sequence."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import ibis
import ibis.expr.types as ir

from tasks.contracts.columns import Period
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json
from tasks.events.warehouse import single_row, timestamp_literal


@dataclass(frozen=True, kw_only=True)
class TimeCuts:
    """Each period starts at its cut and ends at the next; train comes before all cuts."""

    select: datetime
    gate: datetime
    canary: datetime

    def __post_init__(self) -> None:
        """Refuse cuts out of order or without a zone."""
        cuts = (self.select, self.gate, self.canary)
        zoned = all(cut.tzinfo is not None for cut in cuts)
        if not zoned or not self.select < self.gate < self.canary:
            message = (
                "periods: expected select < gate < canary, times with a zone, "
                f"found {[cut.isoformat() for cut in cuts]}"
            )
            raise BadRequestError(message)

    def to_json(self) -> dict[str, Json]:
        """Return the resolved rule as a record."""
        cuts = {"select": self.select, "gate": self.gate, "canary": self.canary}
        return {"rule": "cuts", **{name: iso_utc(cut) for name, cut in cuts.items()}}


@dataclass(frozen=True, kw_only=True)
class SpanShares:
    """Shares of the span from the first event to the last one that is not in the future."""

    select: float = 0.1
    gate: float = 0.1
    canary: float = 0.1

    def __post_init__(self) -> None:
        """Refuse shares that leave nothing to train on."""
        shares = (self.select, self.gate, self.canary)
        if min(shares) <= 0 or sum(shares) >= 1:
            message = f"periods: expected shares above 0 and below 1 in sum, found {shares}"
            raise BadRequestError(message)

    def to_json(self) -> dict[str, Json]:
        """Return the rule as a record."""
        shares = {"select": self.select, "gate": self.gate, "canary": self.canary}
        return {"rule": "shares", **shares}


@dataclass(frozen=True, kw_only=True)
class LastSteps:
    """The last step of each user is canary, the one before it gate, the one before that select."""

    def to_json(self) -> dict[str, Json]:
        """Return the rule as a record."""
        return {"rule": "last_steps"}


PeriodRule: TypeAlias = TimeCuts | SpanShares | LastSteps
ResolvedRule: TypeAlias = TimeCuts | LastSteps


def iso_utc(moment: datetime) -> str:
    """Return ISO 8601 ending in Z; a time without a zone is in UTC."""
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return zoned.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def resolve(rule: PeriodRule, events: ir.Table, as_of: datetime) -> ResolvedRule:
    """Turn shares of the span into times, floored to the second; other rules stand as they are."""
    if not isinstance(rule, SpanShares):
        return rule
    past = events.filter(events.timestamp <= timestamp_literal(as_of))
    row = single_row(past.aggregate(first=past.timestamp.min(), last=past.timestamp.max()))
    return cuts_of_span(rule, row["first"], row["last"], as_of)


def cuts_of_span(
    rule: SpanShares, first: datetime | None, last: datetime | None, as_of: datetime
) -> TimeCuts:
    """Cut the span [first, last], both in UTC; refuse a span too short to be cut."""
    if first is None or last is None or last - first < timedelta(seconds=100):
        message = (
            f"periods: expected events over at least 100 s before as_of {iso_utc(as_of)}, "
            f"found first {first}, last {last}; next step: check as_of and the timestamp unit"
        )
        raise BadRequestError(message)
    start, span = first.replace(tzinfo=UTC), last - first

    def cut(share_after: float) -> datetime:
        return (start + span * (1 - share_after)).replace(microsecond=0)

    return TimeCuts(
        select=cut(rule.select + rule.gate + rule.canary),
        gate=cut(rule.gate + rule.canary),
        canary=cut(rule.canary),
    )


def with_periods(steps: ir.Table, rule: ResolvedRule) -> ir.Table:
    """Add `period`; a step never straddles two periods, a step without a time has none.

    Wants the columns `user_id`, `step_at` (time or place of the step) and `basket_id`.
    """
    if isinstance(rule, LastSteps):
        window = ibis.window(
            group_by=steps.user_id, order_by=[ibis.desc(steps.step_at), ibis.desc(steps.basket_id)]
        )
        from_end = ibis.dense_rank().over(window)
        labels = ((0, Period.CANARY), (1, Period.GATE), (2, Period.SELECT))
        cases = [(from_end == place, period.label) for place, period in labels]
        return steps.mutate(period=ibis.cases(*cases, else_=Period.TRAIN.label))
    starts = ((rule.canary, Period.CANARY), (rule.gate, Period.GATE), (rule.select, Period.SELECT))
    cases = [(steps.step_at.isnull(), ibis.null("string"))]
    cases += [(steps.step_at >= timestamp_literal(start), period.label) for start, period in starts]
    return steps.mutate(period=ibis.cases(*cases, else_=Period.TRAIN.label))
