"""Polls the base paths and tells the manager which versions to serve."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tasks.serving.base_path import BasePathMissingError, WatchedModel, poll

log = logging.getLogger("headrace.serve")

Aspire = Callable[[str, Mapping[int, Path]], None]


class StorageSource:
    """Watched models and the thread that looks; 0 s: looks once, below 0: never."""

    def __init__(self, aspire: Aspire, poll_wait_seconds: float) -> None:
        self._aspire = aspire
        self._wait = poll_wait_seconds
        self._lock = threading.Lock()
        self._models: tuple[WatchedModel, ...] = ()
        self._stopping = threading.Event()
        self._last_error = ""
        self._thread = threading.Thread(target=self._poll_for_ever, name="poll", daemon=True)

    def start(self) -> None:
        """Begin to look, at once."""
        if self._wait >= 0:
            self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()

    def names(self) -> set[str]:
        """Return the names that are watched."""
        return {model.name for model in self._models}

    def watch(self, models: Sequence[WatchedModel]) -> None:
        """Watch exactly these models from now on; the others are un-aspired at once."""
        with self._lock:
            kept = {model.name for model in models}
            for name in sorted(self.names() - kept):
                self._aspire(name, {})
            self._models = tuple(models)

    def look(self) -> None:
        """Look once and tell the manager; a missing base path freezes every model."""
        with self._lock:
            try:
                found = poll(self._models)
            except BasePathMissingError as error:
                self._warn_once(str(error))
                return
            self._last_error = ""
            for name, versions in found.items():
                self._aspire(name, versions)

    def _warn_once(self, error: str) -> None:
        if error != self._last_error:
            log.error("no model is updated until this is mended: %s", error)
        self._last_error = error

    def _poll_for_ever(self) -> None:
        self.look()
        while self._wait > 0 and not self._stopping.wait(self._wait):
            self.look()
