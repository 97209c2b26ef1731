"""One process at a time makes an artifact; the others wait for it and answer from the seal.

The lock is the kernel's: it ends with the process that holds it, however that ends (kill -9 too).
It reaches as far as one machine. Between machines put-if-absent decides, and the loser's work is
thrown away: that costs time, never an artifact.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

CLAIM_FILE = "claim"
POLL_SECONDS = 0.2
UNKNOWN = "another process"


@dataclass(frozen=True, kw_only=True)
class Claimant:
    """Who makes an artifact, for those who wait."""

    pid: int
    since: str  # ISO 8601 UTC
    release_id: str | None = None

    @classmethod
    def this_process(cls, release_id: str | None) -> Claimant:
        """Return the claimant that is us, now."""
        now = datetime.now(tz=UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return cls(pid=os.getpid(), since=now, release_id=release_id)

    @property
    def words(self) -> str:
        """Return who it is, in words."""
        release = f" of release {self.release_id}" if self.release_id else ""
        return f"process {self.pid}{release}, since {self.since}"


@contextmanager
def claimed(work: Path, claimant: Claimant, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the claim on a work folder; `waiting` is told who holds it while somebody else does.

    Look for the seal again once the claim is held: the last holder may have sealed.
    """
    handle = _hold(work, waiting)
    try:
        with suppress(OSError):  # a full disk takes the name from those who wait, not the lock
            handle.truncate(0)
            os.write(handle.fileno(), json.dumps(asdict(claimant)).encode())
        yield
    finally:
        handle.close()


@contextmanager
def unclaimed(work: Path) -> Iterator[bool]:
    """Say whether nobody makes this artifact now; while the body runs nobody begins to."""
    try:
        handle = (work / CLAIM_FILE).open("rb")
    except FileNotFoundError:
        yield True
        return
    with handle:
        yield _locked(handle)


def _hold(work: Path, waiting: Callable[[str], None]) -> IO[str]:
    """Return the locked file that lies in the folder now: who seals removes the folder."""
    while True:
        work.mkdir(parents=True, exist_ok=True)
        try:
            handle = (work / CLAIM_FILE).open("a", encoding="utf-8")
        except FileNotFoundError:  # the folder was removed between the two lines
            continue
        while not _locked(handle):
            waiting(holder(work))
            time.sleep(POLL_SECONDS)
        if _lies_there(handle, work / CLAIM_FILE):
            return handle
        handle.close()


def _locked(handle: IO[Any]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lies_there(handle: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def holder(work: Path) -> str:
    """Return who wrote himself into the claim, in words."""
    try:
        return Claimant(**json.loads((work / CLAIM_FILE).read_text(encoding="utf-8"))).words
    except (OSError, ValueError, TypeError):
        return UNKNOWN
