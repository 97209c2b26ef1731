"""`headrace shadow`: listens for mirrored requests by REST and by gRPC, and compares them."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from tasks.adapters.watched_records import watched_records
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.log_lines import Level, LineLog, Subject
from tasks.contracts.slot_hosts import slots_text
from tasks.contracts.state_file import replace_text
from tasks.rollout.envoy import router_files
from tasks.rollout.shadow import ASK_SECONDS, Comparator, Inbox, Mirrored, rest_requests
from tasks.rollout.shadow_routes import MAX_BODY_BYTES, ShadowAddress
from tasks.serving.mirrored_predict import SlotAsker, mirrored_requests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.contracts.record_store import RecordStore

PERCENT = 5.0
LOOPBACK, EVERY_ADDRESS = "127.0.0.1", "0.0.0.0"  # noqa: S104  the second where the chart says so


def run(
    state_dir: Path,
    stop: threading.Event,
    *,
    port: int,
    grpc_port: int,
    host: str = LOOPBACK,
    percent: float = PERCENT,
    records: RecordStore | None = None,
    slot_host: str | None = None,
    log: LineLog | None = None,
) -> None:
    """Listen, say where, and compare until told to stop.

    `records` and `slot_host`: where the state records and the slots of a cluster are; without them,
    files below `state_dir`.
    """
    log = log or LineLog(subject=Subject(process="shadow"))
    inbox = Inbox()

    def take(model: str, body: bytes) -> None:
        inbox.put(Mirrored(model=model, body=body, protocol="grpc"))

    def drop(why: str) -> None:
        inbox.dropped[why] += 1

    limits = httpx.Limits(max_connections=4)
    with (
        rest_requests(host, port, inbox) as rest,
        mirrored_requests(host, grpc_port, MAX_BODY_BYTES, take, drop) as grpc,
        httpx.Client(timeout=ASK_SECONDS, limits=limits, trust_env=False) as client,
    ):
        if host != EVERY_ADDRESS:  # else others know how it is reached: the chart tells the keepers
            address = ShadowAddress(host=host, port=rest, grpc=grpc, percent=percent)
            replace_text(router_files(state_dir).shadow, address.to_text())
        comparator = Comparator(
            state_dir=state_dir,
            records=records,
            slot_host=slot_host,
            client=client,
            ask_grpc=SlotAsker(timeout_seconds=ASK_SECONDS),
            inbox=inbox,
        )
        while not stop.is_set():
            try:
                comparator.turn()
            except OSError as error:  # a full disk; the next turn writes again
                log.say(Level.ERROR, f"shadow: {error}")
                stop.wait(1)
        comparator.write()


def parser_of_shadow() -> argparse.ArgumentParser:
    """Return the parser of `headrace shadow`."""
    parser = argparse.ArgumentParser(prog="headrace shadow", description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True, help="folder of state records")
    parser.add_argument(
        "--host",
        default=LOOPBACK,
        help=f"address to bind (default: {LOOPBACK}); at {EVERY_ADDRESS} it writes down no address "
        "of its own, and keepers are told it by `headrace keeper --shadow FILE`",
    )
    parser.add_argument("--port", type=int, required=True, help="0 takes a free one")
    parser.add_argument("--grpc-port", type=int, required=True, help="the same, for gRPC")
    parser.add_argument(
        "--percent",
        type=float,
        default=PERCENT,
        help=f"of requests, written down beside the address (default: {PERCENT:g})",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compare until SIGTERM."""
    options = parser_of_shadow().parse_args(sys.argv[1:] if argv is None else argv)
    log = LineLog.from_environment(Subject(process="shadow"))
    watched = watched_records(os.environ, who="shadow", say=log.info)
    slot_host = os.environ.get("HEADRACE_SLOT_HOST") or None
    if slot_host is not None and watched is not None:
        for model in watched.names:
            slots_text(slot_host, options.state_dir, model)  # a bad template is told at once
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        if watched is not None:
            watched.start()
            stack.callback(watched.close)
        run(
            options.state_dir,
            stop,
            host=options.host,
            port=options.port,
            grpc_port=options.grpc_port,
            percent=options.percent,
            records=watched,
            slot_host=slot_host,
            log=log,
        )
    return int(ExitCode.DONE)


if __name__ == "__main__":
    raise SystemExit(main())
