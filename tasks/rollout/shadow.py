"""The comparator: asks both slots what a mirrored request asked, off the users' path.

Envoy discards its answers, so it gives an empty one at once. What it cannot take is dropped and
counted: users never wait for it, and slots are asked at a bounded pace. A request that came by gRPC
is asked by gRPC, through the client of whoever runs it.
"""

from __future__ import annotations

import json
import queue
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from tasks.contracts.errors import BadRequestError, HeadraceError
from tasks.contracts.record_store import RecordStore
from tasks.contracts.requests import MODEL_NAME
from tasks.contracts.state_file import replace_text
from tasks.rollout.comparison import (
    SHADOW_REPORT,
    Comparison,
    Ranking,
    rankings_in,
    report_text,
)
from tasks.rollout.exposures import rollout_folder
from tasks.rollout.record import Colour, StateRecord
from tasks.rollout.routes import Protocol, SlotAddress
from tasks.rollout.shadow_routes import MAX_BODY_BYTES
from tasks.rollout.slot_addresses import slot_addresses
from tasks.rollout.state import open_state

QUEUE_LIMIT = 256
MAX_PER_SECOND = 20.0  # comparisons: slots serve users first
ASK_SECONDS = 5.0
WRITE_SECONDS = 2.0
RECORD_SECONDS = 0.5  # between two looks at a model's record
MAX_PAIRS = 64  # models whose slots are remembered: clients choose the names
_PREDICT = re.compile(rf"^/v1/models/(?P<model>{MODEL_NAME.pattern})(/\S*)?:predict$")


@dataclass(frozen=True, kw_only=True)
class Mirrored:
    """One mirrored request; who asked it is not kept."""

    model: str
    body: bytes
    protocol: Protocol = "rest"


