"""The users of `load` by gRPC: on one channel, as a service keeps it.

usage: python -m tests.integration.chaos.grpc_load PORT MODEL RPS SEED FILE
"""

from __future__ import annotations

import json
from functools import cached_property

import grpc

from tests.integration.chaos.grpc_slot import METHOD, SERVICE
from tests.integration.chaos.load import PATIENCE_SECONDS, Users, main


class GrpcUsers(Users):
    """Ask by gRPC; a status that is not OK is a failed request."""

    @cached_property
    def channel(self) -> grpc.aio.Channel:
        options = (("grpc.default_authority", f"{self.model}.headrace"), ("grpc.enable_retries", 0))
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=options)

    async def answer(self, user: str, size: int) -> tuple[int, dict[str, str], dict[str, object]]:
        call = self.channel.unary_unary(f"/{SERVICE}/{METHOD}")(
            b"x" * size, metadata=(("x-user-id", user),), timeout=PATIENCE_SECONDS
        )
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            return -int(error.code().value[0]), {}, {}
        headers = {str(name): str(value) for name, value in await call.initial_metadata() or ()}
        return 200, headers, json.loads(answer)


if __name__ == "__main__":
    main(GrpcUsers)
