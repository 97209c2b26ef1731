"""Log lines of stages and servers: plain for people, JSON for programs.

`HEADRACE_LOG` (`plain`, the default, or `json`) says what a process prints. `HEADRACE_LOG_FILE`
names a file to which every process adds the same lines as JSON, whatever it prints.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from tasks.contracts.errors import BadRequestError, bounded

FORMAT_VARIABLE = "HEADRACE_LOG"
FILE_VARIABLE = "HEADRACE_LOG_FILE"
MAX_FILE_BYTES = 32 * 1024 * 1024
MAX_MESSAGE = 8000  # a traceback is longer than a sentence
PRIVATE_FILE = 0o600


class Level(StrEnum):
    """How much a line matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Form(StrEnum):
    """What a process prints."""

    PLAIN = "plain"
    JSON = "json"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What lines are about; what is not known is not written."""

    process: str  # train_model, keeper, serve, supervisor, release ...
    model: str | None = None
    release_id: str | None = None
    stage: str | None = None
    artifact: str | None = None  # kind/key

    def fields(self) -> dict[str, str]:
        """Return the known fields."""
        return {name: value for name, value in vars(self).items() if value}


def _to_stdout(line: str) -> None:
    print(line, flush=True)


@dataclass(kw_only=True)
class LineLog:
    """Says lines about a subject; `subject` may be sharpened as more becomes known."""

    subject: Subject
    form: Form = Form.PLAIN
    file: Path | None = None
    speak: Callable[[str], None] = _to_stdout
    clock: Callable[[], float] = field(default=time.time)

    @classmethod
    def from_environment(
        cls, subject: Subject, environment: Mapping[str, str] = os.environ
    ) -> LineLog:
        """Read `HEADRACE_LOG` and `HEADRACE_LOG_FILE`; an unknown form is refused."""
        form = environment.get(FORMAT_VARIABLE) or Form.PLAIN.value
        if form not in set(Form):
            message = f"{FORMAT_VARIABLE}: expected plain or json, found {form!r:.60}"
            raise BadRequestError(message)
        file = environment.get(FILE_VARIABLE)
        return cls(subject=subject, form=Form(form), file=Path(file) if file else None)

    def about(self, **known: str | None) -> None:
        """Say of all later lines what they are about."""
        self.subject = replace(self.subject, **known)  # type: ignore[arg-type]

    def about_release(self, model: str, release_id: str | None) -> None:
        """Say of all later lines which release of which model they are about."""
        self.about(model=model, release_id=release_id)

    def info(self, message: str, *, plain: str | None = None) -> None:
        """Say a line; `plain` is what people read where that differs."""
        self.say(Level.INFO, message, plain=plain)

    def say(self, level: Level, message: str, *, plain: str | None = None) -> None:
        """Print the line, and add it to the file."""
        self.speak(self.as_json(level, message) if self.form is Form.JSON else plain or message)
        self.note(level, message)

    def note(self, level: Level, message: str) -> None:
        """Add the line to the file only; a log that cannot be written stops nobody."""
        if self.file is not None:
            with suppress(OSError):
                append_line(self.file, self.as_json(level, message))

    def as_json(self, level: Level, message: str) -> str:
        """Return the line as one JSON object."""
        line = {
            "time": self.moment(),
            "level": level.value,
            **self.subject.fields(),
            "pid": os.getpid(),
            "message": bounded(message, MAX_MESSAGE),
        }
        return json.dumps(line, ensure_ascii=False)

    def moment(self) -> str:
        """Return the time of a line: ISO 8601, UTC, to the millisecond."""
        now = datetime.fromtimestamp(self.clock(), tz=UTC)
        return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def append_line(file: Path, line: str) -> None:
    """Add a line in one write: lines of several processes never mix. A long file is set aside."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE_FILE)
    try:
        os.write(descriptor, f"{line}\n".encode())
        own = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if own.st_size > MAX_FILE_BYTES and os.path.samestat(
        own, file.stat()
    ):  # nobody else has done it
        file.replace(file.with_name(f"{file.name}.1"))


class LineHandler(logging.Handler):
    """Hands the records of Python's logging to a LineLog."""

    def __init__(self, log: LineLog) -> None:
        """Speak through `log`."""
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Say the record; a traceback goes along."""
        level = Level.INFO
        if record.levelno >= logging.ERROR:
            level = Level.ERROR
        elif record.levelno >= logging.WARNING:
            level = Level.WARNING
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
        self._log.say(level, text, plain=f"{self._log.moment()} {level} {text}")


def to_stderr(line: str) -> None:
    """Speak on standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