# An address, a PredictRequest and a version; returns the outputs as REST gives them by column.
AskGrpc = Callable[[str, bytes, int], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Both slots of a rollout, each with the version that it serves."""

    rollout: str
    candidate: int
    stable: int
    candidate_slot: SlotAddress
    stable_slot: SlotAddress


@dataclass(kw_only=True)
class Inbox:
    """Takes mirrored requests without waiting; what does not fit is dropped and counted."""

    limit: int = QUEUE_LIMIT
    dropped: Counter[str] = field(default_factory=Counter)
    _waiting: queue.Queue[Mirrored] = field(init=False)

    def __post_init__(self) -> None:
        """Make the queue."""
        self._waiting = queue.Queue(self.limit)

    def put(self, request: Mirrored) -> bool:
        """Keep the request, or drop it; a path or a message may name anything as its model."""
        if not MODEL_NAME.fullmatch(request.model):
            self.dropped["path"] += 1
            return False
        try:
            self._waiting.put_nowait(request)
        except queue.Full:
            self.dropped["queue"] += 1
            return False
        return True

    def take(self, seconds: float) -> Mirrored | None:
        """Return the next request; None when none comes."""
        try:
            return self._waiting.get(timeout=seconds)
        except queue.Empty:
            return None


@dataclass(kw_only=True)
class Comparator:
    """Compares one mirrored request after the other, and writes what it found."""

    state_dir: Path
    records: RecordStore | None = None  # None: files below the state folder
    slot_host: str | None = None  # name of a slot's Service; None: slots.json
    client: httpx.Client
    ask_grpc: AskGrpc
    inbox: Inbox = field(default_factory=Inbox)
    max_per_second: float = MAX_PER_SECOND
    monotonic: Callable[[], float] = time.monotonic
    _comparisons: dict[tuple[str, int, int], Comparison] = field(default_factory=dict)
    _pairs: dict[str, tuple[float, Pair | None]] = field(default_factory=dict)
    _next_at: float = 0.0
    _changed: set[tuple[str, int, int]] = field(default_factory=set)
    _written_at: float = 0.0

    def turn(self, wait_seconds: float = 0.2) -> bool:
        """Compare the next request, if there is one; return whether there was."""
        request = self.inbox.take(wait_seconds)
        if request is not None:
            self._handle(request)
        if self.monotonic() - self._written_at >= WRITE_SECONDS:
            self.write()
        return request is not None

    def write(self) -> None:
        """Replace the reports that changed."""
        self._written_at = self.monotonic()
        for name in sorted(self._changed):
            comparison = self._comparisons[name]
            folder = rollout_folder(self.state_dir, comparison.model, f"r{comparison.candidate}")
            text = report_text(comparison, self.inbox.dropped)
            replace_text(folder / SHADOW_REPORT, text, durable=False)
        self._changed.clear()

    def _handle(self, request: Mirrored) -> None:
        now = self.monotonic()
        if now < self._next_at:  # the pace: neither the queue nor the slots fill up
            self.inbox.dropped["pace"] += 1
            return
        pair = self._pair_of(request.model, now)
        if pair is None:
            self.inbox.dropped["no candidate"] += 1
            return
        self._next_at = now + 1 / self.max_per_second
        self._compare(request, pair)

    def _compare(self, request: Mirrored, pair: Pair) -> None:
        try:
            candidate = self._ask(request, pair.candidate_slot, pair.candidate)
            stable = self._ask(request, pair.stable_slot, pair.stable)
        except (httpx.HTTPError, HeadraceError, ValueError):
            self.inbox.dropped["slot"] += 1
            return
        if not candidate or len(candidate) != len(stable):
            self.inbox.dropped["not comparable"] += 1
            return
        name = (request.model, pair.candidate, pair.stable)
        comparison = self._comparisons.setdefault(name, _new(name))
        for mine, theirs in zip(candidate, stable, strict=True):
            comparison.add(mine, theirs)
        self._changed.add(name)

    def _ask(self, request: Mirrored, slot: SlotAddress, version: int) -> list[Ranking]:
        if request.protocol == "grpc":
            address = f"{slot.host}:{slot.grpc}"
            return rankings_in({"outputs": self.ask_grpc(address, request.body, version)})
        url = f"http://{slot.host}:{slot.rest}/v1/models/{request.model}/versions/{version}:predict"
        headers = {"content-type": "application/json"}
        answer = self.client.post(url, content=request.body, headers=headers)
        answer.raise_for_status()
        return rankings_in(json.loads(answer.content))

    def _pair_of(self, model: str, now: float) -> Pair | None:
        known = self._pairs.get(model)
        if known is not None and now - known[0] < RECORD_SECONDS:
            return known[1]
        try:
            record = open_state(self.state_dir, model, records=self.records).peek()
            pair = _pair(record, slot_addresses(self.state_dir, model, self.slot_host) or {})
        except (HeadraceError, OSError):
            pair = None
        self._pairs.pop(model, None)
        self._pairs[model] = (now, pair)
        if len(self._pairs) > MAX_PAIRS:  # the one that was looked up longest ago
            del self._pairs[next(iter(self._pairs))]
        return pair


def _new(name: tuple[str, int, int]) -> Comparison:
    model, candidate, stable = name
    since = datetime.now(tz=UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Comparison(model=model, candidate=candidate, stable=stable, since=since)


def _pair(record: StateRecord, slots: Mapping[Colour, SlotAddress]) -> Pair | None:
    candidate, stable = record.roles.candidate, record.roles.stable
    if record.candidate is None or record.stable is None or record.rollout is None:
        return None
    if candidate is None or candidate not in slots or stable is None or stable not in slots:
        return None
    return Pair(
        rollout=record.rollout,
        candidate=record.candidate.release_number,
        stable=record.stable.release_number,
        candidate_slot=slots[candidate],
        stable_slot=slots[stable],
    )


def _handler(inbox: Inbox) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30.0

        def do_POST(self) -> None:
            length = self.headers.get("content-length") or ""
            if not length.isdigit() or int(length) > MAX_BODY_BYTES:
                inbox.dropped["body"] += 1
                self.close_connection = True
                self._answer()
                return
            body = self.rfile.read(int(length))
            found = _PREDICT.match(self.path)
            if found is None:
                inbox.dropped["path"] += 1
            else:
                inbox.put(Mirrored(model=found["model"], body=body))
            self._answer()

        def do_GET(self) -> None:
            inbox.dropped["path"] += 1
            self._answer()

        def _answer(self) -> None:
            self.send_response(202)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing: who asked is nobody's business."""

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


@contextmanager
def rest_requests(host: str, port: int, inbox: Inbox) -> Iterator[int]:
    """Listen there and put each `:predict` into the inbox; the port, which 0 leaves free.

    BadRequestError: the host is none of this machine's, or the port is taken.
    """
    try:
        server = _Server((host, port), _handler(inbox))
    except OSError as error:
        message = f"shadow: expected to listen on {host}:{port}, found: {error}"
        raise BadRequestError(message) from error
    with server:
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
