"""What stages and commands left on this machine's disks: old copies, checkpoints, dead scratch."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.adapters.claims import unclaimed
from tasks.adapters.scratch_space import CACHE, SCRATCH, work_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.adapters.object_store import ObjectStore
    from tasks.cli.home import Home

# Only what Headrace itself names so: HEADRACE_WORK may hold other people's files too.
BY_KEY = re.compile(r"[0-9a-f]{64}")
IN_CACHE = re.compile(r"[0-9a-f]{64}|headrace~.*|\.scratch-[0-9a-f]{32}")
IN_SCRATCH = re.compile(r"headrace~.*")


@dataclass(frozen=True, kw_only=True)
class LocalFolder:
    """A folder of this machine, and its bytes."""

    path: Path
    size: int


def collect_local(
    home: Home,
    objects: ObjectStore,
    environment: Mapping[str, str],
    *,
    written_before: float,
    say: Callable[[Path], None],
    dry_run: bool = False,
) -> list[LocalFolder]:
    """Remove what nobody wrote, used or claims any more; return what went, or would go."""
    removed = []
    for folder, pattern in _places(home, objects, environment):
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if not pattern.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
                continue
            with unclaimed(path) as free:
                newest, size = _age_and_size(path)
                if not free or newest >= written_before:
                    continue
                say(path)
                if not dry_run:
                    shutil.rmtree(path, ignore_errors=True)
                removed.append(LocalFolder(path=path, size=size))
    return removed


def _places(
    home: Home, objects: ObjectStore, environment: Mapping[str, str]
) -> Iterator[tuple[Path, re.Pattern[str]]]:
    """Yield the folders to look into; those inside a local store are looked at as part of it."""
    yield home.cache, IN_CACHE
    work, root = work_folder(objects, environment), objects.local_root
    if root is None or root not in work.parents:
        yield work, BY_KEY
        yield work / CACHE, IN_CACHE
        yield work / SCRATCH, IN_SCRATCH


def _age_and_size(folder: Path) -> tuple[float, int]:
    """Return when anything in a folder was last written, and its bytes."""
    newest, size = folder.stat().st_mtime, 0
    for parent, _, names in os.walk(folder):
        for path in (Path(parent), *(Path(parent) / name for name in names)):
            try:
                found = path.lstat()
            except FileNotFoundError:  # it is in use: the rest is young
                continue
            newest = max(newest, found.st_mtime)
            size += found.st_size if path.is_file() else 0
    return newest, size
