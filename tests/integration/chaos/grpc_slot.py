"""The slot of `slot`, by gRPC as well: what it is told, it does to both.

A relay stands before the gRPC server, since that cannot be made to break its own protocol.
usage: python -m tests.integration.chaos.grpc_slot NAME REST_PORT GRPC_PORT
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

import grpc

from tests.integration.chaos.slot import HEALTHY_SECONDS, SECONDS, Ill, Slot, leak, reset, serve

SERVICE, METHOD = "tensorflow.serving.PredictionService", "Predict"
STATUSES = {
    Ill.ERRORS: grpc.StatusCode.INTERNAL,
    Ill.LATE_ERRORS: grpc.StatusCode.INTERNAL,
    Ill.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}
NEVER_SECONDS = 3600.0


async def predict(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """Say who answers, and how long the request was."""
    ill = Slot.ill
    if ill is Ill.LEAKS:
        leak()
    seconds = NEVER_SECONDS if ill is Ill.HANGS else SECONDS.get(ill, HEALTHY_SECONDS)
    await asyncio.sleep(seconds)
    if ill in STATUSES:
        await context.abort(STATUSES[ill], "told to")
    return json.dumps({"slot": Slot.name, "bytes": len(request)}).encode()


class Wire(asyncio.Protocol):
    """One end of a relayed connection."""

    def __init__(self, to: Wire | None = None) -> None:
        self.to = to
        self.waiting = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.send(b"")

    def send(self, data: bytes) -> None:
        self.waiting += data
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(self.waiting)
            self.waiting = b""

    def data_received(self, data: bytes) -> None:
        if self.to is not None:
            self.to.send(data)

    def connection_lost(self, _: Exception | None) -> None:
        if self.to is not None and self.to.transport is not None:
            self.to.transport.close()


class Front(Wire):
    """The router's end: here the protocol is broken."""

    def __init__(self, port: int) -> None:
        super().__init__(to=Wire(self))
        self.port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        self.behind = loop.create_task(
            loop.create_connection(lambda: cast("Wire", self.to), "127.0.0.1", self.port)
        )

    def data_received(self, data: bytes) -> None:
        transport = self.transport
        assert transport is not None
        if Slot.ill is Ill.RESETS:
            reset(transport)
        elif Slot.ill is Ill.GARBAGE:
            transport.write(b"this is not HTTP/2\r\n\r\n")
        else:
            super().data_received(data)


async def serve_both(name: str, rest_port: int, grpc_port: int) -> None:
    handler = grpc.unary_unary_rpc_method_handler(predict)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
    )
    behind = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Front(behind), "127.0.0.1", grpc_port, backlog=512)
    await serve(name, rest_port)


if __name__ == "__main__":
    asyncio.run(serve_both(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
