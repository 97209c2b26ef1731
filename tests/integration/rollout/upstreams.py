"""Stub slots on loopback: REST and gRPC servers that answer, fail, hang or vanish on command."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc

METHOD = "/tensorflow.serving.PredictionService/Predict"
FAULTY = b"faulty"  # a request that says so is refused whatever the mood: REST 404, gRPC 9


@dataclass
class Mood:
    """How a stub behaves; changed while it runs."""

    name: str
    status: int = 200
    grpc_status: grpc.StatusCode | None = None
    delay_seconds: float = 0.0
    garbage: bool = False
    reset: bool = False
    resets_left: int = 0  # so many requests are reset, then it is well
    half: bool = False  # begin to answer, wait, and break off
    half_seconds: float = 0.0
    half_status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    held_seconds: float = 0.0  # by gRPC, between the head of an answer and all the rest
    padding_bytes: int = 0
    answers: Callable[[bytes], bytes] | None = None  # by gRPC, instead of the name
    asked: int = 0
    bodies: list[int] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    wake: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        if self.delay_seconds:
            self.wake.wait(self.delay_seconds)


def _body(request: BaseHTTPRequestHandler) -> bytes:
    """Read a body of a stated length, or in chunks."""
    if request.headers.get("transfer-encoding") != "chunked":
        return request.rfile.read(int(request.headers.get("content-length") or 0))
    body = b""
    while length := int(request.rfile.readline(), 16):
        body += request.rfile.read(length)
        request.rfile.readline()
    request.rfile.readline()  # no trailers
    return body


def _handler(mood: Mood) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = _body(self)
            mood.asked += 1
            mood.bodies.append(len(body))
            mood.headers.append({key.lower(): value for key, value in self.headers.items()})
            mood.wait()
            mood.resets_left -= 1
            if mood.reset or mood.resets_left >= 0:
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
                self.close_connection = True  # the reader holds the socket open until it ends
                return
            if mood.garbage:
                self.wfile.write(b"this is not HTTP\r\n\r\n")
                self.close_connection = True
                return
            outputs = {"items": [[mood.name]], "scores": [[1.0]], "pad": "x" * mood.padding_bytes}
            answer = json.dumps({"outputs": outputs}).encode()
            self.send_response(404 if FAULTY in body else mood.status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            if mood.half:
                self.wfile.write(answer[: len(answer) // 2])
                mood.wake.wait(mood.half_seconds)
                self.close_connection = True
                return
            self.wfile.write(answer)

        def do_GET(self) -> None:
            """Say the model's status, which another thread of a real server also does well."""
            rows = [{"version": str(number), "state": "AVAILABLE"} for number in range(1, 10)]
            answer = json.dumps({"model_version_status": rows}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except (ConnectionError, ValueError, OSError):
                pass  # the router hung up on a slow answer, as it should

    return Handler


class MortalServer(ThreadingHTTPServer):
    """A server whose end also ends its open connections, as that of a process does."""

    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        self.connections: list[socket.socket] = []  # before a bind that may be refused
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def server_close(self) -> None:
        super().server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class RestStub:
    """An HTTP/1.1 server with a mood."""

    def __init__(self, mood: Mood, port: int) -> None:
        self.mood, self.port = mood, port
        self.server = MortalServer(("127.0.0.1", port), _handler(mood))
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.mood.wake.set()
        self.server.shutdown()
        self.server.server_close()


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    head = struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream)
    return head + payload


HEADERS, SETTINGS, PING, DATA, END, ACK, WHOLE = 1, 4, 6, 0, 1, 1, 4


class WithoutStatus(socketserver.StreamRequestHandler):
    """HTTP/2 that answers each gRPC request with a message, ends it, and names no status."""

    def handle(self) -> None:
        self.rfile.read(24)  # the preface
        self.wfile.write(_frame(SETTINGS, 0, 0))
        while len(head := self.rfile.read(9)) == 9:
            kind, flags = head[3], head[4]
            stream = int.from_bytes(head[5:]) & 0x7FFFFFFF
            payload = self.rfile.read(int.from_bytes(head[:3]))
            if kind in {SETTINGS, PING} and not flags & ACK:
                self.wfile.write(_frame(kind, ACK, 0, payload if kind == PING else b""))
            if kind in {HEADERS, DATA} and flags & END:
                # 200, and a literal content-type, by HPACK's static table
                fields = b"\x88\x0f\x10\x10application/grpc"
                self.wfile.write(_frame(HEADERS, WHOLE, stream, fields))
                self.wfile.write(_frame(DATA, END, stream, b"\0\0\0\0\x05green"))


@contextlib.contextmanager
def grpc_without_status(port: int) -> Iterator[None]:
    """Serve at `port` until the end."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", port), WithoutStatus) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield
        server.shutdown()


class GrpcStub:
    """A gRPC server with one method that echoes the mood's name."""

    def __init__(self, mood: Mood, port: int) -> None:
        self.mood = mood

        def predict(request: bytes, context: grpc.ServicerContext) -> bytes:
            mood.asked += 1
            mood.bodies.append(len(request))
            mood.wait()
            if mood.held_seconds:
                context.send_initial_metadata(())
                mood.wake.wait(mood.held_seconds)
            if FAULTY in request:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "unknown signature")
            if mood.half:
                context.send_initial_metadata(())
                mood.wake.wait(mood.half_seconds)
                context.abort(mood.half_status, "broke off")
            if mood.grpc_status is not None:
                context.abort(mood.grpc_status, "told to")
            return mood.name.encode() if mood.answers is None else mood.answers(request)

        service, method = METHOD.strip("/").split("/")
        handler = grpc.method_handlers_generic_handler(
            service, {method: grpc.unary_unary_rpc_method_handler(predict)}
        )
        self.server = grpc.server(
            futures.ThreadPoolExecutor(16),
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)],
        )
        self.server.add_generic_rpc_handlers((handler,))
        self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.server.start()

    def close(self) -> None:
        self.mood.wake.set()
        self.server.stop(0).wait()
