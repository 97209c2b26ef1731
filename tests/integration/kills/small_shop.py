"""Events of a small shop: each day a user buys one of four habits and the next item of a round."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CATEGORIES, SHELF = 8, 12
DAYS = 60
START = datetime(2024, 3, 1, tzinfo=UTC)
AS_OF = (START + timedelta(days=DAYS)).isoformat().replace("+00:00", "Z")


def write_shop(folder: Path, users: int = 160) -> None:
    """Write `events.parquet` and `catalogue.parquet`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for user in range(users) for row in _purchases(user)]
    names = ("user_id", "item_id", "event_type", "timestamp", "basket_id", "price")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    columns["timestamp"] = pa.array(columns["timestamp"], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table(columns), folder / "events.parquet")
    items = [(kind, place) for kind in range(CATEGORIES) for place in range(SHELF)]
    catalogue = {
        "item_id": [_item(kind, place) for kind, place in items],
        "title": [f"Thing {place} of shelf {kind}" for kind, place in items],
        "category": [f"Shelf {kind}" for kind, _ in items],
        "price": [_price(kind, place) for kind, place in items],
    }
    pq.write_table(pa.table(catalogue), folder / "catalogue.parquet")


def _purchases(user: int) -> list[tuple[object, ...]]:
    draw = random.Random(f"shopper {user}")
    kind = user % CATEGORIES
    habits = draw.sample(range(SHELF), 4)
    place = draw.randrange(SHELF)
    rows: list[tuple[object, ...]] = []
    for day in range(DAYS):
        at = START + timedelta(days=day, seconds=draw.randrange(8 * 3600, 20 * 3600))
        place = (place + 1) % SHELF
        for bought in sorted({draw.choice(habits), place}):
            price = _price(kind, bought)
            basket = f"basket-{user}-{day}"
            rows.append((f"user-{user:04d}", _item(kind, bought), "purchase", at, basket, price))
    return rows


def _item(kind: int, place: int) -> str:
    return f"item-{kind}-{place:02d}"


def _price(kind: int, place: int) -> float:
    return 1.0 + kind + place / 10
