"""Replayed users before a router that is played here, by records in files and in ConfigMaps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tasks.adapters.config_map_records import ConfigMapRecords
from tasks.adapters.kube_api import KubeApi, server_at
from tasks.contracts.bake import used_up_path
from tasks.contracts.record_store import RecordStore
from tasks.contracts.requests import PLANS
from tasks.rollout.exposures import read_lines, rollout_folder
from tasks.rollout.replay import LANDING_SECONDS, REQUESTS_FILE, Shoppers
from tasks.rollout.replay_requests import plan_replay
from tasks.rollout.state import ModelState, open_state
from tests.fake_config_maps import FakeConfigMaps, serving
from tests.unit.rollout.test_replay_requests import interactions


@pytest.fixture(params=("files", "config maps"))
def records(request: pytest.FixtureRequest) -> Iterator[RecordStore | None]:
    if request.param == "files":
        yield None
        return
    with serving(FakeConfigMaps()) as url:
        yield ConfigMapRecords(api=KubeApi(server_at(url)), namespace="prod", names=("shop",))


@pytest.fixture
def state(tmp_path: Path, records: RecordStore | None) -> ModelState:
    """A model in its first step, with one request in it."""
    made = open_state(tmp_path, "shop", records=records)
    made.reserve_slot("first")
    made.promote("first")
    made.reserve_slot("second")
    made.begin_step("second", 1, PLANS["replay"], per_try_timeout_ms=50)
    plan_replay(interactions(), [0.25, 0.75]).save(folder_of(made) / REQUESTS_FILE)
    return made


def folder_of(state: ModelState) -> Path:
    return rollout_folder(state.folder.parent, "shop", str(state.peek().rollout))


RIGHT = {"outputs": {"items": [["a", "c"]], "scores": [[1.0, 0.5]]}}


@pytest.fixture
def answer() -> list[bytes]:
    """What the played router answers; a test may put another in its place."""
    return [json.dumps(RIGHT).encode()]


@pytest.fixture
def shoppers(
    tmp_path: Path, records: RecordStore | None, answer: list[bytes]
) -> Iterator[Shoppers]:
    def router(asked: httpx.Request) -> httpx.Response:
        record = open_state(tmp_path, "shop", records=records).peek()
        headers = {"x-headrace-step": f"{record.rollout}:1", "x-headrace-variant": "candidate"}
        return httpx.Response(200, content=answer[0], headers=headers)

    clock = iter(range(0, 100_000, int(LANDING_SECONDS) + 1)).__next__
    with ThreadPoolExecutor(2) as pool:
        yield Shoppers(
            state_dir=tmp_path,
            router_url="http://router",
            pool=pool,
            client=httpx.Client(transport=httpx.MockTransport(router)),
            records=records,
            clock=clock,
        )


def test_the_requests_of_a_step_are_asked_once_wherever_its_record_lies(
    state: ModelState, shoppers: Shoppers, tmp_path: Path
) -> None:
    assert [shoppers.turn(), shoppers.turn(), shoppers.turn()] == [1, 0, 0]
    (outcome,) = read_lines(folder_of(state) / "outcomes.jsonl")
    assert (outcome["variant"], outcome["failed"]) == ("candidate", False)
    assert used_up_path(tmp_path, "shop", "second", 1).exists()


def test_nobody_asks_while_the_step_is_paused(state: ModelState, shoppers: Shoppers) -> None:
    state.pause("second")
    assert shoppers.turn() == 0
    state.resume("second")
    assert shoppers.turn() == 1


@pytest.mark.parametrize("records", ("config maps",), indirect=True)
def test_records_of_a_cluster_are_no_files(state: ModelState, shoppers: Shoppers) -> None:
    shoppers.records = None
    assert shoppers.turn() == 0


@pytest.mark.parametrize(
    "body", (b"<html>", b"{}", b"[]", b'{"outputs": {}}', b'{"outputs": {"items": []}}')
)
def test_an_answer_that_shows_nothing_is_a_failed_one(
    shoppers: Shoppers, state: ModelState, answer: list[bytes], body: bytes
) -> None:
    answer[0] = body

    assert shoppers.turn() == 1

    (line,) = read_lines(folder_of(state) / "outcomes.jsonl")
    assert (line["failed"], line["hit"]) == (True, 0)
