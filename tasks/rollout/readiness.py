"""Which slots do not answer: the keeper asks each for its model's status, off the users' path.

A slot that answers nothing, or says that its version is not AVAILABLE, is not ready; an answer that
says nothing of versions tells nothing. One slow answer is no verdict: three failures in a row are.
A slot that has not answered yet may just have been started, with the keeper: it has longer.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tasks.rollout.record import Colour
from tasks.rollout.routes import RoutedModel

PROBE_SECONDS = 1.0  # between two questions to one slot
PROBE_TIMEOUT_SECONDS = 2.0  # a busy machine is late, too
FAILURES = 3  # in a row,
UNREADY_SECONDS = 3.0  # and for so long: the bounds on harm are faster where users notice
LOADING_SECONDS = 60.0  # the same, before the first good answer: a server starts and loads
MAX_PROBES = 8  # at a time
MAX_ANSWER_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class AskedSlot:
    """One slot with the version that it should serve."""

    model: str
    colour: Colour
    version: int
    host: str
    rest: int


def asked_slots(models: Iterable[RoutedModel]) -> list[AskedSlot]:
    """Return the slots that have a role: those whose answer decides something."""
    found = []
    for model in models:
        for colour, content in sorted(model.record.slots.items()):
            address = model.slots.get(colour)
            if address is not None:
                found.append(
                    AskedSlot(
                        model=model.name,
                        colour=colour,
                        version=content.release_number,
                        host=address.host,
                        rest=address.rest,
                    )
                )
    return found


def ask_slot(slot: AskedSlot) -> bool | None:
    """Return whether the slot serves its version; None where its answer does not tell."""
    connection = http.client.HTTPConnection(slot.host, slot.rest, timeout=PROBE_TIMEOUT_SECONDS)
    try:
        with contextlib.closing(connection):
            connection.request("GET", f"/v1/models/{slot.model}")
            answer = connection.getresponse().read(MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException):
        return False
    return _serves(answer, slot.version)


def _serves(answer: bytes, version: int) -> bool | None:
    try:
        rows: Any = json.loads(answer)["model_version_status"]
        states = {int(row["version"]): row["state"] for row in rows}
    except (ValueError, LookupError, TypeError):
        return None
    return states.get(version) == "AVAILABLE"


@dataclass(kw_only=True)
class _Answers:
    """What one slot said lately."""

    asked_at: float
    pending: bool = True
    ready: bool = False  # it said so, and has not failed since
    failures: int = 0
    failing_since: float | None = None
    answered: bool = False  # well, once: from then on silence is news

    def silent(self, now: float) -> bool:
        """Return whether it has failed often and long enough."""
        patience = UNREADY_SECONDS if self.answered else LOADING_SECONDS
        since = self.failing_since
        return since is not None and self.failures >= FAILURES and now - since >= patience

    def heard(self, ready: bool | None, now: float) -> None:
        self.pending = False
        if ready is None:
            return
        self.ready = ready
        if ready:
            self.answered, self.failures, self.failing_since = True, 0, None
            return
        self.failures += 1
        if self.failing_since is None:
            self.failing_since = now


@dataclass(kw_only=True)
class SlotProbes:
    """Asks slots at a bounded pace in threads of its own: the keeper never waits for a slot."""

    ask: Callable[[AskedSlot], bool | None] = ask_slot
    monotonic: Callable[[], float] = time.monotonic
    _pool: ThreadPoolExecutor | None = None
    _answers: dict[AskedSlot, _Answers] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def watch(self, models: Iterable[RoutedModel]) -> None:
        """Ask those that were not asked for a while; forget slots that have no role any more."""
        now, wanted = self.monotonic(), asked_slots(models)
        with self._lock:
            self._answers = {slot: self._answers[slot] for slot in wanted if slot in self._answers}
            due = [slot for slot in wanted if self._is_due(slot, now)]
        for slot in due:
            self._threads().submit(self._ask, slot)

    def unready(self, model: str) -> frozenset[Colour]:
        """Return the slots of a model that have not answered for long enough."""
        now = self.monotonic()
        with self._lock:
            return frozenset(
                slot.colour
                for slot, answers in self._answers.items()
                if slot.model == model and answers.silent(now)
            )

    def ready(self, model: str) -> frozenset[Colour]:
        """Return the slots of a model whose last answer was good."""
        with self._lock:
            return frozenset(
                slot.colour
                for slot, answers in self._answers.items()
                if slot.model == model and answers.ready
            )

    def close(self) -> None:
        """End the threads; a question that is still open ends by its time limit."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _is_due(self, slot: AskedSlot, now: float) -> bool:
        answers = self._answers.get(slot)
        if answers is None:
            self._answers[slot] = _Answers(asked_at=now)
            return True
        if answers.pending or now - answers.asked_at < PROBE_SECONDS:
            return False
        answers.asked_at, answers.pending = now, True
        return True

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(MAX_PROBES, thread_name_prefix="probe")
        return self._pool

    def _ask(self, slot: AskedSlot) -> None:
        ready: bool | None = None
        try:
            ready = self.ask(slot)
        finally:
            with self._lock:
                answers = self._answers.get(slot)
                if answers is not None:
                    answers.heard(ready, self.monotonic())
