"""moto's S3 in a process of its own: `moto_server.py PORT [ADDRESS]`, on loopback without one.

Conditional writes are answered one after the other: moto looks and writes in two steps, which S3
does in one.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple

Start = Callable[..., Any]


class OneConditionAtATime:
    """Serialises requests that carry If-None-Match."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        if "HTTP_IF_NONE_MATCH" not in environ:
            return self.app(environ, start_response)
        with self.lock:
            return list(self.app(environ, start_response))


class Quiet(WSGIRequestHandler):
    """Says nothing, and keeps connections."""

    protocol_version = "HTTP/1.1"

    def log_request(self, *_: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    app = OneConditionAtATime(DomainDispatcherApplication(create_backend_app))
    port, address = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
    run_simple(address, port, app, threaded=True, request_handler=Quiet)
