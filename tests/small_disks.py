"""Small file systems of a test's own: they fill up, and become read-only."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

Mount = Callable[[str], Path]  # of the fixture `mount`: options of a tmpfs -> where it is


def fill(disk: Path) -> Path:
    """Write a file until there is no room left; return it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as writer:
        try:
            while True:
                writer.write(b"x" * 4096)
        except OSError:
            return filler


def read_only(disk: Path) -> Path:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    return disk
