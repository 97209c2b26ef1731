"""HTTP/1.1 in front of the REST API: aiohttp on a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from aiohttp import web

from tasks.serving.json_write import error_body
from tasks.serving.rest import Answer

log = logging.getLogger("headrace.serve")

MAX_BODY_BYTES = 256 << 20
T = TypeVar("T")
AnswerRequest = Callable[[str, str, Mapping[str, str], bytes], Answer]


class RestServer:
    """Listens, and hands requests to `answer` on a thread pool."""

    def __init__(self, answer: AnswerRequest, num_threads: int) -> None:
        self._answer = answer
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="rest")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rest", daemon=True)
        self._runner: web.ServerRunner | None = None

    def start(self, host: str, port: int) -> None:
        """Open the port; OSError if it is taken."""
        self._thread.start()
        self._in_loop(self._open(host, port)).result()

    def stop(self, grace_seconds: float) -> None:
        """Accept nothing more, let running requests end within the grace time."""
        if self._runner is not None:
            self._in_loop(self._close(grace_seconds)).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _in_loop(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _open(self, host: str, port: int) -> None:
        server = web.Server(
            self._handle,
            request_factory=_request,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=3600.0,  # the router keeps its connections; it closes, not we
        )
        self._runner = web.ServerRunner(server)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, backlog=1024).start()

    async def _close(self, grace_seconds: float) -> None:
        if self._runner is not None:
            for site in list(self._runner.sites):
                await site.stop()
            if self._runner.server is not None:
                await self._runner.server.shutdown(grace_seconds)
            await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            text = f"Request body: expected at most {MAX_BODY_BYTES} bytes, found more"
            headers = {"Content-Type": "application/json"}
            return web.Response(status=413, body=error_body(text), headers=headers)
        call = partial(self._answer, request.method, request.raw_path, request.headers, body)
        answer = await self._loop.run_in_executor(self._executor, call)
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(
        message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY_BYTES
    )
