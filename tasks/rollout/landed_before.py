"""What has landed already, told from the landed files: for a lander that lost its place in the log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.contracts.errors import CorruptArtifactError
from tasks.rollout.exposure_files import CLOSED, OPEN, SEALED, as_lines

_TRIES = 20
_TAIL_BYTES = 64 * 1024  # a line is far shorter


def not_landed(target: Path, exposures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the exposures that no file of the target's hour holds; equal ones count once.

    CorruptArtifactError: the files of that hour never stayed for as long as reading them takes.
    """
    by_line = {as_lines([one]): one for one in exposures}
    for _ in range(_TRIES):
        files = _files_of_hour(target)
        try:
            for path in files:
                with path.open("rb") as reader:
                    for line in reader:
                        by_line.pop(line, None)
        except FileNotFoundError:
            continue  # closed or sealed under another name just now
        if _files_of_hour(target) == files:
            return list(by_line.values())
    message = f"{target.parent}: expected files that stay while they are read, found none"
    raise CorruptArtifactError(message)


def cut_torn_lines(state_dir: Path, name: str) -> None:
    """Cut the half lines that a killed router of this name left at the end of its open files."""
    for path in state_dir.glob(f"*/traffic/*/exposures/*{OPEN}"):
        _, _, owner = path.name.removesuffix(OPEN).partition(".")
        if owner == name:
            _cut_torn_line(path)


def _cut_torn_line(path: Path) -> None:
    with path.open("r+b") as file:
        start = max(0, path.stat().st_size - _TAIL_BYTES)
        file.seek(start)
        tail = file.read()
        file.truncate(start + tail.rfind(b"\n") + 1)


def _files_of_hour(target: Path) -> list[Path]:
    hour = target.name.split(".", 1)[0]
    found = target.parent.glob(f"{hour}*")
    return sorted(path for path in found if path.name.endswith((OPEN, CLOSED, SEALED)))
