"""Taobao UserBehavior: views, carts, favourites and purchases of nine days, CSV without a header.

Columns user, item, category, behaviour (pv | cart | fav | buy), unix seconds. A category is a
number without a name; there are no titles, brands or prices.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ibis.backends.duckdb import Backend

from tasks.contracts.columns import EventType
from tasks.events.mapped_events import read_mapped, read_table
from tasks.events.mapping import CsvRule, EventsMapping
from tasks.events.periods import TimeCuts
from tasks.events.raw_events import RawEvents
from tasks.events.timestamps import TimestampRule

# Six days and some hours, then one day each: days end at midnight in China, 16:00 UTC.
PERIODS = TimeCuts(
    select=datetime(2017, 11, 30, 16, tzinfo=UTC),
    gate=datetime(2017, 12, 1, 16, tzinfo=UTC),
    canary=datetime(2017, 12, 2, 16, tzinfo=UTC),
)
MAPPING = EventsMapping(
    columns={
        "user_id": "user",
        "item_id": "item",
        "event_type": "behaviour",
        "timestamp": "second",
    },
    event_types={
        "pv": EventType.VIEW,
        "cart": EventType.CART,
        "fav": EventType.FAVOURITE,
        "buy": EventType.PURCHASE,
    },
    timestamp=TimestampRule(unit="s"),
    csv=CsvRule(names=("user", "item", "category", "behaviour", "second")),
    periods=PERIODS,
)


def read_taobao(connection: Backend, paths: Sequence[Path]) -> RawEvents:
    """Read the events; the catalogue is each item with its category's number."""
    raw = read_table(connection, paths, MAPPING.csv)
    catalogue = raw.select(item_id=raw.item, category=raw.category).distinct()
    return read_mapped(raw, catalogue, MAPPING, paths[0].name)
