"""Users' steps in order as integers: what `Interactions` is made from."""

from __future__ import annotations

from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from ibis.backends.duckdb import Backend
from numpy.typing import NDArray

from tasks.contracts.columns import EVENT_TYPES, PERIODS
from tasks.features.event_log import EventLog
from tasks.models.interactions import EventRows, Interactions


def build_interactions(
    connection: Backend, log: EventLog, items: pa.Table, users: pa.Table
) -> Interactions:
    """Join events with vocabulary and users and group them into steps."""
    rows = connection.to_pyarrow(_numbered(connection, log, items, users))
    column = {name: rows.column(name).to_numpy() for name in rows.column_names}
    return Interactions.from_rows(
        EventRows(
            item_ids=_texts(items, "item_id"),
            user_ids=_texts(users, "user_id"),
            user=column["user_index"],
            item=column["item_index"],
            basket=column["step_start"],
            event_type=column["kind"],
            time=column["second"],
            period=column["period"],
            repeats_allowed=log.repeats_allowed,
            baskets=log.baskets,
            order_only=log.order_only,
        )
    )


def _numbered(connection: Backend, log: EventLog, items: pa.Table, users: pa.Table) -> ir.Table:
    connection.con.register("vocabulary", items.select(["item_index", "item_id"]))
    connection.con.register("users", users)
    steps = _steps(log)
    coded = steps.left_join(connection.table("vocabulary"), "item_id")
    coded = coded.inner_join(connection.table("users"), "user_id")
    coded = coded.select(
        "user_index",
        "step_start",
        "position",
        "kind",
        "second",
        "period",
        item_index=coded.item_index.fill_null(0),
    )
    # Within a basket there is no order: by item, so that no trace of the source's order is left.
    return coded.order_by(["user_index", "step_start", "item_index", "position"])


def _steps(log: EventLog) -> ir.Table:
    events = log.events
    basket = ibis.window(group_by=[events.user_id, events.basket_id])
    start = events.position.min().over(basket)
    rows = events.select(
        "user_id",
        "item_id",
        "position",
        step_start=ibis.ifelse(events.basket_id.isnull(), events.position, start),
        kind=_place(events.event_type, EVENT_TYPES),
        second=events.position if log.order_only else _whole_seconds(events.timestamp),
        period=_place(events.period, PERIODS),
    )
    if not log.baskets:
        return rows
    keys = ["user_id", "item_id", "step_start"]
    return rows.group_by(keys).aggregate(
        position=rows.position.min(),
        kind=rows.kind.max(),
        second=rows.second.min(),
        period=rows.period.min(),
    )


def _whole_seconds(times: ir.TimestampColumn) -> ir.IntegerColumn:
    """Return seconds since 1970; DuckDB's own have fractions, which Ibis does not expect."""
    return times.truncate("s").epoch_seconds()


def _place(column: ir.StringColumn, names: tuple[str, ...]) -> ir.IntegerColumn:
    return ibis.cases(*[(column == name, place) for place, name in enumerate(names)])


def _texts(table: pa.Table, name: str) -> NDArray[Any]:
    return np.asarray(table.column(name).to_pylist(), dtype=np.str_)
