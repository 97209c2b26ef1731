"""`/metrics` of the keeper: the text that it last wrote, for a Prometheus that scrapes.

`/ready` and `/healthy` beside it are for Kubernetes: 200, or 503 with a sentence.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tasks.contracts.errors import BadRequestError

PATH = "/metrics"
READY, HEALTHY = "/ready", "/healthy"
HEALTH_PATHS = frozenset({READY, HEALTHY})
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CLIENT_SECONDS = 10.0  # who asks and then says nothing holds no thread for longer


Trouble = Callable[[str], str | None]  # path -> what is wrong, None for nothing


def no_trouble(_path: str) -> str | None:
    """Stand for a keeper that nobody asks."""
    return None


def _handler(metrics: Path, trouble: Trouble) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = CLIENT_SECONDS

        def do_GET(self) -> None:
            asked = self.path.split("?", 1)[0]
            if asked in HEALTH_PATHS:
                wrong = trouble(asked)
                code = HTTPStatus.OK if wrong is None else HTTPStatus.SERVICE_UNAVAILABLE
                self._answer(code, f"{wrong or 'ok'}\n".encode())
                return
            if asked != PATH:
                self._answer(HTTPStatus.NOT_FOUND, f"expected {PATH}\n".encode())
                return
            try:
                self._answer(HTTPStatus.OK, metrics.read_bytes())
            except FileNotFoundError:
                said = b"the keeper has read nothing of Envoy yet\n"
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, said)

        def _answer(self, status: HTTPStatus, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", CONTENT_TYPE)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing: it is asked every few seconds."""

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True


@contextmanager
def serving_metrics(
    metrics: Path, host: str, port: int | None, trouble: Trouble = no_trouble
) -> Iterator[int | None]:
    """Serve the file in threads of its own; gives the port, and None where none was asked for."""
    if port is None:
        yield None
        return
    try:
        server = _Server((host, port), _handler(metrics, trouble))
    except OSError as error:
        message = f"--metrics-port: expected to listen on {host}:{port}, found: {error}"
        raise BadRequestError(message) from error
    with server:
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        yield server.server_port
        server.shutdown()
