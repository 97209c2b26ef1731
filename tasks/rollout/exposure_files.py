"""Exposures of a rollout in hourly files: open while their hour lasts, then sealed by their digest.

exposures/2026-11-26T07.open            lines still land here (only the lander writes)
exposures/2026-11-26T07.router-1.open   the same, of one router among several
exposures/2026-11-26T07.1a2b.closed     no line lands here any more; its digest is being taken
exposures/2026-11-26T07-<sha256>.jsonl  sealed: the name holds the digest of its bytes

Each move is one rename. A line that lands after its hour was closed opens a further file of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tasks.contracts.errors import CorruptArtifactError
from tasks.contracts.json_types import canonical_json

LATE_SECONDS = 60.0  # a request that began in an hour may end, and land, so long after it
ABANDONED_SECONDS = 3600.0  # a router that lives has landed its last line long before
OPEN, CLOSED, SEALED = ".open", ".closed", ".jsonl"
CLOCKS_DIFFER_SECONDS = 3600.0  # at most: a router's, by which a file has its hour, and ours
_HOUR = "%Y-%m-%dT%H"
_READ_TRIES = 20
_BLOCK_BYTES = 1024 * 1024


def exposures_folder(rollout: Path) -> Path:
    """Return where the hourly files of a rollout lie, below its traffic folder."""
    return rollout / "exposures"


def hour_of(moment_unix: float) -> str:
    """Return the UTC hour that a moment lies in, such as 2026-11-26T07."""
    return datetime.fromtimestamp(moment_unix, tz=UTC).strftime(_HOUR)


def open_file(rollout: Path, moment_unix: float, name: str = "") -> Path:
    """Return the file in which an exposure of that moment lands; `name` is the router's."""
    own = f".{name}" if name else ""
    return exposures_folder(rollout) / f"{hour_of(moment_unix)}{own}{OPEN}"


def as_lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    """Return records as JSON lines."""
    return "".join(f"{canonical_json(record)}\n" for record in records).encode()


def close_hours(state_dir: Path, now_unix: float, name: str = "") -> int:
    """Close the router's own open files whose hour is over; only who lands lines may call it.

    Those of others are closed an hour later: whoever landed them is gone by then.
    """
    closed = 0
    for path in state_dir.glob(f"*/traffic/*/exposures/*{OPEN}"):
        hour, _, owner = path.name.removesuffix(OPEN).partition(".")
        end = datetime.strptime(hour, _HOUR).replace(tzinfo=UTC) + timedelta(hours=1)
        grace = LATE_SECONDS if owner == name else ABANDONED_SECONDS
        if now_unix >= end.timestamp() + grace:
            with suppress(FileNotFoundError):  # another router closed it just now
                path.rename(path.with_name(f"{hour}.{secrets.token_hex(8)}{CLOSED}"))
                closed += 1
    return closed


def seal_closed(state_dir: Path) -> int:
    """Give every closed file its digest as name; who is killed meanwhile is followed by the next."""
    closed = sorted(state_dir.glob(f"*/traffic/*/exposures/*{CLOSED}"))
    for path in closed:
        digest = _digest(path, durable=True)
        hour = path.name.split(".", 1)[0]
        with suppress(FileNotFoundError):  # another one sealed it just now
            path.rename(path.with_name(f"{hour}-{digest}{SEALED}"))
    return len(closed)


def _digest(path: Path, *, durable: bool = False) -> str:
    digest = hashlib.sha256()
    with suppress(FileNotFoundError), path.open("rb") as reader:
        if durable:
            os.fsync(reader.fileno())
        while block := reader.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def read_exposures(rollout: Path, since_unix: float | None = None) -> Iterator[dict[str, Any]]:
    """Yield all exposures of a rollout, one at a time; what was sealed and has changed is refused.

    With `since_unix`, files of hours that were over by then are left out. CorruptArtifactError may
    come after lines were given: who sums them up has to drop them.
    """
    read: dict[int, int] = {}  # bytes by inode: a file that gets another name is read on, not again
    for _ in range(_READ_TRIES):
        before = _files(rollout, since_unix)
        for path in before:
            yield from _new_lines(path, read)
        if _files(rollout, since_unix) == before:
            return
    message = f"{exposures_folder(rollout)}: expected files that stay for a moment, found none"
    raise CorruptArtifactError(message)


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSON-lines file, a torn last line left out; nothing without a file."""
    with suppress(FileNotFoundError), path.open("rb") as reader:
        for line in reader:
            if line.endswith(b"\n"):
                yield json.loads(line)


def _files(rollout: Path, since_unix: float | None) -> list[Path]:
    kinds = (OPEN, CLOSED, SEALED)
    first = "" if since_unix is None else hour_of(since_unix - CLOCKS_DIFFER_SECONDS)
    found = exposures_folder(rollout).glob("*")
    return sorted(path for path in found if path.name.endswith(kinds) and path.name >= first)


def _new_lines(path: Path, read: dict[int, int]) -> Iterator[dict[str, Any]]:
    with suppress(FileNotFoundError), path.open("rb") as reader:  # by now it has another name
        if path.name.endswith(SEALED):
            _demand_digest(path, hashlib.file_digest(reader, "sha256").hexdigest())
        inode = os.fstat(reader.fileno()).st_ino
        reader.seek(read.get(inode, 0))
        for line in reader:
            if not line.endswith(b"\n"):
                break  # half a line is still landing
            read[inode] = read.get(inode, 0) + len(line)
            yield json.loads(line)


def _demand_digest(path: Path, found: str) -> None:
    expected = path.name.removesuffix(SEALED).rsplit("-", 1)[-1]
    if found != expected:
        message = (
            f"{path}: expected the sealed exposures of its name (sha256 {expected}), found {found}; "
            "restore the file from a copy"
        )
        raise CorruptArtifactError(message)
