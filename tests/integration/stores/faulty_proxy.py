"""A small HTTP proxy before an S3 server: counts requests, throttles, and cuts connections."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
# A careless server: it repeats what it was sent, and even what nobody sent it.
FORBIDDEN = (
    "<Error><Code>{code}</Code><Message>{key_id} with the secret {secret} may not do this."
    "</Message><AWSAccessKeyId>{key_id}</AWSAccessKeyId></Error>"
)
COPY_BYTES = 256 * 1024
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "date"})


@dataclass(frozen=True)
class Asked:
    """One request as the proxy saw it."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def is_listing(self) -> bool:
        """Say whether it is ListObjects or ListObjectsV2."""
        parts = urlsplit(self.path)
        names = parse_qs(parts.query, keep_blank_values=True).keys()
        bucket_only = parts.path.strip("/").count("/") == 0
        return self.method == "GET" and (
            "list-type" in names or "prefix" in names or (bucket_only and not names)
        )


# What happens to a request: None passes it on.
PASS, THROTTLE, TOO_MANY, FORBID, RESET, RESET_AFTER, CUT = (
    None,
    "503 SlowDown",
    "429",
    "403",
    "reset before the server saw it",
    "reset after the server did it",
    "body cut in the middle",
)
Fate = Callable[[Asked, int], str | None]


def all_pass(_asked: Asked, _number: int) -> str | None:
    return PASS


@dataclass
class Plan:
    """What the proxy does and what it saw."""

    upstream: int
    fate: Fate = all_pass
    forbidden: str = ""  # the body of a 403
    asked: list[Asked] = field(default_factory=list)
    tries: Counter[tuple[str, str]] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def decide(self, asked: Asked) -> str | None:
        """Return the fate of this try; `number` is 1 for the first of its method and path."""
        with self.lock:
            self.asked.append(asked)
            self.tries[asked.method, asked.path] += 1
            return self.fate(asked, self.tries[asked.method, asked.path])

    @property
    def listings(self) -> list[str]:
        """Return the paths of all listings so far."""
        return [one.path for one in self.asked if one.is_listing]

    @contextmanager
    def doing(self, fate: Fate) -> Iterator[None]:
        """Do this to requests within the block, and count from there."""
        with self.lock:
            self.fate, self.asked, self.tries = fate, [], Counter()
        try:
            yield
        finally:
            self.fate = all_pass


class FaultyProxy(ThreadingHTTPServer):
    """Serves until closed."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.plan = Plan(upstream=upstream)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """Say nothing: clients are cut on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyProxy

    def _any(self) -> None:
        asked = Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
        body = self._body()
        fate = self.server.plan.decide(asked)
        if fate == THROTTLE:
            self._answer(503, SLOW_DOWN)
        elif fate == TOO_MANY:
            self._answer(429, b"")
        elif fate == FORBID:
            self._answer(403, self.server.plan.forbidden.encode())
        elif fate == RESET:
            self._reset()
        else:
            self._pass_on(body, fate)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any

    def _body(self) -> bytes:
        if "100-continue" in self.headers.get("Expect", ""):
            pass  # BaseHTTPRequestHandler has told the client to go on
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _pass_on(self, body: bytes, fate: str | None) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.plan.upstream, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
        connection.request(self.command, self.path, body=body or None, headers=headers)
        answer = connection.getresponse()
        if fate == RESET_AFTER:
            answer.read()
            self._reset()
            return
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        length = int(answer.getheader("Content-Length") or 0)
        if self.command == "HEAD":
            self.send_header("Content-Length", str(length))
            self.end_headers()
            return
        data = answer if length else answer.read()
        size = length or len(data)  # type: ignore[arg-type]
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self._send(data, size if fate != CUT else size // 2)
        connection.close()
        if fate == CUT:
            self._reset()

    def _send(self, data: Any, size: int) -> None:
        if isinstance(data, bytes):
            self.wfile.write(data[:size])
            return
        while size > 0 and (piece := data.read(min(COPY_BYTES, size))):
            self.wfile.write(piece)
            size -= len(piece)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> None:
        """End the connection by RST, as a load balancer does."""
        self.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
