"""What Kubernetes asks a keeper: is this router ready, does the keeper turn, may it end."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tasks.contracts.errors import BadRequestError
from tasks.rollout.envoy import RouterFiles, admin_address
from tasks.rollout.metrics_server import READY

STUCK_SECONDS = 30.0
ASK_SECONDS = 1.0


@dataclass(kw_only=True)
class KeeperHealth:
    """Notes each turn; ready once every model was seen, routes are written and Envoy is live."""

    files: RouterFiles | None = None
    unseen: Callable[[], Sequence[str]] = tuple
    monotonic: Callable[[], float] = time.monotonic
    _turned_at: float | None = field(default=None)
    _unread: Sequence[str] = ()

    def turned(self, unread: Sequence[str] = ()) -> None:
        """Say that the keeper has looked at every model, and which it has no routes of, as it could not."""
        self._unread = unread
        self._turned_at = self.monotonic()

    def trouble(self, path: str) -> str | None:
        """Return what is wrong, None where nothing is."""
        if self._turned_at is None:
            return None if path != READY else "the keeper has not turned yet"
        silent = self.monotonic() - self._turned_at
        if silent > STUCK_SECONDS:
            return f"the keeper has not turned for {silent:.0f} s"
        return self._not_ready() if path == READY else None

    def _not_ready(self) -> str | None:
        unseen = list(self.unseen())
        if unseen:
            return f"expected the state records of all models, not seen yet: {unseen}"
        if self._unread:
            return f"expected state records that can be read, found others of: {self._unread}"
        if self.files is None or not self.files.routes.exists():
            return "no routes are written yet"
        return None if envoy_answers(self.files) else "Envoy does not answer /ready"


def envoy_answers(files: RouterFiles) -> bool:
    """Return whether the Envoy beside us says that it is live."""
    try:
        connection = http.client.HTTPConnection(*admin_address(files), timeout=ASK_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", "/ready")
            return connection.getresponse().status == http.client.OK
    except (OSError, BadRequestError, http.client.HTTPException):
        return False


def envoy_runs(files: RouterFiles) -> bool:
    """Return whether an Envoy listens beside us, live or draining."""
    try:
        connection = http.client.HTTPConnection(*admin_address(files), timeout=ASK_SECONDS)
        with contextlib.closing(connection):
            connection.connect()
    except (OSError, BadRequestError):
        return False
    return True


def lingering(asked: threading.Event, files: RouterFiles, seconds: float) -> threading.Event:
    """Return an event that is set after `asked`, once Envoy has ended, `seconds` later at most."""
    if seconds <= 0:
        return asked
    stop = threading.Event()

    def linger() -> None:
        asked.wait()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and envoy_runs(files):
            time.sleep(0.2)
        time.sleep(0.5)  # a few turns more, which land the last lines
        stop.set()

    threading.Thread(target=linger, name="linger", daemon=True).start()
    return stop
