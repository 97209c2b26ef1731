"""`headrace shadow`: listens for mirrored requests by REST and by gRPC, and compares them."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.log_lines import Level, LineLog, Subject
from tasks.contracts.state_file import replace_text
from tasks.rollout.envoy import router_files
from tasks.rollout.shadow import ASK_SECONDS, Comparator, Inbox, Mirrored, rest_requests
from tasks.rollout.shadow_routes import MAX_BODY_BYTES, ShadowAddress
from tasks.serving.mirrored_predict import SlotAsker, mirrored_requests

if TYPE_CHECKING:
    from collections.abc import Sequence

PERCENT = 5.0


def run(
    state_dir: Path,
    stop: threading.Event,
    *,
    port: int,
    grpc_port: int,
    percent: float = PERCENT,
    log: LineLog | None = None,
) -> None:
    """Listen, say where, and compare until told to stop."""
    log = log or LineLog(subject=Subject(process="shadow"))
    inbox = Inbox()

    def take(model: str, body: bytes) -> None:
        inbox.put(Mirrored(model=model, body=body, protocol="grpc"))

    def drop(why: str) -> None:
        inbox.dropped[why] += 1

    limits = httpx.Limits(max_connections=4)
    with (
        rest_requests(port, inbox) as rest,
        mirrored_requests(grpc_port, MAX_BODY_BYTES, take, drop) as grpc,
        httpx.Client(timeout=ASK_SECONDS, limits=limits, trust_env=False) as client,
    ):
        address = ShadowAddress(port=rest, grpc=grpc, percent=percent)
        replace_text(router_files(state_dir).shadow, address.to_text())
        ask_grpc = SlotAsker(timeout_seconds=ASK_SECONDS)
        comparator = Comparator(state_dir=state_dir, client=client, ask_grpc=ask_grpc, inbox=inbox)
        while not stop.is_set():
            try:
                comparator.turn()
            except OSError as error:  # a full disk; the next turn writes again
                log.say(Level.ERROR, f"shadow: {error}")
                stop.wait(1)
        comparator.write()


def main(argv: Sequence[str] | None = None) -> int:
    """Compare until SIGTERM."""
    parser = argparse.ArgumentParser(prog="headrace shadow", description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True, help="folder of state records")
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--grpc-port", type=int, required=True, help="the same, for gRPC")
    parser.add_argument(
        "--percent", type=float, default=PERCENT, help=f"of requests (default: {PERCENT:g})"
    )
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log = LineLog.from_environment(Subject(process="shadow"))
    run(
        options.state_dir,
        stop,
        port=options.port,
        grpc_port=options.grpc_port,
        percent=options.percent,
        log=log,
    )
    return int(ExitCode.DONE)


if __name__ == "__main__":
    raise SystemExit(main())
