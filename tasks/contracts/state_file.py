"""One small file changed by compare-and-swap: a lock, a scratch file, fsync, rename."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LEFT_SECONDS = 60.0  # no writer takes this long: an older scratch file is of a killed one


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, among threads and processes of one machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def replace_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a file in one step: a reader sees the old text or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with scratch.open("w", encoding="utf-8") as writer:
            writer.write(text)
            writer.flush()
            if durable:
                os.fsync(writer.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    if durable:
        _sync_folder(path.parent)


def _sweep(path: Path) -> None:
    """Remove what killed writers of this file left."""
    for left in path.parent.glob(f".{path.name}.*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > LEFT_SECONDS:
                left.unlink()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
