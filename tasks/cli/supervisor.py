"""Keeps the parts of the local stack running: starts in order, restarts, stops in order."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING

from tasks.cli.home import read_json, write_private
from tasks.cli.parts import Part, Status
from tasks.cli.processes import (
    MARKER,
    PART_MARKER,
    Identity,
    end_all,
    leftovers,
    stop,
    stop_marked,
)
from tasks.contracts.errors import BadRequestError, ConflictError, HeadraceError
from tasks.contracts.json_types import Json, pretty_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import FrameType

TICK_SECONDS = 0.2
REPLAN_SECONDS = 1.0
START_SECONDS = 180.0  # longer than this without an answer is a failed start
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
HEALTHY_SECONDS = 60.0  # a part that ran this long starts again without delay
ORPHAN_SECONDS = 0.2  # stages and servers may be killed at any moment
MAX_LOG_BYTES = 32 * 1024 * 1024
TAIL_BYTES = 4096


@dataclass(kw_only=True)
class Child:
    """A part and how it is doing."""

    part: Part
    status: Status = Status.WAITING
    process: subprocess.Popen[bytes] | None = None
    identity: Identity | None = None
    restarts: int = 0
    failures: int = 0  # in a row
    since: float = 0.0  # monotonic: started, or due again while backing off
    note: str = ""

    def to_record(self, log: Path) -> dict[str, Json]:
        """Return JSON fields for `stack.json`."""
        return {
            "status": self.status.value,
            "restarts": self.restarts,
            "note": self.note,
            "log": str(log),
            "stop_rank": self.part.stop_rank,
            "process": None if self.identity is None else self.identity.to_record(),
        }


class Supervisor:
    """Runs the parts that `plan` names until told to stop."""

    def __init__(
        self,
        *,
        plan: Callable[[], Sequence[Part]],
        logs: Path,
        record: Path,
        about: Callable[[], Mapping[str, Json]],
        stack_id: str,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """Prepare; `about` gives what `record` says beside the parts, `say` hears each change."""
        self._say = say
        self._said: dict[str, str] = {}
        self._plan = plan
        self._logs = logs
        self._record = record
        self._about = about
        self._stack_id = stack_id
        self._children: dict[str, Child] = {}
        self._stopping = False
        self._written: tuple[str, tuple[int, int] | None] = ("", None)
        self._replan_at = 0.0

    def run(self) -> None:
        """Supervise until SIGTERM or SIGINT, then stop every part."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_replan)
        try:
            while not self._stopping:
                self._tick()
                time.sleep(TICK_SECONDS)
        finally:
            self._stop_all()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _on_replan(self, _number: int, _frame: FrameType | None) -> None:
        self._replan_at = 0.0

    def _tick(self) -> None:
        if time.monotonic() >= self._replan_at:
            self._whatever_happens("plan", self._follow_plan)
            self._replan_at = time.monotonic() + REPLAN_SECONDS
            # Whoever ends what a killed supervisor left must find its mark: recorded, then started.
            self._whatever_happens("record", self._write_record)
        for name, child in list(self._children.items()):
            self._whatever_happens(f"looking after {name}", partial(self._look_after, child))
        self._whatever_happens("record", self._write_record)

    def _whatever_happens(self, topic: str, act: Callable[[], None]) -> None:
        """Act; a full disk or a damaged file is said, and must not end what serves users."""
        try:
            act()
        except (HeadraceError, OSError) as error:
            self._say_news(topic, f"{topic}: {error}")
        else:
            self._said.pop(topic, None)

    def _say_news(self, topic: str, line: str) -> None:
        if self._said.get(topic) != line:
            self._said[topic] = line
            self._say(line)

    def _follow_plan(self) -> None:
        planned = {part.name: part for part in self._plan()}
        for name, child in list(self._children.items()):
            if planned.get(name) != child.part:
                self._stop(child)
                del self._children[name]
        for name, part in planned.items():
            self._children.setdefault(name, Child(part=part)).part = part

    def _look_after(self, child: Child) -> None:
        if self._stopping:
            return
        if child.status is Status.WAITING and self._may_start(child):
            self._start(child)
        elif child.status is Status.BACKING_OFF and time.monotonic() >= child.since:
            child.restarts += 1
            self._start(child)
        elif child.process is not None and _has_ended(child.process):
            self._ended(child, _reap(child.process))
        elif child.status is Status.STARTING:
            self._await_ready(child)

    def _may_start(self, child: Child) -> bool:
        before = [self._children[name] for name in child.part.after if name in self._children]
        return all(
            other.status is Status.FINISHED if other.part.once else other.status.settled
            for other in before
        )

    def _start(self, child: Child) -> None:
        log = self._log_of(child)
        marks = {MARKER: self._stack_id, PART_MARKER: child.part.name}
        environment = {**os.environ, **child.part.environment, **marks}
        child.since = time.monotonic()
        try:
            if child.part.done_before():
                child.status, child.note = Status.FINISHED, ""
                return
            _rotate(log)
            with log.open("ab") as writer:
                child.process = _spawn(child.part.command, environment, writer)
        except OSError as error:
            child.note = f"could not be started: {error}"
            self._back_off(child)
            return
        child.status = Status.STARTING
        child.identity = Identity.of(child.process.pid)

    def _await_ready(self, child: Child) -> None:
        if child.part.once:
            return
        if child.part.is_ready():
            child.status, child.note = Status.READY, ""
        elif time.monotonic() - child.since > START_SECONDS:
            child.note = f"did not answer within {START_SECONDS:.0f} s of its start"
            self._stop(child)
            self._back_off(child)

    def _ended(self, child: Child, code: int) -> None:
        child.process, child.identity = None, None
        self._whatever_happens(
            f"ending what {child.part.name} left", partial(self._stop_orphans, child)
        )
        if child.part.once and code == 0:
            self._finish(child)
            return
        if time.monotonic() - child.since > HEALTHY_SECONDS:
            child.failures = 0
        child.note = f"ended with {_ending(code)}: {last_line(self._log_of(child))}"
        self._back_off(child)

    def _stop_orphans(self, child: Child) -> None:
        """End stages in sessions of their own: the next scheduler starts them anew."""
        stop_marked(self._stack_id, polite_seconds=ORPHAN_SECONDS, part=child.part.name)

    def _finish(self, child: Child) -> None:
        """Remember that a step is done; one that cannot be remembered is done again."""
        try:
            child.part.write_stamp()
        except OSError as error:
            child.note = f"ended well, but that could not be written down: {error}"
            self._back_off(child)
        else:
            child.status, child.note = Status.FINISHED, ""

    def _back_off(self, child: Child) -> None:
        delay = min(FIRST_BACKOFF_SECONDS * 2**child.failures, LONGEST_BACKOFF_SECONDS)
        child.failures += 1
        child.status = Status.BACKING_OFF
        child.since = time.monotonic() + delay

    def _stop(self, child: Child) -> None:
        if child.process is not None:
            if child.identity is not None:
                stop(child.identity, polite_seconds=child.part.polite_seconds)
            _reap(child.process)
        child.process, child.identity = None, None
        child.status = Status.WAITING

    def _stop_all(self) -> None:
        for rank in sorted({child.part.stop_rank for child in self._children.values()}):
            together = [c for c in self._children.values() if c.part.stop_rank == rank]
            for child in together:
                if child.identity is not None:
                    child.identity.signal_group(signal.SIGTERM)
            for child in together:
                stopping = f"stopping {child.part.name}"
                self._whatever_happens(stopping, partial(self._stop, child))
            self._whatever_happens("record", self._write_record)
        stop_marked(self._stack_id, polite_seconds=2.0)

    def _log_of(self, child: Child) -> Path:
        return self._logs / f"{child.part.name}.log"

    def _write_record(self) -> None:
        parts: dict[str, Json] = {
            name: child.to_record(self._log_of(child)) for name, child in self._children.items()
        }
        for name, child in self._children.items():
            process = "" if child.identity is None else f", process {child.identity.pid}"
            note = f": {child.note}" if child.note else ""
            self._say_news(f"part {name}", f"{name} is {child.status.value}{process}{note}")
        text = pretty_json({"format": "stack/1", **self._about(), "parts": parts})
        if (text, _stamp_of(self._record)) != self._written:  # ours, or damaged by somebody
            write_private(self._record, text)
            self._written = (text, _stamp_of(self._record))


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Look without reaping: until then nobody else can get the pid, nor its group."""
    if process.returncode is not None:
        return True
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, options) is not None


def _reap(process: subprocess.Popen[bytes]) -> int:
    """Return the exit code, ending what is left of the process's group first."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _spawn(
    command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(command),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"signal {signal.Signals(-code).name}"


