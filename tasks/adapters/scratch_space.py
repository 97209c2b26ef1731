"""Folders in which a process writes what it will seal or copies; those of killed ones are swept."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.adapters.object_store import ObjectStore

PREFIX = "headrace"
CACHE, SCRATCH = "cache", "scratch"  # folders below that of `work_folder`


def work_folder(objects: ObjectStore, environment: Mapping[str, str]) -> Path:
    """Return where this machine keeps checkpoints, scratch and verified copies."""
    root = objects.local_root
    fallback = Path(tempfile.gettempdir()) / "headrace"
    return Path(environment.get("HEADRACE_WORK") or (root / "work" if root else fallback))


@contextmanager
def scratch_folder(base: Path) -> Iterator[Path]:
    """Give a new folder below `base` and remove it, and what dead processes of this host left."""
    base.mkdir(parents=True, exist_ok=True)
    sweep(base)
    folder = Path(tempfile.mkdtemp(prefix=f"{_owner(os.getpid())}~", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(base: Path) -> int:
    """Remove the folders of processes of this host that are no more; return how many."""
    mine = f"{PREFIX}~{platform.node()}~"
    left = [path for path in base.glob(f"{PREFIX}~*") if path.name.startswith(mine)]
    dead = [path for path in left if not _alive(path.name.removeprefix(mine).partition("~")[0])]
    for path in dead:
        shutil.rmtree(path, ignore_errors=True)
    return len(dead)


def _owner(pid: int) -> str:
    return f"{PREFIX}~{platform.node()}~{pid}"


def _alive(pid: str) -> bool:
    """Say whether a process has this pid; one that got it anew keeps the folder a while longer."""
    if not pid.isdigit():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
