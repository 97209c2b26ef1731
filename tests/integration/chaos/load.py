"""Users as a process of their own: they keep asking at a fixed rate, whatever the answers take.

usage: python -m tests.integration.chaos.load PORT MODEL RPS SEED FILE
Every answer is a line of FILE; the end of standard input ends it, once all have been answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

NUM_USERS = 20_000
BODY_BYTES = (100, 100, 100, 100, 1024, 1024, 8192, 8192, 32_768, 65_536)
PATIENCE_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request of a user; times are of the machine's monotonic clock."""

    user: str
    due: float
    sent: float
    ended: float
    code: int  # HTTP's, or gRPC's below zero; 0: no answer, or one that is not whole
    variant: str = ""
    step: str = ""
    slot: str = ""
    right: bool = False  # the answer is one to this very request


def read_asked(path: Path) -> list[Asked]:
    """Return what a load wrote; a last line that was cut is left out."""
    text = path.read_text()
    return [Asked(**json.loads(line)) for line in text[: text.rfind("\n") + 1].splitlines()]


@dataclass(frozen=True, kw_only=True)
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Users:
    """Sends each request when it is due, over connections that are kept open."""

    def __init__(self, port: int, model: str, file: TextIO) -> None:
        self.port, self.model, self.file = port, model, file
        self.free: list[Connection] = []

    async def ask(self, user: str, size: int, due: float) -> None:
        sent = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                code, headers, body = await self.answer(user, size)
        except (OSError, ValueError, KeyError, asyncio.IncompleteReadError, TimeoutError):
            code, headers, body = 0, {}, {}
        asked = Asked(
            user=user,
            due=due,
            sent=sent,
            ended=time.monotonic(),
            code=code,
            variant=headers.get("x-headrace-variant", ""),
            step=headers.get("x-headrace-step", ""),
            slot=str(body.get("slot", "")),
            right=code == 200 and body.get("bytes") == size,
        )
        self.file.write(json.dumps(asdict(asked)) + "\n")

    async def answer(self, user: str, size: int) -> tuple[int, dict[str, str], dict[str, object]]:
        """Return code, headers and body of one answer."""
        connection = self.free.pop() if self.free else await self._connect()
        head = (
            f"POST /v1/models/{self.model}:predict HTTP/1.1\r\nhost: {self.model}.headrace\r\n"
            f"x-user-id: {user}\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n"
        )
        done = False
        try:
            connection.writer.write(head.encode() + b"x" * size)
            status, *lines = (await connection.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            body = await connection.reader.readexactly(int(headers["content-length"]))
            done = True
        finally:
            if done:
                self.free.append(connection)
            else:
                connection.writer.close()
        code = int(status.split()[1])
        return code, headers, json.loads(body) if code == 200 else {}

    async def _connect(self) -> Connection:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        return Connection(reader=reader, writer=writer)


async def ask_each(users: Users, names: Iterable[str]) -> None:
    """Ask once for each name, some at a time."""
    some = asyncio.Semaphore(32)

    async def ask(name: str) -> None:
        async with some:
            await users.ask(name, BODY_BYTES[0], time.monotonic())

    await asyncio.gather(*(ask(name) for name in names))


async def keep_asking(users: Users, rps: float, seed: int) -> None:
    draw = random.Random(seed)
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(
        sys.stdin.fileno(), lambda: os.read(sys.stdin.fileno(), 64) or over.set()
    )
    asking: set[asyncio.Task[None]] = set()
    started, number = time.monotonic(), 0
    while not over.is_set():
        due = started + number / rps
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.create_task(
            users.ask(f"u{draw.randrange(NUM_USERS)}", draw.choice(BODY_BYTES), due)
        )
        asking.add(task)
        task.add_done_callback(asking.discard)
        number += 1
    await asyncio.gather(*asking)


def main(users: type[Users] = Users) -> None:
    port, model, rps, seed, path = sys.argv[1:]
    with Path(path).open("a") as file:
        asyncio.run(keep_asking(users(int(port), model, file), float(rps), int(seed)))


if __name__ == "__main__":
    main()
