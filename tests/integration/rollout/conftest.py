from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.requests import PLANS, TrafficPlan
from tasks.rollout import keeper
from tasks.rollout.envoy import RouterFiles, envoy_command, router_files, write_bootstrap
from tasks.rollout.envoy_stats import Statistics, read_statistics
from tasks.rollout.phases import Decision
from tasks.rollout.record import Colour
from tasks.rollout.state import ModelState, open_state
from tests.integration.rollout.upstreams import GrpcStub, Mood, RestStub
from tests.ports import free_port

PLAN = PLANS["replay"]
STEP_SHARES = (500, 2500, 5000)


def eventually(met: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"not met in {seconds} s"
        time.sleep(0.02)


@dataclass
class Slot:
    """One colour: its stubs and what they do."""

    mood: Mood
    rest_port: int
    grpc_port: int
    rest: RestStub | None = None
    grpc: GrpcStub | None = None

    def start(self) -> None:
        self.rest = RestStub(self.mood, self.rest_port)
        self.grpc = GrpcStub(self.mood, self.grpc_port)

    def stop(self) -> None:
        for stub in (self.rest, self.grpc):
            if stub is not None:
                stub.close()
        self.rest = self.grpc = None


@dataclass
class Deployment:
    """A real Envoy, a keeper in a thread, stub slots, and the state of one model."""

    folder: Path
    port: int
    admin_port: int
    slots: dict[Colour, Slot]
    state: ModelState
    envoy: subprocess.Popen[bytes]
    keeper_stop: threading.Event
    keeper_thread: threading.Thread
    client: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False, timeout=40))

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    @property
    def files(self) -> RouterFiles:
        return router_files(self.state_dir)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def stable(self) -> Slot:
        return self.slots[Colour.BLUE]

    @property
    def candidate(self) -> Slot:
        return self.slots[Colour.GREEN]

    def start_envoy(self) -> None:
        self.envoy = _start_envoy(self.files, self.folder / "envoy.log")

    def ask(self, user: str | None, **headers: str) -> httpx.Response:
        sent = {"x-model": "shop", **headers}
        if user is not None:
            sent["x-user-id"] = user
        return self.client.post(f"{self.url}/v1/models/shop:predict", json={}, headers=sent)

    def first_release(self) -> None:
        self.state.reserve_slot("first")
        self.state.promote("first")
        self.settle()

    def begin(self, step: int, *, plan: TrafficPlan = PLAN, per_try_timeout_ms: float = 80) -> None:
        """Take a second release to a step, with favourable verdicts before it."""
        self.state.reserve_slot("second")
        for number in range(1, step + 1):
            if number > 1:
                self.state.record_verdict("second", number - 1, Decision.PROCEED, numbers={})
            self.state.begin_step("second", number, plan, per_try_timeout_ms=per_try_timeout_ms)
        self.settle()

    def settle(self) -> None:
        """Wait until the router serves what the state record says."""
        record = self.state.peek()
        wanted = f"{record.rollout}:{record.status.step}" if record.status.share else None

        def serves() -> bool:
            try:
                answer = self.ask(None)
            except httpx.TransportError:
                return False
            ready = answer.status_code == 200
            return ready and answer.headers.get("x-headrace-step") == wanted

        eventually(serves)

    def log(self) -> list[dict[str, Any]]:
        text = self.files.access_log.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def lines_of(self, request_ids: set[str]) -> list[dict[str, Any]]:
        def logged() -> list[dict[str, Any]]:
            return [line for line in self.log() if line["request_id"] in request_ids]

        eventually(lambda: len(logged()) >= len(request_ids))
        return logged()


def _start_envoy(files: RouterFiles, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as writer:
        return subprocess.Popen(envoy_command(files), stdout=writer, stderr=writer)


def _slots_record(slots: dict[Colour, Slot]) -> str:
    ports = {c.value: {"grpc": s.grpc_port, "rest": s.rest_port} for c, s in slots.items()}
    return json.dumps({"format": "slots/1", "model": "shop", "slots": ports})


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """What Envoy and the judge do for a candidate that harms: the keeper reads no statistics."""
    with deployed(tmp_path, lambda _files: None) as made:
        yield made


@pytest.fixture
def kept_deployment(tmp_path: Path) -> Iterator[Deployment]:
    """The same with all that the keeper does: it cuts a candidate that harms."""
    with deployed(tmp_path, read_statistics) as made:
        yield made


@contextmanager
def deployed(
    tmp_path: Path,
    statistics: Callable[[RouterFiles], Statistics | None],
    made_of: Callable[[Mood, int, int], Slot] = Slot,
) -> Iterator[Deployment]:
    state_dir = tmp_path / "state"
    state = open_state(state_dir, "shop", ObjectStore(f"file://{tmp_path}/store"))
    slots = {c: made_of(Mood(c.value), free_port(), free_port()) for c in Colour}
    (state_dir / "shop").mkdir(parents=True)
    (state_dir / "shop" / "slots.json").write_text(_slots_record(slots))
    for slot in slots.values():
        slot.start()
    port, admin_port = free_port(), free_port()
    files = router_files(state_dir)
    write_bootstrap(files, port=port, admin_port=admin_port, host="127.0.0.1")
    envoy = _start_envoy(files, tmp_path / "envoy.log")
    stop = threading.Event()
    arguments = (state_dir, stop, 0.05, None, statistics)
    thread = threading.Thread(target=keeper.run, args=arguments, daemon=True)
    thread.start()
    made = Deployment(
        folder=tmp_path,
        port=port,
        admin_port=admin_port,
        slots=slots,
        state=state,
        envoy=envoy,
        keeper_stop=stop,
        keeper_thread=thread,
    )
    try:
        yield made
    finally:
        stop.set()
        thread.join()
        made.envoy.terminate()  # of a test that started it anew, the last one
        made.envoy.wait()
        made.client.close()
        for slot in slots.values():
            slot.stop()
