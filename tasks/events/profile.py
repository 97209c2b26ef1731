"""Counts of landed events that a gate, and the next run, can compare (`events_profile/1`)."""

from __future__ import annotations

from typing import Any

import ibis
import ibis.expr.types as ir

from tasks.contracts.columns import PERIODS, EventColumn
from tasks.contracts.json_types import Json
from tasks.events.periods import iso_utc
from tasks.events.warehouse import single_row


def profile_events(events: ir.Table, *, order_only: bool) -> dict[str, Json]:
    """Return counts in all, per period, event type and day, of nulls and of duplicates.

    Wants the landed columns and `step_at`.
    """
    by_period = {row["period"]: row for row in _rows(_counts(events, ["period"]), "period")}
    whole = _rows(_counts(events, []), None)[0]
    return {
        **_summary(whole),
        "baskets": bool(whole["baskets"]),
        "duplicates": _duplicates(events, order_only=order_only),
        "nulls": _nulls(events),
        "event_types": _by_value(events, events.event_type),
        "days": {} if order_only else _by_value(events, events.timestamp.strftime("%Y-%m-%d")),
        "periods": {name: _summary(by_period[name]) for name in PERIODS if name in by_period},
    }


def _counts(events: ir.Table, keys: list[str]) -> ir.Table:
    step = ibis.ifelse(
        events.basket_id.isnull(),
        ibis.literal("position ") + events.position.cast("string"),
        ibis.literal("basket ") + events.basket_id,
    )
    events = events.mutate(step=ibis.struct({"user": events.user_id, "step": step}))
    return events.aggregate(
        by=keys,
        events=events.count(),
        users=events.user_id.nunique(),
        items=events.item_id.nunique(),
        steps=events.step.nunique(),
        baskets=events.basket_id.count(),
        min_time=events.timestamp.min(),
        max_time=events.timestamp.max(),
    )


def _rows(table: ir.Table, order: str | None) -> list[dict[str, Any]]:
    ordered = table if order is None else table.order_by(order)
    rows: list[dict[str, Any]] = ordered.to_pyarrow().to_pylist()
    return rows


def _summary(row: dict[str, Any]) -> dict[str, Json]:
    counts: dict[str, Json] = {name: row[name] for name in ("events", "users", "items", "steps")}
    times = {name: row[name] for name in ("min_time", "max_time")}
    return {**counts, **{name: None if at is None else iso_utc(at) for name, at in times.items()}}


def _by_value(events: ir.Table, column: ir.StringColumn) -> dict[str, Json]:
    counts = events.filter(column.notnull()).group_by(value=column)
    rows = _rows(counts.aggregate(rows=lambda kept: kept.count()), "value")
    return {row["value"]: row["rows"] for row in rows}


def _nulls(events: ir.Table) -> dict[str, Json]:
    names = [name for name in EventColumn if name in events.columns]
    row = single_row(
        events.aggregate(**{name.value: events[name].isnull().sum() for name in names})
    )
    return {name: int(count) for name, count in row.items()}


def _duplicates(events: ir.Table, *, order_only: bool) -> int:
    """Return rows that repeat another one in all that tells events apart."""
    keys = ["user_id", "item_id", "event_type"]
    keys += [] if order_only else ["timestamp", "basket_id", "session_id"]
    once = events.select(keys).distinct()
    rows = single_row(events.aggregate(rows=events.count()))["rows"]
    return int(rows - single_row(once.aggregate(rows=once.count()))["rows"])
