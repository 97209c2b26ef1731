"""A full disk or a read-only one, said so that a person knows the next step and Airflow whether to retry."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
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
READ_ONLY = {errno.EROFS: "a read-only file system"}
FORBIDDEN = {errno.EACCES, errno.EPERM}  # also said of a user's file that may not be read
# What libraries keep of the system's error when they lose its number.
FULL_WORDS = ("no space left on device", "disk quota exceeded", "file too large")
READ_ONLY_WORDS = ("read-only file system",)
NEARLY_NOTHING = 64 * 1024  # bytes free: a library that fails here failed because of that


@contextmanager
def storage_faults_told(where: str, folders: Sequence[Path]) -> Iterator[None]:
    """Turn whatever a full or read-only disk makes of the body into an error of ours.

    `folders` are those that the body writes to: a missing right is a fault of storage only there.
    """
    try:
        yield
    except HeadraceError:
        raise
    except Exception as error:
        fault = storage_fault(error, where, folders)
        if fault is None:
            raise
        raise fault from error


def storage_fault(
    error: BaseException, where: str, folders: Sequence[Path]
) -> HeadraceError | None:
    """Return what to say where an error comes from the disk, None for any other error.

    A full disk may be retried: room is made, and a stage goes on from its checkpoint. A read-only
    one is not: a retry would find it just as it is.
    """
    found = _found(error, folders)
    if found is None:
        return None
    full, words = found
    if full:
        message = (
            f"{where}: expected room to write, found {words}{_room(folders)}; nothing half-written "
            "is visible; free space (`headrace gc` removes what no release needs), then try again: "
            "a stage goes on from its last checkpoint"
        )
        return StoreUnavailableError(message)
    message = (
        f"{where}: expected a folder that can be written, found {words}; nothing was written; "
        "mount it for writing, or name another place (HEADRACE_STORE, HEADRACE_WORK, HEADRACE_STATE), then "
        "start again: a retry would find the same"
    )
    return BadRequestError(message)


def _found(error: BaseException, folders: Sequence[Path]) -> tuple[bool, str] | None:
    for cause in _chain(error):
        number = cause.errno if isinstance(cause, OSError) else None
        if number in FULL:
            return True, f"{FULL[number]}{_file(cause)}"
        if number in READ_ONLY:
            return False, f"{READ_ONLY[number]}{_file(cause)}"
        if number in FORBIDDEN and _is_below(cause, folders):
            return False, f"no right to write{_file(cause)}"
        text = str(cause).lower()
        if any(words in text for words in FULL_WORDS):
            return True, bounded(str(cause), 300)
        if any(words in text for words in READ_ONLY_WORDS):
            return False, bounded(str(cause), 300)
    if any(_free_bytes(folder) < NEARLY_NOTHING for folder in folders):
        return True, f"a full disk behind {type(error).__name__}: {bounded(str(error), 200)}"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from, the error itself first; `from None` ends it."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        handled = None if current.__suppress_context__ else current.__context__
        current = current.__cause__ or handled


def _is_below(error: BaseException, folders: Sequence[Path]) -> bool:
    """Return whether the system's error is about a path in one of these folders."""
    if not isinstance(error, OSError):
        return False
    named = [name for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    if not named:  # some libraries keep the path in the text only
        return any(f"{folder}{os.sep}" in str(error) for folder in folders)
    paths = [Path(os.fsdecode(name)).absolute() for name in named]
    return any(path.is_relative_to(folder) for path in paths for folder in folders)


def _file(error: BaseException) -> str:
    name = error.filename if isinstance(error, OSError) else None
    return "" if name is None else f" at {name}"


def _room(folders: Sequence[Path]) -> str:
    """Return how much room there is, on each disk once."""
    free = {_existing(folder).stat().st_dev: folder for folder in reversed(folders)}
    said = [f"{_free_bytes(folder):,} bytes free at {folder}" for folder in reversed(free.values())]
    return f" ({', '.join(said)})" if said else ""


def _free_bytes(folder: Path) -> int:
    """Return the free bytes where `folder` is, or would be."""
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    """Return the nearest folder that is there; below one that may not be entered nothing is."""
    places = (folder, *folder.parents)
    return next(place for place in places if os.access(place, os.F_OK))
