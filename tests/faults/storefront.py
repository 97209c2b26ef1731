"""Where users ask: real model servers, a real Envoy and the keeper, for the state of one line."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tasks.contracts.bake import used_up_path
from tasks.contracts.json_types import Json
from tasks.rollout import keeper
from tasks.rollout.envoy import envoy_command, router_files, write_bootstrap
from tasks.rollout.exposure_files import read_exposures
from tasks.rollout.exposures import rollout_folder
from tasks.rollout.record import Colour
from tasks.rollout.replay import Shoppers
from tasks.serving.golden_answers import read_golden
from tests.faults.faulty_slot import FaultySlot
from tests.faults.line import MODEL, Line
from tests.integration.serving.running_server import RunningServer
from tests.ports import free_port

COLOURS = (Colour.BLUE, Colour.GREEN)
WORKERS = 2  # at once: more would only wait for each other on a small machine


def eventually(met: Callable[[], bool], seconds: float = 20.0, turn: float = 0.02) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"not met in {seconds} s"
        time.sleep(turn)


class CountingTransport(httpx.HTTPTransport):
    """Counts what clients really got, dropped connections included."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method != "POST":
            return super().handle_request(request)
        try:
            answer = super().handle_request(request)
            answer.read()
        except httpx.TransportError as error:
            self._count(type(error).__name__)
            raise
        self._count(str(answer.status_code))
        return answer

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    @property
    def asked(self) -> int:
        return sum(self.counts.values())

    @property
    def failed(self) -> int:
        return self.asked - self.counts["200"]


@dataclass
class Storefront:
    """A running deployment; users ask `url`."""

    line: Line
    port: int = field(default_factory=free_port)
    settling: dict[str, Any] = field(
        default_factory=lambda: {"history": [["none"]], "steps_ago": [[1]]}
    )
    slots: dict[Colour, FaultySlot] = field(default_factory=dict)
    _servers: list[RunningServer] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _envoy: subprocess.Popen[bytes] | None = None
    _keeper: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Start servers, what stands before them, Envoy and the keeper."""
        state_dir = self.line.state_dir
        record: dict[str, Json] = {}
        for colour in COLOURS:
            directory = state_dir / MODEL / "slots" / colour.value
            directory.mkdir(parents=True)
            flags = (
                f"--model_name={MODEL}", f"--model_base_path={directory}",
                "--max_num_load_retries=0", "--num_load_threads=1",
            )  # fmt: skip
            log = self.line.folder / f"server-{colour.value}.log"
            server = RunningServer(
                flags=flags, log=log, port=free_port(), rest_port=free_port()
            ).start()
            self._servers.append(server)
            slot = FaultySlot(
                rest=free_port(),
                grpc_port=free_port(),
                to_rest=server.rest_port,
                to_grpc=server.port,
            )
            self.slots[colour] = slot
            record[colour.value] = {
                "grpc": slot.grpc_port, "rest": slot.rest, "directory": str(directory),
            }  # fmt: skip
        slots = {"format": "slots/1", "model": MODEL, "slots": record}
        (state_dir / MODEL / "slots.json").write_text(json.dumps(slots))
        files = router_files(state_dir)
        write_bootstrap(files, port=self.port, admin_port=free_port(), host="127.0.0.1")
        with (self.line.folder / "envoy.log").open("ab") as log_writer:
            self._envoy = subprocess.Popen(
                envoy_command(files), stdout=log_writer, stderr=log_writer
            )
        # The keeper renders routes and measures leases but reads no statistics: it would cut a
        # candidate that harms before the judge has a step to judge (tests/integration/rollout/
        # test_keeper_cuts.py sees that it does).
        arguments = (state_dir, self._stop, 0.05, None, lambda _files: None)
        self._keeper = threading.Thread(target=keeper.run, args=arguments, daemon=True)
        self._keeper.start()

    def close(self) -> None:
        self._stop.set()
        if self._keeper is not None:
            self._keeper.join()
        if self._envoy is not None:
            self._envoy.terminate()
            self._envoy.wait()
        for slot in self.slots.values():
            slot.close()
        for server in self._servers:
            server.stop()

    def client(self, transport: httpx.BaseTransport | None = None) -> httpx.Client:
        return httpx.Client(trust_env=False, timeout=40, transport=transport)

    def settle(self) -> None:
        """Wait until the router serves what the state record says."""
        record = self.line.now()
        wanted = f"{record.rollout}:{record.status.step}" if record.status.share else None

        def serves() -> bool:
            try:
                answer = self._ask(self.settling, "settling")
            except httpx.TransportError:
                return False
            return answer.status_code == 200 and answer.headers.get("x-headrace-step") == wanted

        eventually(serves)

    def _ask(self, inputs: Any, user: str) -> httpx.Response:
        with self.client() as client:
            return client.post(
                f"{self.url}/v1/models/{MODEL}:predict",
                json={"inputs": inputs},
                headers={"x-model": MODEL, "x-user-id": user},
            )

    def answers_of(self, bundle: Path, users: int = 5) -> bool:
        """Say whether users get, through the router, what this bundle promises."""
        golden = list(read_golden(bundle))[:users]
        for request in golden:
            answer = self._ask(request.inputs, request.user)
            found = answer.json()["outputs"][request.ranked][0]
            if answer.status_code != 200 or tuple(found[:5]) != request.answer.items[:5]:
                return False
        return True

    def bake(self, release_id: str, step: int, seconds: float = 240) -> CountingTransport:
        """Let the shoppers ask all requests of the step in progress; count what they got."""
        counting = CountingTransport(limits=httpx.Limits(max_connections=WORKERS))
        mark = used_up_path(self.line.state_dir, MODEL, release_id, step)
        deadline = time.monotonic() + seconds
        with ThreadPoolExecutor(WORKERS) as pool, self.client(counting) as client:
            shoppers = Shoppers(
                state_dir=self.line.state_dir,
                router_url=self.url,
                pool=pool,
                client=client,
                say=lambda _sentence: None,
            )
            while not mark.exists():
                assert time.monotonic() < deadline, f"step {step} not used up in {seconds} s"
                if not shoppers.turn():
                    time.sleep(0.05)
        return counting

    def exposures(self, rollout: str) -> list[dict[str, Any]]:
        return list(read_exposures(rollout_folder(self.line.state_dir, MODEL, rollout)))
