"""Users of a router's Service as a process of their own, by REST and by gRPC, at a fixed rate.

usage: python -m tests.cluster.shop_users HOST PORT MODEL RPS GOLDEN FILE
Each asks a golden request and compares the answer. Who gets none, for the connection broke, asks once
more, as clients do; that is written down. The end of standard input ends it, once all are answered.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import grpc
import httpx

from tasks.serving import protos
from tasks.serving.client import flat_values, predict_request

PREDICT = "/tensorflow.serving.PredictionService/Predict"
NUM_USERS = 5000
PATIENCE_SECONDS = 40.0
CHANNELS = 4


@dataclass(frozen=True, kw_only=True)
class Got:
    """What one user got; times are of the machine's monotonic clock."""

    user: str
    protocol: str
    due: float
    sent: float
    ended: float
    right: bool
    again: bool  # the first try got no answer at all
    code: str
    variant: str = ""
    step: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    code: str
    items: Sequence[str] = ()
    headers: Mapping[str, str]


class BrokenOffError(Exception):
    """The connection ended without an answer."""


class Users:
    """Speaks both protocols to one address."""

    def __init__(self, host: str, port: int, model: str) -> None:
        self.model = model
        self.http = httpx.AsyncClient(
            base_url=f"http://{host}:{port}",
            timeout=PATIENCE_SECONDS,
            trust_env=False,
            headers={"x-model": model},
        )
        options = [
            ("grpc.default_authority", f"{model}.headrace"),
            ("grpc.use_local_subchannel_pool", 1),  # each a connection of its own
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        self.channels = [
            grpc.aio.insecure_channel(f"{host}:{port}", options=options) for _ in range(CHANNELS)
        ]
        self.turns = itertools.cycle(self.channels)

    async def by_rest(self, user: str, golden: Mapping[str, Any]) -> Answer:
        inputs = {"history": [golden["history"]], "steps_ago": [golden["steps_ago"]]}
        try:
            found = await self.http.post(
                f"/v1/models/{self.model}:predict",
                json={"inputs": inputs},
                headers={"x-user-id": user},
            )
        except httpx.TransportError as error:
            raise BrokenOffError(repr(error)) from error
        whole = found.status_code == httpx.codes.OK
        items = found.json()["outputs"]["items"][0] if whole else ()
        code = "200" if whole else f"{found.status_code} {found.text[:200]}"
        return Answer(code=code, items=items, headers=found.headers)

    async def by_grpc(self, user: str, golden: Mapping[str, Any]) -> Answer:
        asked = predict_request(
            self.model, {"history": [golden["history"]], "steps_ago": [golden["steps_ago"]]}
        )
        call = next(self.turns).unary_unary(PREDICT)(
            asked, timeout=PATIENCE_SECONDS, metadata=[("x-user-id", user)]
        )
        try:
            found = protos.predict.PredictResponse.FromString(await call)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise BrokenOffError(error.details()) from error
            return Answer(code=f"{error.code().name} {error.details()}", headers={})
        headers = {key: str(value) for key, value in await call.initial_metadata()}
        return Answer(code="200", items=flat_values(found.outputs["items"]), headers=headers)

    async def ask(self, number: int, golden: Mapping[str, Any], due: float) -> Got:
        """Ask, and once more where the connection broke."""
        protocol, sent = "grpc" if number % 3 == 0 else "rest", time.monotonic()
        user, again = f"user-{number * 7 % NUM_USERS}", False
        by = self.by_grpc if protocol == "grpc" else self.by_rest
        try:
            try:
                answer = await by(user, golden)
            except BrokenOffError:
                again = True
                answer = await by(user, golden)
        except BrokenOffError as error:
            answer = Answer(code=f"no answer: {error}"[:300], headers={})
        return Got(
            user=user,
            protocol=protocol,
            due=due,
            sent=sent,
            ended=time.monotonic(),
            right=answer.code == "200" and list(answer.items) == golden["items"],
            again=again,
            code=answer.code,
            variant=answer.headers.get("x-headrace-variant", ""),
            step=answer.headers.get("x-headrace-step", ""),
        )


async def keep_asking(users: Users, rps: float, goldens: Sequence[Any], file: TextIO) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(
        sys.stdin.fileno(), lambda: os.read(sys.stdin.fileno(), 64) or over.set()
    )

    async def one(number: int, due: float) -> None:
        got = await users.ask(number, goldens[number % len(goldens)], due)
        file.write(json.dumps(asdict(got)) + "\n")
        file.flush()

    asking: set[asyncio.Task[None]] = set()
    started = time.monotonic()
    for number in itertools.count():
        due = started + number / rps
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        if over.is_set():
            break
        task = asyncio.create_task(one(number, due))
        asking.add(task)
        task.add_done_callback(asking.discard)
    await asyncio.gather(*asking)


def read_got(path: Path) -> list[Got]:
    """Return what users got; a last line that was cut is left out."""
    text = path.read_text()
    return [Got(**json.loads(line)) for line in text[: text.rfind("\n") + 1].splitlines()]


def main(host: str, port: str, model: str, rps: str, golden: str, path: str) -> None:
    goldens = [json.loads(line) for line in Path(golden).read_text().splitlines()]

    async def run() -> None:  # clients belong to the loop in which they are made
        await keep_asking(Users(host, int(port), model), float(rps), goldens, file)

    with Path(path).open("a") as file:
        asyncio.run(run())


if __name__ == "__main__":
    main(*sys.argv[1:])
