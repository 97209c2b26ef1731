"""What a keeper writes to its records: one write a model at a time, beside its turns.

An API that hangs holds each write for seconds: no look at any model may wait for that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

RETRY_SECONDS = 1.0
QUIET_SECONDS = 60.0  # a failure is said again when there was none for so long
MAX_AT_ONCE = 8

Start = Callable[[Callable[[], Any]], "Future[Any]"]


def at_once(write: Callable[[], Any]) -> Future[Any]:
    """Write before going on: for who has no turns to hold up."""
    future: Future[Any] = Future()
    try:
        future.set_result(write())
    except Exception as error:  # noqa: BLE001  it is the future's, as a thread's would be
        future.set_exception(error)
    return future


@dataclass(frozen=True, kw_only=True)
class RecordWrite:
    """A change of a model's record that may be repeated, and who hears how it ended."""

    model: str
    write: Callable[[], Any]
    done: Callable[[Any], None]
    failed: Callable[[Exception, bool], None]  # and whether to say so: it is new


@dataclass(kw_only=True)
class RecordWrites:
    """Begins writes and tells, in the caller's own thread, how they ended."""

    start: Start = at_once
    monotonic: Callable[[], float] = time.monotonic
    _begun: dict[str, tuple[RecordWrite, Future[Any]]] = field(default_factory=dict)
    _failed_at: dict[str, float] = field(default_factory=dict)

    def offer(self, write: RecordWrite) -> None:
        """Begin a write, unless one of this model is on its way or failed within a second."""
        since = self.monotonic() - self._failed_at.get(write.model, -math.inf)
        if write.model in self._begun or since < RETRY_SECONDS:
            return
        self._begun[write.model] = (write, self.start(write.write))
        self.settle()

    def settle(self) -> None:
        """Tell of the writes that have ended."""
        for model, (write, future) in list(self._begun.items()):
            if not future.done():
                continue
            del self._begun[model]
            error = future.exception()
            if not isinstance(error, Exception):
                self._failed_at.pop(model, None)
                write.done(future.result())
                continue
            now = self.monotonic()
            is_new = now - self._failed_at.get(model, -math.inf) >= QUIET_SECONDS
            self._failed_at[model] = now
            write.failed(error, is_new)
