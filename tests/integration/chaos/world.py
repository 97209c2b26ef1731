"""A router as it runs in earnest, each part a process: Envoy, keeper, slots, users. No Airflow."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.requests import PLANS, TrafficPlan
from tasks.rollout.envoy import RouterFiles, envoy_command, router_files, write_bootstrap
from tasks.rollout.envoy_stats import read_statistics
from tasks.rollout.phases import Decision
from tasks.rollout.record import Colour
from tasks.rollout.state import ModelState, open_state
from tests.integration.chaos.load import Asked, read_asked
from tests.ports import free_port

Protocol = Literal["rest", "grpc"]
MODEL = "shop"
PLAN = PLANS["replay"]  # 5, 25, 50 %
PER_TRY_TIMEOUT_MS = 150.0  # three times the p95 that the plan accepts, as `shift_traffic` says
RPS = 200.0
LOOK_SECONDS = 0.01
LOADS: dict[Protocol, str] = {"rest": "load", "grpc": "grpc_load"}
STARTS_WITHIN_SECONDS = 120  # on a machine that others use as well


def eventually(met: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait; return when it was met, by the monotonic clock."""
    deadline = time.monotonic() + seconds
    while not met():
        if time.monotonic() > deadline:
            message = f"expected within {seconds:g} s: {what}"
            raise TimeoutError(message)
        time.sleep(LOOK_SECONDS)
    return time.monotonic()


@dataclass(kw_only=True)
class Part:
    """A process that the world started."""

    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=log, stderr=log
            )

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Ask it to end, then force it."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


@dataclass(kw_only=True)
class World:
    """One model behind a router; blue is stable, green the candidate of one release after another."""

    folder: Path
    port: int
    slots: dict[Colour, Part]
    ports: dict[Colour, int]
    keeper: Part
    state: ModelState
    plan: TrafficPlan = PLAN
    protocol: Protocol = "rest"
    _releases: int = 1

    @property
    def files(self) -> RouterFiles:
        return router_files(self.folder / "state")

    @property
    def candidate(self) -> Part:
        return self.slots[Colour.GREEN]

    def new_candidate(self) -> str:
        """Start the candidate's slot anew and stage a release there."""
        self.candidate.kill()
        self._start_slot(Colour.GREEN)
        self._releases += 1
        release = f"release-{self._releases}"
        self.state.reserve_slot(release)
        return release

    def _start_slot(self, colour: Colour) -> None:
        self.slots[colour].log.write_bytes(b"")
        self.slots[colour].start()
        eventually(
            lambda: b"ready" in self.slots[colour].log.read_bytes(),
            STARTS_WITHIN_SECONDS,
            f"slot {colour}",
        )

    def begin(self, release: str, step: int) -> None:
        if step > 1:
            self.state.record_verdict(release, step - 1, Decision.PROCEED, numbers={})
        self.state.begin_step(release, step, self.plan, per_try_timeout_ms=PER_TRY_TIMEOUT_MS)

    def share(self) -> int:
        return self.state.peek().status.share

    def asked_of_candidate(self) -> int:
        """Return how many requests have met the candidate's slot, as Envoy counts them."""
        seen = read_statistics(self.files)
        counts = None if seen is None else seen.slots.get((MODEL, Colour.GREEN))
        return 0 if counts is None else counts.asked

    def promote_first(self) -> None:
        self.state.reserve_slot("release-1")
        self.state.promote("release-1")
        eventually(
            lambda: "shop.blue" in self.files.routes.read_text(),
            STARTS_WITHIN_SECONDS,
            "stable's routes",
        )

    @contextmanager
    def users(self, rps: float = RPS, seed: int = 1) -> Iterator[Callable[[], list[Asked]]]:
        """Let users ask; what is given returns, once they have ended, all that they got."""
        path = self.folder / f"asked-{time.monotonic_ns()}.jsonl"
        arguments = (str(self.port), MODEL, str(rps), str(seed), str(path))
        part = Part(
            command=python(f"tests.integration.chaos.{LOADS[self.protocol]}", *arguments),
            log=self.folder / "load.log",
        )
        part.start()
        try:
            yield lambda: read_asked(path)
        finally:
            assert part.process.stdin is not None
            part.process.stdin.close()
            ended = part.process.wait(60)
            if ended:
                message = f"the load ended with {ended}: {part.log.read_text()[-2000:]}"
                raise RuntimeError(message)


def _slot(colour: Colour, rest: int, grpc: int, protocol: Protocol) -> list[str]:
    if protocol == "rest":
        return python("tests.integration.chaos.slot", colour.value, str(rest))
    return python("tests.integration.chaos.grpc_slot", colour.value, str(rest), str(grpc))


@contextmanager
def world(
    folder: Path, *, lease_seconds: int | None = None, protocol: Protocol = "rest"
) -> Iterator[World]:
    """Start everything; end everything. Users and slots speak one protocol."""
    state_dir = folder / "state"
    (state_dir / MODEL).mkdir(parents=True)
    ports = {colour: free_port() for colour in Colour}
    grpc_ports = {colour: free_port() for colour in Colour}
    slots_record = {c.value: {"rest": ports[c], "grpc": grpc_ports[c]} for c in Colour}
    (state_dir / MODEL / "slots.json").write_text(
        json.dumps({"format": "slots/1", "model": MODEL, "slots": slots_record})
    )
    files, port = router_files(state_dir), free_port()
    write_bootstrap(files, port=port, admin_port=free_port(), host="127.0.0.1")
    slots = {
        colour: Part(
            command=_slot(colour, ports[colour], grpc_ports[colour], protocol),
            log=folder / f"{colour}.log",
        )
        for colour in (Colour.BLUE, Colour.GREEN)
    }
    command = python("tasks.rollout.keeper", "--state-dir", str(state_dir))
    keeper = Part(command=command, log=folder / "keeper.log")
    envoy = Part(command=envoy_command(files), log=folder / "envoy.log")
    plan = PLAN if lease_seconds is None else replace(PLAN, lease_seconds=lease_seconds)
    made = World(
        folder=folder,
        port=port,
        slots=slots,
        ports=ports,
        keeper=keeper,
        state=open_state(state_dir, MODEL, ObjectStore(f"file://{folder}/store")),
        plan=plan,
        protocol=protocol,
    )
    with ExitStack() as stack:
        for part in (*slots.values(), envoy, keeper):
            part.start()
            stack.callback(part.end)
        made.promote_first()
        _demand_answers(made)
        yield made


def _demand_answers(made: World) -> None:
    """Begin only when users are answered."""
    deadline = time.monotonic() + STARTS_WITHIN_SECONDS
    while True:
        with made.users(rps=20, seed=0) as asked:
            time.sleep(0.3)
        if all(one.right for one in asked()):
            return
        if time.monotonic() > deadline:
            message = f"expected answers of the router, found none; see {made.folder}"
            raise TimeoutError(message)
