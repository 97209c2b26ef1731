from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tasks.rollout.readiness import AskedSlot, SlotProbes, ask_slot, asked_slots
from tasks.rollout.record import Colour, Roles, SlotContent, StateRecord
from tasks.rollout.routes import RoutedModel, SlotAddress
from tests.ports import free_port

BLUE, GREEN = Colour.BLUE, Colour.GREEN


def routed(release: int = 2) -> RoutedModel:
    slots = {
        BLUE: SlotContent(release_id="first", release_number=1),
        GREEN: SlotContent(release_id="second", release_number=release),
    }
    record = StateRecord(model="shop", slots=slots, roles=Roles(stable=BLUE, candidate=GREEN))
    addresses = {colour: SlotAddress(grpc=1, rest=number) for number, colour in enumerate(Colour)}
    return RoutedModel(record=record, slots=addresses)


@dataclass
class World:
    """Slots that say what they are told to, and a clock."""

    now: float = 0.0
    says: dict[Colour, bool | None] = field(default_factory=lambda: {BLUE: True, GREEN: True})
    asked: list[Colour] = field(default_factory=list)
    model: RoutedModel = field(default_factory=routed)

    def __post_init__(self) -> None:
        self.probes = SlotProbes(ask=self.ask, monotonic=lambda: self.now)

    def ask(self, slot: AskedSlot) -> bool | None:
        self.asked.append(slot.colour)
        return self.says[slot.colour]

    def after(self, seconds: float) -> frozenset[Colour]:
        """Let time pass, ask, and hear the answers."""
        self.now += seconds
        known = len(self.asked)
        self.probes.watch([self.model])
        deadline = time.monotonic() + 5
        while any(one.pending for one in self.probes._answers.values()):
            assert time.monotonic() < deadline, self.asked[known:]
            time.sleep(0.001)
        return self.probes.unready("shop")


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.probes.close()


def test_only_slots_with_a_release_are_asked_and_for_their_own_version() -> None:
    found = [(slot.colour, slot.version, slot.rest) for slot in asked_slots([routed(7)])]
    assert found == [(BLUE, 1, 0), (GREEN, 7, 1)]


def test_a_slot_is_unready_after_three_failures_and_three_seconds(world: World) -> None:
    world.after(0)
    world.says[GREEN] = False
    assert [world.after(1) for _ in range(3)] == [frozenset()] * 3
    assert world.after(1) == {GREEN}
    assert world.probes.ready("shop") == {BLUE}
    world.says[GREEN] = True
    assert world.after(1) == frozenset()


def test_one_good_answer_among_bad_ones_starts_the_count_again(world: World) -> None:
    for says in (False, False, True, False, False, False):
        world.says[GREEN] = says
        assert world.after(1) == frozenset()


def test_failures_that_are_few_and_far_between_are_no_verdict(world: World) -> None:
    """A keeper that stood still for a minute has heard little, whatever the clock says."""
    world.after(0)
    world.says[GREEN] = False
    world.now += 1
    assert world.after(0) == frozenset()
    assert world.after(60) == frozenset()
    assert world.after(1) == {GREEN}


def test_an_answer_that_tells_nothing_is_no_failure(world: World) -> None:
    world.says[GREEN] = None
    assert [world.after(1) for _ in range(6)] == [frozenset()] * 6
    assert world.probes.ready("shop") == {BLUE}


def test_slots_are_asked_once_a_second_however_often_the_keeper_looks(world: World) -> None:
    for _ in range(50):
        world.after(0.1)
    assert 4 <= world.asked.count(BLUE) <= 6


def test_a_slot_that_hangs_is_asked_no_second_time_meanwhile_and_holds_up_nobody() -> None:
    let_go = threading.Event()
    asked: list[Colour] = []

    def ask(slot: AskedSlot) -> bool:
        asked.append(slot.colour)
        if slot.colour is GREEN:
            let_go.wait(10)
        return True

    probes = SlotProbes(ask=ask, monotonic=iter(range(1000)).__next__)
    began = time.monotonic()
    for _ in range(20):
        probes.watch([routed()])
        time.sleep(0.01)
    assert time.monotonic() - began < 2
    let_go.set()
    probes.close()
    assert asked.count(GREEN) == 1
    assert asked.count(BLUE) > 5


def test_a_slot_that_has_not_answered_yet_may_be_starting_and_has_a_minute(world: World) -> None:
    world.says[GREEN] = False
    assert [world.after(1) for _ in range(60)] == [frozenset()] * 60
    assert world.after(1) == {GREEN}
    assert world.probes.ready("shop") == {BLUE}


def test_once_it_has_answered_a_slot_has_three_seconds(world: World) -> None:
    world.says[GREEN] = False
    for _ in range(30):
        world.after(1)
    world.says[GREEN] = True
    assert world.after(1) == frozenset()
    world.says[GREEN] = False
    assert [world.after(1) for _ in range(3)] == [frozenset()] * 3
    assert world.after(1) == {GREEN}


def test_what_was_said_of_the_version_before_is_forgotten(world: World) -> None:
    world.after(0)
    world.says[GREEN] = False
    for _ in range(5):
        world.after(1)
    assert world.probes.unready("shop") == {GREEN}
    world.model = routed(3)
    assert world.after(1) == frozenset()


@contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def status(version: str, state: str) -> bytes:
    rows = [{"version": version, "state": state, "status": {"error_code": "OK"}}]
    return json.dumps({"model_version_status": rows}).encode()


@pytest.mark.parametrize(
    ("body", "code", "ready"),
    (
        pytest.param(status("2", "AVAILABLE"), 200, True, id="its version is available"),
        pytest.param(status("2", "LOADING"), 200, False, id="its version is still loading"),
        pytest.param(status("1", "AVAILABLE"), 200, False, id="another version is available"),
        pytest.param(b'{"error": "x"}', 404, None, id="a refusal tells nothing"),
        pytest.param(b"<html>", 200, None, id="another kind of server tells nothing"),
        pytest.param(b'{"model_version_status": 7}', 200, None, id="a strange record"),
    ),
)
def test_a_slot_is_ready_when(body: bytes, code: int, ready: bool | None) -> None:
    with answering(body, code) as port:
        assert ask_slot(slot(port)) is ready


def test_nobody_there_is_not_ready_and_a_silent_one_is_not_waited_for_long() -> None:
    assert ask_slot(slot(free_port())) is False
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        assert ask_slot(slot(silent.getsockname()[1])) is False
        assert time.monotonic() - began < 4


def slot(port: int) -> AskedSlot:
    return AskedSlot(model="shop", colour=GREEN, version=2, host="127.0.0.1", rest=port)
