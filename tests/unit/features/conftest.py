"""Validated events on disk, as small as a hand can follow."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

START = datetime(2024, 6, 1, tzinfo=UTC)
# user, item, position, basket, period; a day per position
BASKETS = [
    ("ann", "milk", 0, "a1", "train"),
    ("ann", "bread", 1, "a1", "train"),
    ("ann", "milk", 2, "a2", "train"),
    ("ann", "soap", 3, "a2", "train"),
    ("ann", "tea", 4, "a3", "gate"),
    ("ann", "milk", 5, "a3", "gate"),
    ("bob", "bread", 0, "b1", "train"),
    ("bob", "milk", 1, "b2", "select"),
    ("bob", "milk", 2, "b2", "select"),
    ("cid", "tea", 0, "c1", "canary"),
]


@pytest.fixture
def events_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a payload of validated events and return its folder."""

    def write(
        events: list[tuple[Any, ...]] = BASKETS,
        *,
        order_only: bool = False,
        catalogue: list[dict[str, Any]] | None = None,
        dataset: str = "events",
        paid: list[float | None] | None = None,
        later: timedelta = timedelta(0),
    ) -> Path:
        folder = tmp_path / "events"
        folder.mkdir()
        users, items, positions, baskets, periods = map(list, zip(*events, strict=True))
        times = [
            None if order_only else START + later + timedelta(days=place) for place in positions
        ]
        table = {
            "user_id": users,
            "item_id": items,
            "event_type": ["purchase"] * len(events),
            "timestamp": pa.array(times, pa.timestamp("us", tz="UTC")),
            "position": positions,
            "basket_id": pa.array(baskets, pa.string()),
            "price": pa.array(paid or [None] * len(events), pa.float64()),
            "period": periods,
        }
        pq.write_table(pa.table(table), folder / "events.parquet")
        known = catalogue or [{"item_id": "milk", "title": "Milk, 1 l", "price": 0.99}]
        schema = pa.schema(
            [(name, pa.string()) for name in ("item_id", "title", "category", "brand")]
        )
        schema = schema.append(pa.field("price", pa.float64()))
        pq.write_table(pa.Table.from_pylist(known, schema=schema), folder / "catalogue.parquet")
        profile = {
            "format": "events_profile/1",
            "dataset": dataset,
            "repeats_allowed": True,
            "baskets": any(baskets),
            "order_only": order_only,
        }
        (folder / "profile.json").write_text(json.dumps(profile), encoding="utf-8")
        return folder

    return write
