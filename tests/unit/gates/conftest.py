from __future__ import annotations

import json
import random
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.contracts.requests import PLANS, ReleaseRequest
from tasks.contracts.stages import ArtifactKind
from tasks.gates.checks import Payload
from tasks.gates.run_gate import run_gate

ADDRESS = "a" * 64
EVENT_TYPES = {
    "timestamp": pa.timestamp("us", tz="UTC"),
    "position": pa.int64(),
    "price": pa.float64(),
}
EVENT_COLUMNS = [
    "user_id",
    "item_id",
    "event_type",
    "timestamp",
    "position",
    "basket_id",
    "session_id",
    "query",
    "variant",
    "price",
    "period",
]
CATALOGUE_COLUMNS = ["item_id", "title", "category", "brand", "price"]


def write_table(frame: pd.DataFrame, path: Path, types: dict[str, pa.DataType]) -> None:
    fields = [pa.field(name, types.get(name, pa.string())) for name in frame]
    pq.write_table(pa.Table.from_pandas(frame, pa.schema(fields), preserve_index=False), path)


@pytest.fixture
def judge(tmp_path):
    """Run the gate of `kind` on the payload in tmp_path and return its report."""

    def run(kind: ArtifactKind, bounds, compared=None, folder: Path = tmp_path):
        payload = Payload(path=folder, compared=compared or {})
        return run_gate(kind, bounds, payload, artifact=f"{kind.value}/{ADDRESS}", content="b" * 64)

    return run


@pytest.fixture
def shop() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Thirty days of 40 users who each day buy four items of one category, out of five."""
    draw = random.Random(1)
    start = pd.Timestamp("2026-01-01T06:00:00Z")
    rows = [
        {
            "user_id": f"u{user:02}",
            "item_id": f"i{category}{item}",
            "event_type": "purchase",
            "timestamp": start + pd.Timedelta(days=day, minutes=user),
            "basket_id": f"b{day:02}-{user:02}",
            "price": 1.0 + category + item / 10,
            "period": "train"
            if day < 18
            else "select"
            if day < 22
            else "gate"
            if day < 26
            else "canary",
        }
        for user in range(40)
        for day in range(30)
        for category in [draw.randrange(5)]
        for item in draw.sample(range(20), 4)
    ]
    events = pd.DataFrame(rows)
    events["position"] = events.groupby("user_id").cumcount()
    for empty in ("session_id", "query", "variant"):
        events[empty] = None
    catalogue = pd.DataFrame(
        [
            {
                "item_id": f"i{category}{item}",
                "title": f"Thing {category}{item}",
                "category": f"Aisle {category}",
                "brand": None,
                "price": 1.0 + category,
            }
            for category in range(5)
            for item in range(20)
        ]
    )
    return events[EVENT_COLUMNS], catalogue[CATALOGUE_COLUMNS]


@pytest.fixture
def write_events(tmp_path):
    """Write a payload of validated events."""

    def write(events, catalogue, folder: Path = tmp_path, types=None, **profile) -> Path:
        folder.mkdir(exist_ok=True)
        write_table(events, folder / "events.parquet", {**EVENT_TYPES, **(types or {})})
        write_table(catalogue, folder / "catalogue.parquet", {"price": pa.float64()})
        record = {
            "format": "events_profile/1",
            "order_only": False,
            "repeats_allowed": True,
            "baskets": True,
            "rows_read": len(events),
            "rejected": [],
            **profile,
        }
        (folder / "profile.json").write_text(json.dumps(record))
        return folder

    return write


@pytest.fixture
def release() -> ReleaseRequest:
    return ReleaseRequest(
        release_id="r-1",
        model="recommender",
        dataset="complete-journey",
        as_of="2018-01-02T00:00:00Z",
        recipe="blended_transformer",
        compression="int8",
        plan=PLANS["replay"],
    )
