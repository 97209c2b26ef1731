"""`python -m tasks.rollout.steer STATE MODEL pause|resume WHO WHY`: what only a person does to a step."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from tasks.contracts.errors import BadRequestError, HeadraceError
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.record_store import RecordStore
from tasks.contracts.requests import parse_utc
from tasks.rollout.ledger import LedgerEntry, LedgerStore, read_entry
from tasks.rollout.state import ModelState, Note, open_state

ACTIONS = ("pause", "resume")
_DONE = {"pause": "paused", "resume": "resumed"}
_STOPS = frozenset({"paused", "halted", "cut"})


def steer(
    state: ModelState,
    action: str,
    *,
    who: str,
    why: str,
    asked_at: datetime | None = None,
    ledger: LedgerStore | None = None,
) -> str:
    """Pause or resume the release in progress and return a sentence; both go into the ledger.

    With `asked_at` (UTC; None: now) a later try of the same `who` finds what it did, and changes
    nothing. BadRequestError: what has happened since then is not what the person had seen. Older
    entries than the record holds are read from `ledger`.
    """
    if action not in ACTIONS:
        message = f"{state.model}: expected an action of {list(ACTIONS)}, found {action!r:.40}"
        raise BadRequestError(message)
    if asked_at is not None:
        since = list(_since(state, ledger, asked_at))
        done = [entry for entry in since if (entry.kind, entry.who) == (_DONE[action], who)]
        if done:
            return f"{state.model}: {_told(done[0])} already; nothing was changed"
        _demand_as_seen(state.model, action, since, asked_at)
    release_id = state.peek().release_id
    if release_id is None:
        message = f"{state.model}: expected a release in progress to {action}, found none"
        raise BadRequestError(message)
    ask = state.pause if action == "pause" else state.resume
    phase = ask(release_id, note=Note(who=who, why=why))
    share = state.peek().status.share / 100
    return f"{state.model}: {release_id} is {phase} at {share:g} % ({phase.meaning})"


def _since(
    state: ModelState, ledger: LedgerStore | None, moment: datetime
) -> Iterator[LedgerEntry]:
    """Yield the entries after a moment, newest first; the store is asked only for what is long ago."""
    record = state.peek()
    held = {entry.sequence: entry for entry in record.entries}
    for number in range(record.sequence, 0, -1):
        entry = held.get(number)
        if entry is None and ledger is not None:
            entry = read_entry(ledger, state.model, number)
        if entry is None:
            continue
        if parse_utc(entry.at) <= moment:
            return
        yield entry


def _demand_as_seen(
    model: str, action: str, since: Sequence[LedgerEntry], asked_at: datetime
) -> None:
    """Refuse what a person asked of a release or a pause that has come, or ended, since then."""
    for entry in since:
        resumed = entry.kind == "resumed" and entry.who.startswith("person")
        opposed = entry.kind in _STOPS if action == "resume" else resumed
        if entry.kind == "slot_reserved" or opposed:
            message = (
                f"{model}: expected to {action} what was in progress at {asked_at:%Y-%m-%dT%H:%M:%SZ}, "
                f"when it was asked, found that {_told(entry)} since; nothing was changed: if it is "
                "wanted now, trigger a new run"
            )
            raise BadRequestError(message)


def _told(entry: LedgerEntry) -> str:
    return (
        f"{entry.release_id} was {entry.kind} by {entry.who:.80} at {entry.at} "
        f"(sequence {entry.sequence})"
    )


def main(
    argv: Sequence[str] | None = None,
    records: RecordStore | None = None,
    ledger: LedgerStore | None = None,
) -> int:
    """Pause or resume once; print why it could not be done."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) not in {5, 6}:
        print("expected: steer STATE_DIR MODEL pause|resume WHO WHY [ASKED_AT]", file=sys.stderr)
        return int(ExitCode.USAGE)
    folder, model, action, who, why = arguments[:5]
    try:
        asked_at = parse_utc(arguments[5]) if len(arguments) == 6 else None
        state = open_state(Path(folder), model, records=records)
        print(steer(state, action, who=who, why=why, asked_at=asked_at, ledger=ledger))
    except HeadraceError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    return int(ExitCode.DONE)


if __name__ == "__main__":
    raise SystemExit(main())
