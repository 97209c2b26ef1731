"""Stands between Airflow and the Kubernetes API: holds, answers for, or cuts what a rule names."""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

HOLD_SECONDS = 90.0
_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "host"}


@dataclass
class Exchange:
    """One request on its way and, later, its answer."""

    method: str
    path: str
    body: bytes
    status: int = 0
    answer: bytes = b""

    @property
    def verb(self) -> str:
        if self.method == "POST":
            return "create"
        if self.method == "DELETE":
            return "delete"
        return "log" if "/log?" in self.path or self.path.endswith("/log") else "read"

    @property
    def shows_the_end(self) -> bool:
        return self.verb == "read" and b'"terminated":' in self.answer


ONCE, ALWAYS = 1, 10**9


@dataclass
class Rule:
    """What happens to the requests of one cell; `cell` is part of the pod's name."""

    cell: str
    verbs: tuple[str, ...] = ("create", "read", "delete", "log")
    before: Callable[[Exchange], tuple[int, Any, dict[str, str]] | None] = lambda exchange: None
    after: Callable[[Exchange], None] = lambda exchange: None
    times: int = 1
    seen: int = 0

    def fits(self, exchange: Exchange) -> bool:
        name = self.cell.replace("_", "-").encode()
        return exchange.verb in self.verbs and name in exchange.path.encode() + exchange.body


@dataclass
class Hold:
    """A request stopped on its way until the test lets it go."""

    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def __call__(self, exchange: Exchange) -> None:
        self.reached.set()
        self.released.wait(HOLD_SECONDS)


class FaultyProxy:
    """Plain HTTP on loopback in front of the API server that a kubeconfig names."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._upstream = urlsplit(cluster["server"])
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile("wb") as pair:
            for name in ("client-certificate-data", "client-key-data"):
                pair.write(base64.b64decode(user[name]))
            pair.flush()
            self._tls.load_cert_chain(pair.name)
        self.rules: list[Rule] = []
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._serving: threading.Thread | None = None
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def start(self) -> None:
        self._serving = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._serving.start()

    def stop(self) -> None:
        if self._serving is not None:  # else shutdown waits for ever
            self._server.shutdown()
        self._server.server_close()

    def rule(self, rule: Rule) -> Rule:
        with self.lock:
            self.rules.append(rule)
        return rule

    def missed(self, cell: str) -> list[str]:
        """Return what was to happen to a cell so many times, and did not."""
        with self.lock:
            return [
                f"{'/'.join(one.verbs)}: {one.seen} of {one.times}"
                for one in self.rules
                if one.cell == cell and one.seen < one.times < ALWAYS
            ]

    def _fitting(self, exchange: Exchange) -> list[Rule]:
        with self.lock:
            return [one for one in self.rules if one.fits(exchange) and one.seen < one.times]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                exchange = Exchange(self.command, self.path, self.rfile.read(length))
                rules = proxy._fitting(exchange)
                for rule in rules:
                    told = rule.before(exchange)
                    if told is not None:
                        rule.seen += 1
                        return self._tell(*told)
                return proxy._forward(self, exchange, rules)

            def _tell(self, code: int, answer: Any, headers: dict[str, str]) -> None:
                if code == 0:
                    self.close_connection = True
                    return
                data = json.dumps(answer).encode()
                self.send_response(code)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = do_PATCH = do_PUT = _pass

            def log_message(self, *_: Any) -> None:
                return

        return Handler

    def _forward(
        self, handler: BaseHTTPRequestHandler, exchange: Exchange, rules: list[Rule]
    ) -> None:
        connection = http.client.HTTPSConnection(
            str(self._upstream.hostname), self._upstream.port, context=self._tls, timeout=600
        )
        headers = {k: v for k, v in handler.headers.items() if k.lower() not in _HOP}
        try:
            connection.request(exchange.method, exchange.path, exchange.body or None, headers)
            answer = connection.getresponse()
            streams = "follow=true" in exchange.path.lower()
            if not streams:
                exchange.status, exchange.answer = answer.status, answer.read()
                for rule in rules:
                    rule.after(exchange)
                    rule.seen += 1
            handler.send_response(exchange.status or answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP:
                    handler.send_header(name, value)
            if streams:
                handler.send_header("Connection", "close")
                handler.end_headers()
                handler.close_connection = True
                while piece := answer.read1(65536):
                    handler.wfile.write(piece)
                    handler.wfile.flush()
                return
            handler.send_header("Content-Length", str(len(exchange.answer)))
            handler.end_headers()
            handler.wfile.write(exchange.answer)
        except (OSError, http.client.HTTPException):
            handler.close_connection = True
        finally:
            connection.close()


def answering(
    code: int, reason: str = "InternalError", **headers: str
) -> Callable[[Exchange], Any]:
    """Return a `before` that answers in the API's place."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "code": code,
        "message": "as told by the fault matrix",
        "details": {"kind": "pods"},
    }
    return lambda exchange: (code, body, {k.replace("_", "-"): v for k, v in headers.items()})


def away(seconds: float) -> Callable[[Exchange], Any]:
    """Return a `before` that hangs up on everything for so long, from the first request on."""
    first: list[float] = []

    def hang_up(exchange: Exchange) -> Any:
        first.append(time.monotonic())
        return (0, None, {}) if time.monotonic() - first[0] < seconds else None

    return hang_up


def pod_name(exchange: Exchange) -> str:
    """Return the pod that a request names."""
    found = re.search(r"/pods/([a-z0-9-]+)", exchange.path)
    return found.group(1) if found else str(json.loads(exchange.body)["metadata"]["name"])
