"""The server of a slot that is a process of its own; standard library only. usage: NAME PORT"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    name = ""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self._answer({"outputs": {"items": [[self.name]], "scores": [[1.0]]}})

    def do_GET(self) -> None:
        rows = [{"version": str(number), "state": "AVAILABLE"} for number in range(1, 10)]
        self._answer({"model_version_status": rows})

    def _answer(self, record: dict[str, Any]) -> None:
        body = json.dumps(record).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    Handler.name = sys.argv[1]
    Server(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
