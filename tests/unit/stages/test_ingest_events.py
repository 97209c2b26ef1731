"""The stage on somebody's own events: what decides its key, and what it writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import ReleaseRequest, plan_named
from tasks.contracts.stage_io import StageContext
from tasks.stages import ingest_events

MAPPING = """
format = "events_mapping/1"
[columns]
user_id = "who"
item_id = "what"
event_type = "how"
timestamp = "when"
[event_types]
bought = "purchase"
[periods]
rule = "cuts"
select = "2024-06-10T00:00:00Z"
gate = "2024-06-20T00:00:00Z"
canary = "2024-06-25T00:00:00Z"
"""
EVENTS = """who,what,how,when
ann,milk,bought,2024-06-01T10:00:00Z
ann,eggs,view,2024-06-11T10:00:00Z
bob,milk,bought,2024-06-26T10:00:00Z
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "events.csv").write_text(EVENTS, encoding="utf-8")
    (tmp_path / "mapping.toml").write_text(MAPPING, encoding="utf-8")
    (tmp_path / "catalogue.csv").write_text("item_id,title\nmilk,Milk\neggs,Eggs\n", "utf-8")
    return tmp_path


def request_of(shop: Path, **changes: object) -> ReleaseRequest:
    request = ReleaseRequest(
        release_id="r1",
        model="recommender-events",
        dataset="events",
        as_of="2024-07-01T00:00:00Z",
        recipe="popularity",
        compression="none",
        plan=plan_named("replay"),
        events_url=str(shop / "events.csv"),
        catalogue_url=str(shop / "catalogue.csv"),
        mapping_url=str(shop / "mapping.toml"),
    )
    return replace(request, **changes)


def context_of(shop: Path, name: str = "out", **changes: object) -> StageContext:
    out, work = shop / name, shop / f"{name}-work"
    out.mkdir(exist_ok=True)
    work.mkdir(exist_ok=True)
    return StageContext(
        inputs={},
        out=out,
        work=work,
        progress=lambda _sentence, _fraction: None,
        store_url="file:///nowhere",
        release=request_of(shop, **changes),
    )


def test_events_are_landed_with_catalogue_and_profile(shop):
    outcome = ingest_events.run(context_of(shop))
    assert outcome.sentence == "3 events of 2 users on 2 items; 3 rows read"
    events = pq.read_table(shop / "out" / "events.parquet").to_pylist()
    assert [(event["item_id"], event["event_type"], event["period"]) for event in events] == [
        ("milk", "purchase", "train"),
        ("eggs", "view", "select"),
        ("milk", "purchase", "canary"),
    ]
    titles = pq.read_table(shop / "out" / "catalogue.parquet").column("title").to_pylist()
    assert titles == ["Eggs", "Milk"]
    profile = json.loads((shop / "out" / "profile.json").read_text("utf-8"))
    assert profile["format"] == "events_profile/1"
    assert [source["name"] for source in profile["sources"]] == ["events.csv", "catalogue.csv"]
    assert profile["periods"]["train"]["events"] == 1
    assert "gate" not in profile["periods"]


def test_two_runs_write_the_same_bytes(shop):
    for name in ("one", "two"):
        ingest_events.run(context_of(shop, name))
    names = sorted(path.name for path in (shop / "one").iterdir())
    assert names == ["catalogue.parquet", "events.parquet", "profile.json"]
    for name in names:
        assert (shop / "one" / name).read_bytes() == (shop / "two" / name).read_bytes()


def test_the_configuration_holds_the_bytes_that_will_be_read_and_not_their_place(shop):
    config = ingest_events.configure(context_of(shop))
    assert str(shop) not in json.dumps(config)
    assert config == ingest_events.configure(context_of(shop, "other"))
    (shop / "events.csv").write_text(EVENTS.replace("bob", "rob"), encoding="utf-8")
    changed = ingest_events.configure(context_of(shop))
    assert {name for name in config if config[name] != changed[name]} == {"sources"}


def test_a_word_in_the_mapping_changes_the_configuration_and_a_comment_does_not(shop):
    config = ingest_events.configure(context_of(shop))
    (shop / "mapping.toml").write_text(f"# a note\n{MAPPING}", encoding="utf-8")
    assert ingest_events.configure(context_of(shop)) == config
    (shop / "mapping.toml").write_text(MAPPING.replace("06-25", "06-26"), encoding="utf-8")
    assert ingest_events.configure(context_of(shop)) != config


def test_events_in_the_contracts_columns_need_no_mapping(shop):
    text = EVENTS.replace("who,what,how,when", "user_id,item_id,event_type,timestamp")
    (shop / "events.csv").write_text(text.replace("bought", "purchase"), encoding="utf-8")
    outcome = ingest_events.run(context_of(shop, mapping_url=None, catalogue_url=None))
    assert outcome.sentence.startswith("3 events of 2 users")
    profile = json.loads((shop / "out" / "profile.json").read_text("utf-8"))
    # A tenth of 25 days each: 2.5 days before the last event and so on.
    assert profile["period_rule"]["canary"] == "2024-06-23T22:00:00Z"


def test_a_set_of_the_data_folder_tells_how_to_get_it(shop, monkeypatch):
    monkeypatch.delenv("HEADRACE_DATA", raising=False)
    urls = {"events_url": None, "catalogue_url": None, "mapping_url": None}
    context = context_of(shop, dataset="ml-1m", **urls)
    with pytest.raises(BadRequestError, match="HEADRACE_DATA not set; next step: set"):
        ingest_events.configure(context)


def test_a_set_without_times_has_no_date_in_its_configuration(shop):
    (shop / "mapping.toml").write_text(
        MAPPING[: MAPPING.index("[periods]")].replace("timestamp =", "position ="), "utf-8"
    )
    config = ingest_events.configure(context_of(shop))
    assert config["as_of"] is None
    assert config["periods"] == {"rule": "last_steps"}
