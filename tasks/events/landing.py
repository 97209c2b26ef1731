"""From raw events to `events.parquet`, `catalogue.parquet` and `profile.json`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from tasks.contracts.columns import CatalogueColumn, EventColumn, Period
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, pretty_json
from tasks.events.datasets import SetKind
from tasks.events.periods import PeriodRule, resolve, with_periods
from tasks.events.profile import profile_events
from tasks.events.raw_events import (
    CATALOGUE_SCHEMA,
    EVENTS_SCHEMA,
    RawEvents,
    with_positions,
    with_steps,
)
from tasks.events.sources import SourceBytes
from tasks.events.warehouse import write_parquet

EVENTS_FILE = "events.parquet"
CATALOGUE_FILE = "catalogue.parquet"
PROFILE_FILE = "profile.json"


@dataclass(frozen=True, kw_only=True)
class Landing:
    """What has to be known to land raw events."""

    dataset: str
    kind: SetKind
    periods: PeriodRule
    as_of: datetime
    sources: tuple[SourceBytes, ...]


def land(connection: Backend, raw: RawEvents, landing: Landing, out: Path) -> dict[str, Json]:
    """Write the payload of validated events below `out` and return the profile."""
    rule = resolve(landing.periods, raw.events, landing.as_of)
    steps = with_periods(with_steps(raw.events, order_only=landing.kind.order_only), rule)
    placed = with_positions(steps, order_only=landing.kind.order_only)
    events = connection.create_table("landed_events", placed, temp=True)
    ordered = events.order_by([EventColumn.USER_ID, EventColumn.POSITION])
    rows = write_parquet(connection, ordered, EVENTS_SCHEMA, out / EVENTS_FILE)
    if rows == 0:
        message = (
            f"data set {landing.dataset}: expected events, found none in {raw.rows_read} rows read"
        )
        raise BadRequestError(message)
    catalogue = _priced(raw.catalogue, events)
    items = write_parquet(connection, catalogue, CATALOGUE_SCHEMA, out / CATALOGUE_FILE)
    profile: dict[str, Json] = {
        "format": "events_profile/1",
        "dataset": landing.dataset,
        "order_only": landing.kind.order_only,
        "repeats_allowed": landing.kind.repeats_allowed,
        "sources": [source.to_json() for source in landing.sources],
        "period_rule": rule.to_json(),
        "rows_read": raw.rows_read,
        "rejected": [rejection.to_json() for rejection in raw.rejected],
        "catalogue_items": items,
        **profile_events(events, order_only=landing.kind.order_only),
    }
    (out / PROFILE_FILE).write_text(pretty_json(profile), encoding="utf-8")
    return profile


def _priced(catalogue: ir.Table, events: ir.Table) -> ir.Table:
    """Fill an unknown price with the median paid in the train period: later prices are not known."""
    train = events.filter(events.period == Period.TRAIN.label)
    paid = train.group_by(paid_item_id=train.item_id).aggregate(paid=train.price.median().round(2))
    joined = catalogue.left_join(paid, catalogue.item_id == paid.paid_item_id)
    priced = joined.mutate(price=ibis.coalesce(joined.price, joined.paid))
    names = [column.value for column in CatalogueColumn]
    return priced.select(names).order_by(names)
