"""Tiny tables and an empty DuckDB."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ibis.backends.duckdb import Backend

from tasks.events.datasets import SetKind
from tasks.events.landing import Landing, land
from tasks.events.periods import PeriodRule, TimeCuts
from tasks.events.raw_events import RawEvents, contract_catalogue, contract_events, items_of
from tasks.events.warehouse import arrow_table, connect

JUNE = TimeCuts(
    select=datetime(2024, 6, 10, tzinfo=UTC),
    gate=datetime(2024, 6, 20, tzinfo=UTC),
    canary=datetime(2024, 6, 25, tzinfo=UTC),
)
AS_OF = datetime(2024, 7, 1, tzinfo=UTC)


def table_in(duck: Backend, name: str, **columns: list[Any]) -> ir.Table:
    return arrow_table(duck, name, pa.table(columns))


@pytest.fixture
def duck(tmp_path: Path) -> Backend:
    return connect(tmp_path / "duckdb")


@pytest.fixture
def table(duck: Backend) -> Callable[..., ir.Table]:
    """Make an Ibis table of columns."""

    def make(name: str = "raw", **columns: list[Any]) -> ir.Table:
        return table_in(duck, name, **columns)

    return make


@pytest.fixture
def landed(tmp_path):
    """Land events given as (user, item, day or None, basket, price) and return rows and profile."""

    def run(
        events: list[tuple[Any, ...]],
        *,
        rule: PeriodRule = JUNE,
        order_only: bool = False,
        catalogue: dict[str, list[Any]] | None = None,
        folder: str = "out",
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
        duck = connect(tmp_path / f"duckdb-{folder}")
        users, items, days, baskets, prices = (list(column) for column in zip(*events, strict=True))
        times = [None if day is None else datetime.fromisoformat(f"2024-{day}") for day in days]
        raw = table_in(
            duck,
            "raw",
            user_id=users,
            item_id=items,
            event_type=["purchase"] * len(events),
            timestamp=pa.array(times, pa.timestamp("us")),
            basket_id=pa.array(baskets, pa.string()),
            price=pa.array(prices, pa.float64()),
            arrival=pa.array(range(len(events)), pa.int64()),
        )
        contract = contract_events(raw)
        known = (
            contract_catalogue(table_in(duck, "items", **catalogue))
            if catalogue
            else items_of(contract)
        )
        out = tmp_path / folder
        out.mkdir()
        landing = Landing(
            dataset="events",
            kind=SetKind(repeats_allowed=True, order_only=order_only),
            periods=rule,
            as_of=AS_OF,
            sources=(),
        )
        profile = land(
            duck, RawEvents(events=contract, catalogue=known, rows_read=len(events)), landing, out
        )
        read = {
            name: pq.read_table(out / f"{name}.parquet").to_pylist()
            for name in ("events", "catalogue")
        }
        return read["events"], read["catalogue"], profile

    return run
