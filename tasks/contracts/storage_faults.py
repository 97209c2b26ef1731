"""A full disk or a read-only one, said so that a person knows the next step and Airflow whether to retry."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.contracts.errors import (
    BadRequestError,
    HeadraceError,
    StoreUnavailableError,
    bounded,
)

FULL = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "a limit on the size of files",
}
READ_ONLY = {
    errno.EROFS: "a read-only file system",
    errno.EACCES: "no right to write",
    errno.EPERM: "no right to write",
}
# What libraries keep of the system's error when they lose its number.
FULL_WORDS = ("no space left on device", "disk quota exceeded", "file too large")
READ_ONLY_WORDS = ("read-only file system",)
NEARLY_NOTHING = 64 * 1024  # bytes free: a library that fails here failed because of that


@contextmanager
def storage_faults_told(where: str, folder: Path) -> Iterator[None]:
    """Turn whatever a full or read-only disk makes of the body into an error of ours."""
    try:
        yield
    except HeadraceError:
        raise
    except Exception as error:
        fault = storage_fault(error, where, folder)
        if fault is None:
            raise
        raise fault from error


def storage_fault(error: BaseException, where: str, folder: Path | None) -> HeadraceError | None:
    """Return what to say where an error comes from the disk, None for any other error.

    A full disk may be retried: room is made, and a stage goes on from its checkpoint. A read-only
    one is not: a retry would find it just as it is.
    """
    found = _found(error, folder)
    if found is None:
        return None
    full, words = found
    if full:
        room = "" if folder is None else f" ({_free(folder)})"
        message = (
            f"{where}: expected room to write, found {words}{room}; nothing half-written is "
            "visible; free space (`headrace gc` removes what no release needs), then try again: "
            "a stage goes on from its last checkpoint"
        )
        return StoreUnavailableError(message)
    message = (
        f"{where}: expected a folder that can be written, found {words}; nothing was written; "
        "mount it for writing, or name another place (HEADRACE_STORE, HEADRACE_WORK), then start "
        "again: a retry would find the same"
    )
    return BadRequestError(message)


def _found(error: BaseException, folder: Path | None) -> tuple[bool, str] | None:
    for cause in _chain(error):
        number = cause.errno if isinstance(cause, OSError) else None
        if number in FULL:
            return True, f"{FULL[number]}{_file(cause)}"
        if number in READ_ONLY:
            return False, f"{READ_ONLY[number]}{_file(cause)}"
        text = str(cause).lower()
        if any(words in text for words in FULL_WORDS):
            return True, bounded(str(cause), 300)
        if any(words in text for words in READ_ONLY_WORDS):
            return False, bounded(str(cause), 300)
    if folder is not None and _free_bytes(folder) < NEARLY_NOTHING:
        return True, f"a full disk behind {type(error).__name__}: {bounded(str(error), 200)}"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from, the error itself first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _file(error: BaseException) -> str:
    name = error.filename if isinstance(error, OSError) else None
    return "" if name is None else f" at {name}"


def _free(folder: Path) -> str:
    return f"{_free_bytes(folder):,} bytes free at {folder}"


def _free_bytes(folder: Path) -> int:
    """Return the free bytes where `folder` is, or would be."""
    for place in (folder, *folder.parents):
        if place.exists():
            return shutil.disk_usage(place).free
    return 0
