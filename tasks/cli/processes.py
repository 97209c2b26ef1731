"""Processes by identity: a pid alone may have been given to somebody else since."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.contracts.json_types import Json

PROC = Path("/proc")
POLL_SECONDS = 0.05
MARKER = "HEADRACE_STACK_ID"  # in the environment of every process that a stack started
PART_MARKER = "HEADRACE_STACK_PART"  # the same, of every process that a part of it started
_STATE, _PARENT, _START = 0, 1, 19  # fields 3, 4 and 22 of /proc/PID/stat, after the name


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A process: its pid and when it started, in the kernel's own words."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """Return the identity of a live process, None where there is none (or a zombie)."""
        started = _start_of(pid)
        return None if started is None else cls(pid=pid, started=started)

    @classmethod
    def from_record(cls, record: Json) -> Identity | None:
        """Read what `to_record` wrote; None where nothing was recorded."""
        if not isinstance(record, dict):
            return None
        pid, started = record.get("pid"), record.get("started")
        if not isinstance(pid, int) or not isinstance(started, str):
            return None
        return cls(pid=pid, started=started)

    def to_record(self) -> dict[str, Json]:
        """Return JSON fields."""
        return {"pid": self.pid, "started": self.started}

    @property
    def alive(self) -> bool:
        """Return whether this very process still runs."""
        return _start_of(self.pid) == self.started

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process's own group, or to it alone where it leads none."""
        if not self.alive:
            return
        with suppress(ProcessLookupError):
            if os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)


def _start_of(pid: int) -> str | None:
    if not PROC.is_dir():
        return _start_from_ps(pid)
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[_STATE] in "ZX" else f"{_boot_id()}:{fields[_START]}"


def _boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def _start_from_ps(pid: int) -> str | None:
    """Return the start time where there is no /proc (macOS)."""
    done = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)],  # noqa: S607 - the system's own ps
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None


def wait_gone(processes: Iterable[Identity], seconds: float) -> list[Identity]:
    """Wait until the processes have ended; return those still alive after `seconds`."""
    deadline = time.monotonic() + seconds
    left = [process for process in processes if process.alive]
    while left and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        left = [process for process in left if process.alive]
    return left


def stop(process: Identity, *, polite_seconds: float) -> None:
    """End a process and all it started: SIGTERM, then SIGKILL for what does not listen."""
    family = [process, *descendants(process)]
    process.signal_group(signal.SIGTERM)
    wait_gone([process], polite_seconds)
    process.signal_group(signal.SIGKILL)
    for orphan in wait_gone(family, POLL_SECONDS):
        with suppress(ProcessLookupError):
            os.kill(orphan.pid, signal.SIGKILL)
    wait_gone(family, polite_seconds)


def is_suspended(pid: int) -> bool:
    """Say whether a process was stopped (SIGSTOP) and neither works nor ends."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[_STATE] in "Tt"
    except (OSError, IndexError):
        return False


def descendants(process: Identity) -> list[Identity]:
    """Return the live children, grandchildren and so on of a process."""
    children: dict[int, list[int]] = {}
    for pid in _all_pids():
        with suppress(OSError):
            fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[_PARENT]), []).append(pid)
    found, queue = [], [process.pid] if process.alive else []
    while queue:
        for pid in children.get(queue.pop(), []):
            queue.append(pid)
            identity = Identity.of(pid)
            found += [] if identity is None else [identity]
    return found


def _all_pids() -> list[int]:
    if not PROC.is_dir():
        return []
    return [int(folder.name) for folder in PROC.iterdir() if folder.name.isdigit()]


def marked(stack_id: str, part: str | None = None) -> list[Identity]:
    """Return the live processes with this stack's mark, of one part or all; not the caller."""
    needles = {f"{MARKER}={stack_id}".encode()}
    needles |= set() if part is None else {f"{PART_MARKER}={part}".encode()}
    return _with_environment(needles)


def marked_of_home(root: Path) -> list[Identity]:
    """Return the live processes that any stack of this home has started."""
    return _with_environment({f"HEADRACE_HOME={root}".encode()}, prefix=f"{MARKER}=".encode())


def leftovers(root: Path, stack_id: str | None) -> list[Identity]:
    """Return the live processes that any stack of this home has started, this one in any case.

    A supervisor that was killed before it had written its record is in no record; a home that was
    named otherwise (by a link) is known by its stack.
    """
    of_stack = [] if stack_id is None else marked(stack_id)
    return list(dict.fromkeys([*marked_of_home(root), *of_stack]))


def _with_environment(needed: set[bytes], prefix: bytes = b"") -> list[Identity]:
    found = []
    for pid in _all_pids():
        with suppress(OSError):
            environment = set((PROC / str(pid) / "environ").read_bytes().split(b"\0"))
            is_marked = any(entry.startswith(prefix) for entry in environment)
            if needed <= environment and is_marked and pid != os.getpid():
                identity = Identity.of(pid)
                found += [] if identity is None else [identity]
    return found


def stop_marked(stack_id: str, *, polite_seconds: float, part: str | None = None) -> int:
    """End every process that carries the mark; return how many there were."""
    return end_all(marked(stack_id, part), polite_seconds=polite_seconds)


def end_all(left: list[Identity], *, polite_seconds: float) -> int:
    """End these processes; return how many there were."""
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
    for stubborn in wait_gone(left, polite_seconds):
        with suppress(ProcessLookupError):
            os.kill(stubborn.pid, signal.SIGKILL)
    wait_gone(left, polite_seconds)
    return len(left)
