"""The real sets, from their files to features: counts that were worked out once and must stand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.contracts.artifacts import Manifest
from tasks.contracts.catalogues import DATASETS
from tasks.contracts.columns import PERIODS, Period
from tasks.contracts.requests import ReleaseRequest, plan_named
from tasks.contracts.stage_io import StageContext, StageInput
from tasks.models.interactions import Interactions, history_batch
from tasks.stages import build_features, ingest_events

Run = Callable[[str], tuple[dict[str, Any], dict[str, Any], Path]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Ingest a set and build its features: both profiles, and the folder of both payloads."""

    def ingest_and_build(dataset: str) -> tuple[dict[str, Any], dict[str, Any], Path]:
        release = ReleaseRequest(
            release_id="r1",
            model=DATASETS[dataset].default_model,
            dataset=dataset,
            as_of=DATASETS[dataset].as_of or "2026-01-01T00:00:00Z",
            recipe="popularity",
            compression="none",
            plan=plan_named("replay"),
        )
        manifest = cast("Manifest", None)
        events = StageInput(address="events", manifest=manifest, path=tmp_path / "events")
        ingest_events.run(context(tmp_path / "events", {}, release))
        build_features.run(context(tmp_path / "features", {"events": events}, release))
        profiles = [
            json.loads((tmp_path / name / "profile.json").read_text("utf-8"))
            for name in ("events", "features")
        ]
        return profiles[0], profiles[1], tmp_path

    return ingest_and_build


def context(out: Path, inputs: dict[str, StageInput], release: ReleaseRequest) -> StageContext:
    work = out.with_name(f"{out.name}-work")
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


def counts(profile: dict[str, Any], name: str) -> list[int]:
    return [profile["periods"][period][name] for period in PERIODS]


def demand_no_leak(events: dict[str, Any], features: dict[str, Any]) -> None:
    assert features["items_not_in_train"] == 0
    assert features["steps_before_an_earlier_period"] == 0
    if not events["order_only"]:
        first, last = (
            [events["periods"][period][name] for period in PERIODS]
            for name in ("min_time", "max_time")
        )
        assert all(end < start for end, start in zip(last[:-1], first[1:], strict=True))


def test_the_complete_journey_needs_nothing_but_its_package(run, monkeypatch):
    monkeypatch.delenv("HEADRACE_DATA", raising=False)
    events, features, folder = run("complete-journey")
    assert events["rows_read"] == 1_469_307
    rejected = {rejection["reason"]: rejection["rows"] for rejection in events["rejected"]}
    assert sum(rejected.values()) == events["rows_read"] - events["events"] == 27_876
    assert (events["users"], events["items"], events["steps"]) == (2467, 67_826, 140_897)
    assert counts(events, "steps") == [114_062, 5487, 10_678, 10_670]
    assert counts(events, "users") == [2449, 1713, 2015, 2002]
    assert events["duplicates"] == 0
    assert features["items"] == 25_083
    assert counts(features, "examples") == [111_523, 5482, 10_670, 10_663]
    demand_no_leak(events, features)

    catalogue = pq.read_table(folder / "events" / "catalogue.parquet")
    bought = pq.read_table(folder / "events" / "events.parquet", columns=["item_id", "price"])
    known = set(catalogue.column("item_id").to_pylist())
    assert set(bought.column("item_id").unique().to_pylist()) <= known
    assert len(known) == catalogue.num_rows
    prices = bought.column("price").to_numpy()
    assert np.isfinite(prices).all()
    assert prices.min() >= 0

    interactions = Interactions.load(folder / "features" / "interactions.npz")
    gate = interactions.examples(Period.GATE)
    items, ago = history_batch(interactions, gate, 100)
    assert (items[:, -1] > 0).all()  # every example has history
    assert (ago[items > 0] >= 1).all()
    assert (np.diff(ago, axis=1)[:, 50:][items[:, 50:-1] > 0] <= 0).all()  # newer to the right
    assert gate.target_counts().sum() == 111_058


def test_taobao_is_nine_days_of_four_kinds_of_event(run, data_folder, monkeypatch):
    monkeypatch.setenv("HEADRACE_DATA", str(data_folder))
    events, features, _ = run("taobao")
    assert events["event_types"] == {"view": 9046, "cart": 536, "favourite": 212, "purchase": 206}
    assert (events["users"], events["items"]) == (114, 7623)
    assert events["min_time"] == "2017-11-24T08:45:57Z"
    assert counts(events, "events") == [5808, 1179, 1585, 1428]
    assert counts(features, "users_with_examples") == [110, 86, 113, 110]
    demand_no_leak(events, features)


def test_movielens_is_cut_by_place_and_every_user_is_in_every_period(run, data_folder, monkeypatch):
    monkeypatch.setenv("HEADRACE_DATA", str(data_folder))
    events, features, folder = run("ml-1m")
    assert (events["events"], events["users"], events["items"]) == (999_611, 6040, 3416)
    assert counts(features, "examples") == [975_451, 6040, 6040, 6040]
    assert features["periods"]["canary"]["missed_targets"] == 0
    demand_no_leak(events, features)
    titles = {
        row["item_id"]: row["title"]
        for row in pq.read_table(folder / "features" / "items.parquet").to_pylist()
    }
    assert titles["109"] == "Toy Story (1995)"


def test_amazon_beauty_is_cut_by_place(run, data_folder, monkeypatch):
    monkeypatch.setenv("HEADRACE_DATA", str(data_folder))
    events, features, _ = run("amazon-beauty")
    assert (events["events"], events["users"], events["items"]) == (198_502, 22_363, 12_101)
    assert events["duplicates"] == 0  # no user has an item twice
    assert counts(features, "examples") == [109_050, 22_363, 22_363, 22_363]
    demand_no_leak(events, features)
