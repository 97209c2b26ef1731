"""What the router adds to a request: the same requests to a slot directly and through the router.

A third way is the peer: through an Envoy that only passes requests on, so that it shows what any
proxy costs on this machine. The three take turns; a release is in a step of 25 %, so that buckets
are computed, candidate routes are met and the keeper reads its statistics. The slots are Envoys
that answer 1 KiB at once, the user is Debian's wrk. On a machine that others use, run it by
`chrt -r 5`: else its tail is the scheduler's.
usage: python -m bench.router_cost [--turns 5] [--seconds 10] [--rps 500]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.contracts.requests import PLANS
from tasks.rollout.envoy import envoy_command, find_envoy, router_files, write_bootstrap
from tasks.rollout.phases import Decision
from tasks.rollout.record import Colour
from tasks.rollout.state import open_state

MODEL = "shop"
BODY = b"x" * 1024
WARM_SECONDS = 2.0
SCRIPT = Path(__file__).with_suffix(".lua")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, kw_only=True)
class Times:
    p50_ms: float
    p99_ms: float
    rps: float


def ask_for(port: int, rps: float, seconds: float, seed: int) -> Times:
    """Ask one after another, each when it is due, on one connection."""
    number = round(rps * seconds)
    with tempfile.TemporaryDirectory() as scratch:
        answers = Path(scratch) / "answers"
        wanted = {"RPS": rps, "REQUESTS": number, "SEED": seed, "FILE": answers}
        flags = ("--threads", "1", "--connections", "1", "--timeout", "10s")
        limit = ("--duration", f"{math.ceil(10 * seconds)}s")  # the script ends sooner
        command = [find_wrk(), *flags, *limit, "--script", str(SCRIPT), f"http://127.0.0.1:{port}/"]
        environment = {f"BENCH_{name}": str(value) for name, value in wanted.items()}
        said = subprocess.run(
            command, env=os.environ | environment, check=True, capture_output=True, text=True
        ).stdout
        if not answers.exists():
            raise ConnectionError(said)
        *lines, rate = answers.read_text().splitlines()
    refused = [line for line in lines if line.startswith("status")]
    if refused:
        message = f"expected 200 of port {port}, found {len(refused)} others: {refused[0]}"
        raise ConnectionError(message)
    took = sorted(map(float, lines))
    return Times(
        p50_ms=statistics.median(took) * 1000,
        p99_ms=took[int(0.99 * number)] * 1000,
        rps=float(rate.removeprefix("rps ")),
    )


def find_wrk() -> str:
    found = shutil.which("wrk")
    if found is None:
        message = "wrk: expected it on PATH, found none: `apt-get install wrk`"
        raise FileNotFoundError(message)
    return found


def _ask(connection: socket.socket, user: str) -> None:
    head = (
        f"POST /v1/models/{MODEL}:predict HTTP/1.1\r\nhost: {MODEL}.headrace\r\n"
        f"x-user-id: {user}\r\ncontent-length: {len(BODY)}\r\n\r\n"
    )
    connection.sendall(head.encode() + BODY)
    answer = b""
    while len(answer.partition(b"\r\n\r\n")[2]) < len(BODY):
        more = connection.recv(65_536)
        if not more:
            raise ConnectionError(answer)
        answer += more
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(answer[:200])


def slot_config(port: int) -> dict[str, Any]:
    """Return an Envoy that answers everything by itself."""
    types = "type.googleapis.com/envoy.extensions.filters"
    answer = {"status": 200, "body": {"inline_string": BODY.decode()}}
    route = {"match": {"prefix": "/"}, "direct_response": answer}
    buffer = {"@type": f"{types}.http.buffer.v3.Buffer", "max_request_bytes": 65_536}
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "slot",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "buffer", "typed_config": buffer},  # answers when the request is whole
            {"name": "router", "typed_config": {"@type": f"{types}.http.router.v3.Router"}},
        ],
    }
    filters = [{"name": "http", "typed_config": manager}]
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    listener = {"name": "slot", "address": address, "filter_chains": [{"filters": filters}]}
    return {"static_resources": {"listeners": [listener]}}


def plain_proxy_config(port: int, slot: int) -> dict[str, Any]:
    """Return an Envoy that passes everything on to a slot and knows no rule."""
    types = "type.googleapis.com/envoy.extensions.filters"
    route = {"match": {"prefix": "/"}, "route": {"cluster": "slot"}}
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "plain",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{types}.http.router.v3.Router"}}
        ],
    }
    endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": slot}}}
    cluster = {
        "name": "slot",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "slot",
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    filters = [{"name": "http", "typed_config": manager}]
    listener = {"name": "plain", "address": address, "filter_chains": [{"filters": filters}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


@contextmanager
def running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def eventually(met: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        if time.monotonic() > deadline:
            raise TimeoutError(met)
        time.sleep(0.05)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as connection:
        _ask(connection, "ann")
        return True
    return False


def one_thread(config: Path, content: dict[str, Any]) -> list[str]:
    config.write_text(json.dumps(content))
    flags = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "error")
    return [str(find_envoy()), "--config-path", str(config), *flags]


@contextmanager
def router(folder: Path) -> Iterator[tuple[int, int, int]]:
    """Give the ports of a slot, of a plain proxy before it and of the router before it."""
    state_dir = folder / "state"
    (state_dir / MODEL).mkdir(parents=True)
    ports = {colour: free_port() for colour in Colour}
    slots = {colour.value: {"rest": port, "grpc": port} for colour, port in ports.items()}
    record = {"format": "slots/1", "model": MODEL, "slots": slots}
    (state_dir / MODEL / "slots.json").write_text(json.dumps(record))
    files, port = router_files(state_dir), free_port()
    write_bootstrap(files, port=port, admin_port=free_port(), host="127.0.0.1")
    with ExitStack() as stack:
        for colour in (Colour.BLUE, Colour.GREEN):
            command = one_thread(folder / f"{colour}.json", slot_config(ports[colour]))
            stack.enter_context(running(command, folder / "slots.log"))
        plain, slot = free_port(), ports[Colour.BLUE]
        command = one_thread(folder / "plain.json", plain_proxy_config(plain, slot))
        stack.enter_context(running(command, folder / "plain.log"))
        keeper = [sys.executable, "-m", "tasks.rollout.keeper", "--state-dir", str(state_dir)]
        stack.enter_context(running(keeper, folder / "keeper.log"))
        stack.enter_context(running(envoy_command(files), folder / "envoy.log"))
        step_of_25_percent(state_dir)
        eventually(lambda: "r2:2" in files.routes.read_text())
        eventually(lambda: all(map(answers, (port, plain, slot))))
        yield slot, plain, port


def step_of_25_percent(state_dir: Path) -> None:
    state, plan = open_state(state_dir, MODEL), PLANS["replay"]
    state.reserve_slot("first")
    state.promote("first")
    state.reserve_slot("second")
    state.begin_step("second", 1, plan, per_try_timeout_ms=150)
    state.record_verdict("second", 1, Decision.PROCEED, numbers={})
    state.begin_step("second", 2, plan, per_try_timeout_ms=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rps", type=float, default=500.0)
    options = parser.parse_args()
    ways = ("slot", "plain Envoy", "router")
    turns: list[dict[str, Times]] = []
    with tempfile.TemporaryDirectory() as scratch, router(Path(scratch)) as ports:
        for port in ports:
            ask_for(port, options.rps, WARM_SECONDS, 0)
        for turn in range(options.turns):
            order = [(place + turn) % len(ways) for place in range(len(ways))]
            found = {
                ways[way]: ask_for(ports[way], options.rps, options.seconds, turn) for way in order
            }
            turns.append(found)
            print("; ".join(f"{way} {_line(found[way])}" for way in ways), flush=True)
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    for way in ways[1:]:
        print(f"{way} adds, median of {options.turns}: {_added(turns, way)}")
    print(f"{os.cpu_count()} cores, load {load}")


def _added(turns: list[dict[str, Times]], way: str) -> str:
    p50, p99 = (
        statistics.median(getattr(one[way], name) - getattr(one["slot"], name) for one in turns)
        for name in ("p50_ms", "p99_ms")
    )
    return f"p50 {p50:.3f} ms, p99 {p99:.3f} ms"


def _line(times: Times) -> str:
    return f"p50 {times.p50_ms:.3f} p99 {times.p99_ms:.3f} ms at {times.rps:.0f} rps"


if __name__ == "__main__":
    main()
