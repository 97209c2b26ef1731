"""A slot as a process of its own: HTTP/1.1, healthy until a line on standard input says otherwise.

usage: python -m tests.integration.chaos.slot NAME PORT
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import sys
from enum import StrEnum
from typing import cast

HEALTHY_SECONDS = 0.014  # ten times that is just below the limit of one try
SLOW_SECONDS = 10 * HEALTHY_SECONDS
SLOWER_SECONDS = 0.4  # a good answer, long after the limit of one try
LATE_SECONDS = 0.155  # after the limit of one try, before the answer of stable
SPLIT_SECONDS = 0.001
LEAK_BYTES = 48 * 1024 * 1024  # of each request, until something kills the process


class Ill(StrEnum):
    """What a slot can be told on its standard input."""

    ERRORS = "errors"
    UNAVAILABLE = "unavailable"
    RESETS = "resets"
    HANGS = "hangs"
    GARBAGE = "garbage"
    SLOW = "slow"
    SLOWER = "slower than one try"
    LATE_ERRORS = "late errors"
    LEAKS = "leaks"


SECONDS: dict[Ill | None, float] = {
    Ill.SLOW: SLOW_SECONDS,
    Ill.SLOWER: SLOWER_SECONDS,
    Ill.LATE_ERRORS: LATE_SECONDS,
}
STATUSES: dict[Ill | None, str] = {
    Ill.ERRORS: "500 Internal Server Error",
    Ill.UNAVAILABLE: "503 Service Unavailable",
    Ill.LATE_ERRORS: "500 Internal Server Error",
}


class Slot(asyncio.Protocol):
    """One connection; `ill` is shared by all of them."""

    ill: Ill | None = None
    name = ""
    leaked: list[bytearray]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.waiting = b""

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        head, found, rest = self.waiting.partition(b"\r\n\r\n")
        if not found:
            return
        length = _content_length(head)
        if len(rest) >= length:
            self.waiting = rest[length:]
            self.meet(length)

    def meet(self, length: int) -> None:
        ill = Slot.ill
        if ill is Ill.LEAKS:
            leak()
        if ill is Ill.RESETS:
            reset(self.transport)
        elif ill is Ill.GARBAGE:
            self.transport.write(b"this is not HTTP\r\n\r\n")
        elif ill is not Ill.HANGS:
            seconds = SECONDS.get(ill, HEALTHY_SECONDS)
            status = STATUSES.get(ill, "200 OK")
            asyncio.get_running_loop().call_later(seconds, self.answer, status, length)

    def answer(self, status: str, length: int) -> None:
        body = json.dumps({"slot": Slot.name, "bytes": length}).encode()
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        if not self.transport.is_closing():
            # In two packets, as servers do that send their head first.
            self.transport.write(head)
            asyncio.get_running_loop().call_later(SPLIT_SECONDS, self._write, body)

    def _write(self, body: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(body)


def leak() -> None:
    """Keep more memory."""
    try:
        Slot.leaked.append(bytearray(b"x") * LEAK_BYTES)
    except MemoryError:
        os.abort()  # as a server ends whose allocation is refused


def reset(transport: asyncio.Transport) -> None:
    """End a connection with RST."""
    linger = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def serve(name: str, port: int) -> None:
    Slot.name, Slot.leaked = name, []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Slot, "127.0.0.1", port, backlog=512)

    def told() -> None:
        line = os.read(sys.stdin.fileno(), 64).decode().strip()
        if not line:  # whoever started it has ended
            os._exit(0)
        Slot.ill = Ill(line)

    loop.add_reader(sys.stdin.fileno(), told)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
