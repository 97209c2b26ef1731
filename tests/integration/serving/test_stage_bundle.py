"""The stage `stage_bundle` with real servers, a real state record and a real bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import PLANS, ReleaseRequest
from tasks.contracts.stage_io import StageContext
from tasks.rollout.state import ModelState, open_state
from tasks.stages import stage_bundle
from tests.integration.serving.running_server import RunningServer

MODEL = "shop"
COLOURS = ("blue", "green", "violet")
BUNDLE = "serving_bundle/" + "b" * 64
EVENTS = "validated_events/" + "e" * 64


class Stack:
    """A state folder and one server per colour that a test needs."""

    def __init__(self, folder: Path, start_server: Callable[..., RunningServer]) -> None:
        self.folder = folder
        self.store_url = f"file://{folder}/store"
        self.state_dir = folder / "state"
        self.slots: dict[str, Any] = {}
        self._start_server = start_server

    def start(self, *colours: str) -> dict[str, RunningServer]:
        servers = {}
        for colour in colours:
            directory = self.state_dir / MODEL / "slots" / colour
            directory.mkdir(parents=True)
            server = self._start_server(
                f"--model_name={MODEL}",
                f"--model_base_path={directory}",
                "--max_num_load_retries=0",
                "--num_load_threads=1",
                ready=False,
            )
            servers[colour] = server
            self.slots[colour] = {
                "grpc": server.port, "rest": server.rest_port, "directory": str(directory),
            }  # fmt: skip
        record = {"format": "slots/1", "model": MODEL, "slots": self.slots}
        (self.state_dir / MODEL / "slots.json").write_text(json.dumps(record))
        return servers

    @property
    def state(self) -> ModelState:
        return open_state(self.state_dir, MODEL, ObjectStore(self.store_url))

    def run(self, release_id: str, bundle: Path) -> Any:
        out = self.folder / f"out-{release_id}"
        out.mkdir(exist_ok=True)
        release = ReleaseRequest(
            release_id=release_id,
            model=MODEL,
            dataset="complete-journey",
            as_of="2026-01-31T00:00:00Z",
            recipe="popularity",
            compression="none",
            plan=PLANS["replay"],
        )
        inputs: Any = {
            "bundle": SimpleNamespace(address=BUNDLE, path=bundle),
            "evaluation": SimpleNamespace(address="evaluation/" + "a" * 64, path=bundle),
            "events": SimpleNamespace(address=EVENTS, path=bundle),
        }
        context = StageContext(
            inputs=inputs,
            out=out,
            work=out,
            progress=lambda _sentence, _fraction: None,
            store_url=self.store_url,
            release=release,
            state_dir=self.state_dir,
        )
        outcome = stage_bundle.run(context)
        infra, slot = (json.loads((out / name).read_text()) for name in ("infra.json", "slot.json"))
        return SimpleNamespace(outcome=outcome, infra=infra, slot=slot)


@pytest.fixture
def stack(tmp_path: Path, start_server: Callable[..., RunningServer]) -> Stack:
    return Stack(tmp_path, start_server)


def test_a_first_release_is_loaded_and_answers_every_golden_request(
    stack: Stack, models: Path
) -> None:
    stack.start("blue")
    found = stack.run("first", models / "shop/bundle")
    assert (found.infra["n"], found.infra["wrong"], found.infra["failed"]) == (60, 0, 0)
    assert found.infra["latency_ms"]["stable"] is None
    assert found.infra["latency_ms"]["candidate"]["requests"] == 30
    assert (found.slot["colour"], found.slot["version"], found.slot["stable"]) == ("blue", 1, None)
    assert found.slot["bundle"] == BUNDLE
    assert stack.state.peek().candidate is not None


def test_a_second_release_is_measured_beside_stable_and_running_it_again_changes_nothing(
    stack: Stack, models: Path
) -> None:
    stack.start("blue", "green")
    stack.run("first", models / "shop/bundle")
    stack.state.promote("first")
    found = stack.run("second", models / "shop/bundle")
    assert (found.slot["colour"], found.slot["version"]) == ("green", 2)
    assert found.slot["stable"] == {"colour": "blue", "release_number": 1}
    assert found.infra["latency_ms"]["stable"]["p99"] > 0
    assert found.infra["latency_ms_rest"]["stable"]["p50"] > 0
    again = stack.run("second", models / "shop/bundle")
    assert again.slot == found.slot
    assert stack.state.peek().next_release_number == 3


def test_wrong_answers_are_counted_and_shown_but_not_judged(
    stack: Stack, models: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(models / "shop/bundle", bundle)
    lines = (bundle / "golden.jsonl").read_text().splitlines()
    record = json.loads(lines[0])
    record["items"][0], record["items"][9] = record["items"][9], record["items"][0]
    (bundle / "golden.jsonl").write_text("\n".join([json.dumps(record), *lines[1:]]))
    stack.start("blue")
    found = stack.run("first", bundle)
    assert (found.infra["grpc"]["wrong"], found.infra["rest"]["wrong"]) == (1, 1)
    assert found.infra["grpc"]["examples"][0].startswith("user user-0 place 1: expected ")


def test_a_bundle_that_does_not_load_is_withdrawn_and_the_slot_stays_usable(
    stack: Stack, models: Path, tmp_path: Path
) -> None:
    servers = stack.start("blue", "green")
    stack.run("first", models / "shop/bundle")
    stack.state.promote("first")
    stack.run("second", models / "shop/bundle")
    stack.state.roll_back("second")
    broken = tmp_path / "broken"
    shutil.copytree(models / "shop/bundle", broken)
    (broken / "model/saved_model.pb").write_bytes(b"not a proto")
    with pytest.raises(BadRequestError, match="could not be staged: the green slot"):
        stack.run("third", broken)
    assert servers["green"].process is not None
    assert servers["green"].process.poll() is None
    stack.state.roll_back("third")
    found = stack.run("fourth", models / "shop/bundle")
    assert (found.slot["colour"], found.slot["version"], found.infra["wrong"]) == ("green", 4, 0)


def test_a_number_that_holds_other_files_is_refused(
    stack: Stack, models: Path, tmp_path: Path
) -> None:
    stack.start("blue")
    stack.run("first", models / "shop/bundle")
    other = tmp_path / "other"
    shutil.copytree(models / "shop/bundle", other)
    (other / "model/assets").mkdir(exist_ok=True)
    (other / "model/assets/new.txt").write_text("another bundle")
    with pytest.raises(BadRequestError, match="a version number is never used twice"):
        stack.run("first", other)
