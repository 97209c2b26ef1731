"""What stands before a real model server and can spoil what it says: the planted serving faults."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import grpc

from tasks.serving import protos
from tests.integration.rollout.upstreams import MortalServer

PREDICT = "/tensorflow.serving.PredictionService/Predict"
HANG_SECONDS = 8.0  # far beyond any time limit of one try


@dataclass
class Spoiler:
    """How answers to predict requests are spoilt; all else goes through as it is."""

    status: int | None = None  # REST; gRPC says INTERNAL
    delay_seconds: float = 0.0
    slower: float = 0.0  # this many times what the real server took is waited on top of it,
    least_seconds: float = 0.0  # but not less than this
    wrong_every: int | None = None  # of so many answers one has its first two items exchanged
    worst_first: bool = False  # the last item of the list in every place
    asked: int = 0
    spoilt: int = 0
    wake: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def heal(self) -> None:
        """Let everything through again."""
        self.wake.set()
        self.status, self.delay_seconds, self.wrong_every = None, 0.0, None
        self.slower, self.least_seconds = 0.0, 0.0
        self.worst_first, self.asked, self.spoilt = False, 0, 0
        self.wake = threading.Event()

    def hang(self) -> None:
        self.delay_seconds = HANG_SECONDS

    def wait(self) -> None:
        if self.delay_seconds:
            self.wake.wait(self.delay_seconds)

    def linger(self, began: float) -> None:
        """Wait on top of what the real server took since `began`."""
        if self.slower:
            took = time.monotonic() - began
            self.wake.wait(max(self.slower * took, self.least_seconds))

    def next_is_spoilt(self) -> bool:
        """Count one answer, and say whether its items are to be changed."""
        with self.lock:
            self.asked += 1
            turn = self.wrong_every is not None and self.asked % self.wrong_every == 0
            self.spoilt += turn or self.worst_first
            return turn or self.worst_first

    def spoil(self, items: list[Any]) -> list[Any]:
        """Return other items in the same places: two exchanged, or one thing ten times."""
        if self.worst_first:
            return [items[-1]] * len(items)
        return [items[1], items[0], *items[2:]]


def _rest_handler(spoiler: Spoiler, target: int) -> type[BaseHTTPRequestHandler]:
    kept = threading.local()

    def ask(method: str, path: str, body: bytes) -> tuple[int, str, bytes]:
        for fresh in (False, True):  # a kept connection may have been closed meanwhile
            if fresh or not hasattr(kept, "connection"):
                kept.connection = http.client.HTTPConnection("127.0.0.1", target, timeout=60)
            try:
                kept.connection.request(method, path, body or None)
                answer = kept.connection.getresponse()
                kind = answer.headers.get("content-type") or "application/json"
                return answer.status, kind, answer.read()
            except (ConnectionError, http.client.HTTPException):
                kept.connection.close()
                if fresh:
                    raise
        raise AssertionError

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            predict = self.path.endswith(":predict")
            if predict:
                spoiler.wait()
            if predict and spoiler.status is not None:
                self._answer(spoiler.status, "application/json", b'{"error": "planted"}')
                return
            began = time.monotonic()
            try:
                status, kind, answer = ask(self.command, self.path, body)
            except OSError:
                self._answer(503, "application/json", b'{"error": "no server behind"}')
                return
            if predict:
                spoiler.linger(began)
            if predict and status == 200 and spoiler.next_is_spoilt():
                record = json.loads(answer)
                record["outputs"]["items"] = [
                    spoiler.spoil(row) for row in record["outputs"]["items"]
                ]
                answer = json.dumps(record).encode()
            self._answer(status, kind, answer)

        do_GET = do_POST

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):  # the router hung up, as it should
                super().handle()

    return Handler


class _GrpcProxy(grpc.GenericRpcHandler):
    def __init__(self, spoiler: Spoiler, target: int) -> None:
        self.spoiler = spoiler
        limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{target}", options=limits)

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._handler(details.method))

    def _handler(self, method: str) -> Callable[[bytes, Any], bytes]:
        ask = self.channel.unary_unary(method)
        predict = method == PREDICT

        def handle(request: bytes, context: Any) -> bytes:
            if predict:
                self.spoiler.wait()
            if predict and self.spoiler.status is not None:
                context.abort(grpc.StatusCode.INTERNAL, "planted")
            began = time.monotonic()
            try:
                answer: bytes = ask(request, timeout=60)
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())
                raise AssertionError from error
            if predict:
                self.spoiler.linger(began)
            if predict and self.spoiler.next_is_spoilt():
                return self._spoilt(answer)
            return answer

        return handle

    def _spoilt(self, answer: bytes) -> bytes:
        response = protos.predict.PredictResponse.FromString(answer)
        items = response.outputs["items"]
        items.string_val[:] = self.spoiler.spoil(list(items.string_val))
        return bytes(response.SerializeToString())


class FaultySlot:
    """Both ports of a slot, each passing on to a real server unless told to spoil."""

    def __init__(self, *, rest: int, grpc_port: int, to_rest: int, to_grpc: int) -> None:
        self.spoiler = Spoiler()
        self.rest, self.grpc_port = rest, grpc_port
        self._http = MortalServer(("127.0.0.1", rest), _rest_handler(self.spoiler, to_rest))
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        self._proxy = _GrpcProxy(self.spoiler, to_grpc)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)]
        )
        self._server.add_generic_rpc_handlers((self._proxy,))
        self._server.add_insecure_port(f"127.0.0.1:{grpc_port}")
        self._server.start()

    def close(self) -> None:
        self.spoiler.wake.set()
        self._http.shutdown()
        self._http.server_close()
        self._server.stop(0).wait()
        self._proxy.channel.close()