def last_line(log: Path) -> str:
    """Return the last line of a log that says something, for a note of one line."""
    try:
        with log.open("rb") as reader:
            reader.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = reader.read().decode(errors="replace")
    except OSError:
        return "no log"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing logged"


def _stamp_of(path: Path) -> tuple[int, int] | None:
    """Return what changes when somebody writes the file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """Hold the lock of a home and say in it who does; a second supervisor is refused."""
    with lock.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"{lock}: expected nobody to hold it, found a running supervisor"
            raise ConflictError(message) from error
        me = Identity.of(os.getpid())
        handle.truncate(0)
        handle.write(json.dumps(None if me is None else me.to_record()))
        handle.flush()
        yield


def is_held(lock: Path) -> bool:
    """Say whether a supervisor runs for this home."""
    try:
        with lock.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def holder_of(lock: Path) -> Identity | None:
    """Return the supervisor that holds the lock of a home; None where nobody does, or is said to."""
    if not is_held(lock):
        return None
    try:
        found = Identity.from_record(json.loads(lock.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    return found if found is not None and found.alive else None


def clear_leftovers(record_file: Path, home: Path) -> int:
    """End what killed supervisors of a home left running; return how many processes there were."""
    try:
        record = read_json(record_file)
    except (BadRequestError, OSError):
        record = {}
    parts, stack_id = record.get("parts"), record.get("stack_id")
    rows = parts.values() if isinstance(parts, dict) else []
    found = [Identity.from_record(row.get("process")) for row in rows if isinstance(row, dict)]
    alive = [identity for identity in found if identity is not None and identity.alive]
    for identity in alive:
        identity.signal_group(signal.SIGTERM)
    for identity in alive:
        stop(identity, polite_seconds=5.0)
    left = leftovers(home, stack_id if isinstance(stack_id, str) else None)
    return len(alive) + end_all(left, polite_seconds=2.0)
