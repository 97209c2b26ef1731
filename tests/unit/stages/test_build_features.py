"""The stage that makes features, after the stage that lands events."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.contracts.artifacts import Manifest
from tasks.contracts.requests import ReleaseRequest, plan_named
from tasks.contracts.stage_io import StageContext, StageInput
from tasks.models.interactions import Interactions
from tasks.stages import build_features, ingest_events

FIRST = datetime(2024, 6, 1, tzinfo=UTC)


def events_file(folder: Path) -> Path:
    """Three users buy a, b, c, a, b, ... one a day."""
    rows = [(user, "abc"[(day + user) % 3], day) for user in range(3) for day in range(30)]
    table = {
        "user_id": [str(user) for user, _, _ in rows],
        "item_id": [item for _, item, _ in rows],
        "event_type": ["purchase"] * len(rows),
        "timestamp": [FIRST + timedelta(days=day) for _, _, day in rows],
    }
    pq.write_table(pa.table(table), folder / "events.parquet")
    return folder / "events.parquet"


@pytest.fixture
def release(tmp_path: Path) -> ReleaseRequest:
    return ReleaseRequest(
        release_id="r1",
        model="recommender-events",
        dataset="events",
        as_of="2024-07-01T00:00:00Z",
        recipe="popularity",
        compression="none",
        plan=plan_named("replay"),
        events_url=str(events_file(tmp_path)),
    )


@pytest.fixture
def validated(tmp_path: Path, release: ReleaseRequest) -> Path:
    context = context_of(tmp_path, "validated", {}, release)
    ingest_events.run(context)
    return context.out


def context_of(
    folder: Path, name: str, inputs: dict[str, StageInput], release: ReleaseRequest
) -> StageContext:
    out, work = folder / name, folder / f"{name}-work"
    out.mkdir()
    work.mkdir()
    return StageContext(
        inputs=inputs,
        out=out,
        work=work,
        progress=lambda _sentence, _fraction: None,
        store_url="file:///nowhere",
        release=release,
    )


def reading(validated: Path) -> dict[str, StageInput]:
    manifest = cast("Manifest", None)  # the runner checks manifests; this stage reads the payload
    return {"events": StageInput(address="validated_events/x", manifest=manifest, path=validated)}


def test_features_are_made_of_landed_events(tmp_path, validated, release):
    context = context_of(tmp_path, "features", reading(validated), release)
    assert build_features.configure(context) == {
        "min_count": 2,
        "max_items": 200_000,
        "category_depth": 2,
        "max_labels": 200,
        "prior_events": 20.0,
    }
    outcome = build_features.run(context)
    assert outcome.sentence == "3 items, 3 users, 90 interactions in 90 steps"
    known = Interactions.load(tmp_path / "features" / "interactions.npz")
    assert sorted(known.item_ids.tolist()) == ["a", "b", "c"]
    profile = json.loads((tmp_path / "features" / "profile.json").read_text("utf-8"))
    # 29 days, a tenth each: cuts 8.7, 5.8 and 2.9 days before the last event of day 29.
    steps = {name: period["steps"] for name, period in profile["periods"].items()}
    assert steps == {"train": 63, "select": 9, "gate": 9, "canary": 9}
    cuts = [
        (profile["periods"][name]["min_time"], profile["periods"][name]["max_time"])
        for name in ("train", "select", "gate", "canary")
    ]
    assert cuts == [
        ("2024-06-01T00:00:00Z", "2024-06-21T00:00:00Z"),
        ("2024-06-22T00:00:00Z", "2024-06-24T00:00:00Z"),
        ("2024-06-25T00:00:00Z", "2024-06-27T00:00:00Z"),
        ("2024-06-28T00:00:00Z", "2024-06-30T00:00:00Z"),
    ]
    items = pq.read_table(tmp_path / "features" / "items.parquet")
    assert items.column("item_index").to_pylist() == [1, 2, 3]
    assert items.column("item_id").to_pylist() == known.item_ids.tolist()
    users = pq.read_table(tmp_path / "features" / "users.parquet")
    assert users.column("user_id").to_pylist() == known.user_ids.tolist()


def test_two_runs_write_the_same_bytes(tmp_path, validated, release):
    for name in ("one", "two"):
        build_features.run(context_of(tmp_path, name, reading(validated), release))
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == [
        "interactions.npz",
        "items.parquet",
        "profile.json",
        "profile_definition.npz",
        "users.parquet",
    ]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
