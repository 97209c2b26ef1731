"""Which items a model knows: decided by the train period alone."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from tasks.contracts.columns import Period
from tasks.contracts.errors import BadRequestError
from tasks.features.event_log import EventLog
from tasks.features.settings import FeatureSettings

COVERAGE_MIN_COUNTS = (1, 2, 3, 5, 10, 20, 50)

ITEMS_SCHEMA = pa.schema(
    [
        pa.field("item_index", pa.int32()),
        pa.field("item_id", pa.string()),
        pa.field("title", pa.string()),
        pa.field("category", pa.string()),
        pa.field("brand", pa.string()),
        pa.field("price", pa.float64()),
        pa.field("train_count", pa.int64()),
    ]
)
USERS_SCHEMA = pa.schema([pa.field("user_index", pa.int32()), pa.field("user_id", pa.string())])


def train_counts(events: ir.Table) -> ir.Table:
    """Return item_id and train_count of every item seen in train."""
    train = events.filter(events.period == Period.TRAIN.label)
    return train.group_by("item_id").aggregate(train_count=train.count())


def build_vocabulary(connection: Backend, log: EventLog, settings: FeatureSettings) -> pa.Table:
    """Return the items a model knows, most frequent first: index 1 is the most popular."""
    counts = train_counts(log.events)
    known = counts.filter(counts.train_count >= settings.min_count)
    chosen = known.order_by([ibis.desc("train_count"), "item_id"]).limit(settings.max_items)
    described = chosen.left_join(log.catalogue, "item_id")
    table = described.order_by([ibis.desc("train_count"), "item_id"]).select(
        item_index=0,
        item_id=described.item_id,
        title=ibis.coalesce(described.title, described.item_id),
        category=described.category,
        brand=described.brand,
        price=described.price,
        train_count=described.train_count,
    )
    items = connection.to_pyarrow(table)
    _demand_vocabulary(items, settings)
    numbers = pa.array(range(1, len(items) + 1), pa.int32())
    return items.set_column(0, "item_index", numbers).cast(ITEMS_SCHEMA)


def build_users(connection: Backend, events: ir.Table) -> pa.Table:
    """Return users by id, numbered from 0."""
    users = connection.to_pyarrow(events.select("user_id").distinct().order_by("user_id"))
    numbers = pa.array(range(len(users)), pa.int32())
    return users.add_column(0, "user_index", numbers).cast(USERS_SCHEMA)


def coverage_by_min_count(connection: Backend, events: ir.Table) -> list[dict[str, float]]:
    """Return, for a few values of min_count, the items known and the share of later events."""
    counts = train_counts(events)
    later = events.filter(events.period != Period.TRAIN.label).left_join(counts, "item_id")
    seen = later.train_count.fill_null(0)
    covered = {f"m{least}": (seen >= least).sum() for least in COVERAGE_MIN_COUNTS}
    known = {f"m{least}": (counts.train_count >= least).sum() for least in COVERAGE_MIN_COUNTS}
    rows = connection.to_pyarrow(later.aggregate(rows=later.count(), **covered)).to_pylist()[0]
    items = connection.to_pyarrow(counts.aggregate(**known)).to_pylist()[0]
    return [
        {
            "min_count": least,
            "items": int(items[f"m{least}"] or 0),
            "coverage": round(int(rows[f"m{least}"] or 0) / max(1, rows["rows"]), 6),
        }
        for least in COVERAGE_MIN_COUNTS
    ]


def _demand_vocabulary(items: pa.Table, settings: FeatureSettings) -> None:
    if len(items) == 0:
        message = (
            f"vocabulary: expected items seen at least {settings.min_count} times in the train "
            "period, found none; next step: lower min_count or check the period cuts"
        )
        raise BadRequestError(message)
    ids = items.column("item_id").unique()
    if len(ids) != len(items):
        message = (
            f"catalogue: expected each item once, found {len(items) - len(ids)} rows too many; "
            "next step: make item_id unique in the catalogue"
        )
        raise BadRequestError(message)
