"""One loaded version with the requests that are using it."""

from __future__ import annotations

import ctypes
import threading
from typing import Self

from tasks.serving.session import SavedModelSession
from tasks.serving.version_states import VersionId


class ServedVersion:
    """A session that closes only after the last request has left it.

    `with core.borrow(spec) as served:` counts the request out again.
    """

    def __init__(self, version: VersionId, session: SavedModelSession) -> None:
        self.id = version
        self.session = session
        self._changed = threading.Condition(threading.Lock())
        self._users = 0
        self._retiring = False

    def count_in(self) -> bool:
        """Count one request in; False if the version is on its way out."""
        with self._changed:
            if self._retiring:
                return False
            self._users += 1
            return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._users -= 1
            if self._retiring and self._users == 0:
                self._changed.notify_all()

    def retire(self) -> None:
        """Let no request in any more, wait for those inside, then free the memory."""
        with self._changed:
            self._retiring = True
            while self._users:
                self._changed.wait()
        self.session.close()
        _return_free_memory()


def _return_free_memory() -> None:
    """Give freed pages back to the system: glibc keeps them otherwise, for each old version."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
