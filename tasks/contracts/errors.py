"""Errors that say what was expected, what was found, where, and the next step; all bounded."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.contracts.exit_codes import ExitCode

MAX_MESSAGE_CHARACTERS = 2000
MAX_LISTED_FAILURES = 10


def bounded(text: str, limit: int = MAX_MESSAGE_CHARACTERS) -> str:
    """Cut `text` to `limit` characters and say that it was cut."""
    return text if len(text) <= limit else f"{text[: limit - 14]}...[truncated]"


class HeadraceError(Exception):
    """An error with a bounded message and the exit code that a stage ends with."""

    exit_code: ExitCode = ExitCode.CRASHED

    def __init__(self, message: str) -> None:
        super().__init__(bounded(message))


class BadRequestError(HeadraceError):
    """The request can never succeed as it is: a retry does not help."""

    exit_code = ExitCode.BAD_REQUEST


class NotYetError(BadRequestError):
    """Refused as things stand; they may change by themselves or by a person: a retry may help."""

    exit_code = ExitCode.CRASHED


class GateRefusedError(HeadraceError):
    """A gate found the data or the model bad; lists every failure, bounded."""

    exit_code = ExitCode.GATE_REFUSED

    def __init__(self, subject: str, failures: Sequence[str]) -> None:
        listed = [f"  - {failure}" for failure in failures[:MAX_LISTED_FAILURES]]
        if len(failures) > MAX_LISTED_FAILURES:
            listed.append(f"  (+{len(failures) - MAX_LISTED_FAILURES} more)")
        head = f"Gate '{subject}' refused: {len(failures)} failed"
        super().__init__("\n".join([head, *listed]))


class CorruptArtifactError(HeadraceError):
    """Bytes in the store differ from what their manifest says: a retry finds them just so."""

    exit_code = ExitCode.BAD_REQUEST


class StoreUnavailableError(HeadraceError):
    """The object store could not be read or written; a retry may help."""


class ConflictError(HeadraceError):
    """Somebody else changed the record first; a retry re-reads it."""
