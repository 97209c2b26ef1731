"""Which release a person's rollback takes out: the candidate, and stable only where it is named.

take_back(state, "candidate", note=...)                # or stable, a number, or a release's id
take_back(state, "stable", note=..., asked_at=moment)  # who was stable then: each try means the same
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, cast

from tasks.contracts.errors import BadRequestError, HeadraceError
from tasks.contracts.requests import CANDIDATE, STABLE, parse_utc
from tasks.rollout.ledger import LedgerEntry
from tasks.rollout.record import StateRecord
from tasks.rollout.state import ModelState, Note

_ENDS = frozenset({"promoted", "rolled_back"})


def take_back(
    state: ModelState, named: str, *, note: Note, asked_at: datetime | None = None
) -> LedgerEntry:
    """Take the named release out and return the entry about it.

    `named` is candidate, stable, a number or an id; the two words mean who had the role at
    `asked_at` (None: now). BadRequestError, and nothing changes: it is not there, or has ended.
    """
    release_id = _meant(state, named, asked_at)
    if release_id not in _within_reach(state.peek(), named):
        raise _out_of_reach(state, release_id, named)
    entry = state.roll_back(release_id, note=note, even_stable=named != CANDIDATE)
    if entry is None:  # promoted in this moment
        raise _out_of_reach(state, release_id, named)
    return entry


def _meant(state: ModelState, named: str, asked_at: datetime | None) -> str:
    if named not in {CANDIDATE, STABLE}:
        return _of_name(state, named)
    now = state.peek()
    held = _held_now(now) if asked_at is None else _held_at(state.history(), asked_at)
    release_id = held[named]
    if release_id is None:
        role = "release in progress" if named == CANDIDATE else "stable release"
        when = "" if asked_at is None else f" at {asked_at:%Y-%m-%dT%H:%M:%SZ}, when it was asked"
        message = (
            f"{state.model}: expected a {role} to take out, found none{when}"
            f"{_last_end(_known(state))}; nothing was changed: {_serves(now)}"
        )
        raise BadRequestError(message)
    return release_id


def _of_name(state: ModelState, named: str) -> str:
    for held in state.peek().slots.values():
        if named in {held.release_id, str(held.release_number)}:
            return held.release_id
    for entry in reversed(_known(state)):
        if entry.release_id is not None and named in {entry.release_id, str(entry.release_number)}:
            raise _out_of_reach(state, entry.release_id, named)
    message = (
        f"{state.model}: expected candidate, stable, or the number or id of a release, found "
        f"{named!r:.130}, which the ledger does not know; `headrace history` names them"
    )
    raise BadRequestError(message)


def _held_now(now: StateRecord) -> dict[str, str | None]:
    return {
        CANDIDATE: now.release_id,
        STABLE: None if now.stable is None else now.stable.release_id,
    }


def _held_at(entries: Iterable[LedgerEntry], moment: datetime) -> dict[str, str | None]:
    held: dict[str, str | None] = {CANDIDATE: None, STABLE: None}
    for entry in entries:
        if parse_utc(entry.at) > moment:
            break
        if entry.kind == "slot_reserved":
            held[CANDIDATE] = entry.release_id
        if entry.kind in _ENDS:
            held[CANDIDATE] = None
        if entry.kind in {*_ENDS, "hotfixed"}:
            stable = cast("dict[str, Any] | None", entry.details.get("stable"))
            held[STABLE] = None if stable is None else stable["release_id"]
    return held


def _within_reach(now: StateRecord, named: str) -> set[str | None]:
    held = _held_now(now)
    return {held[CANDIDATE]} if named == CANDIDATE else {held[CANDIDATE], held[STABLE]}


def _out_of_reach(state: ModelState, release_id: str, named: str) -> BadRequestError:
    roles = "in progress" if named == CANDIDATE else "in progress or stable"
    about = [one for one in _known(state) if one.release_id == release_id]
    last = f": {_told(about[-1])}" if about else ""
    return BadRequestError(
        f"{state.model}: expected release {release_id} {roles}, found that it is not any more"
        f"{last}; nothing was changed: {_serves(state.peek())}"
    )


def _last_end(entries: Iterable[LedgerEntry]) -> str:
    ends = [entry for entry in entries if entry.kind in _ENDS]
    return f" ({ends[-1].release_id}: {_told(ends[-1])})" if ends else ""


def _told(entry: LedgerEntry) -> str:
    return f"{entry.kind} by {entry.who:.80} at {entry.at}, sequence {entry.sequence}"


def _serves(now: StateRecord) -> str:
    if now.stable is None:
        return "nobody serves"
    return (
        f"release {now.stable.release_number} ({now.stable.release_id}) serves; if it is what is "
        f"wrong, `headrace rollback --model {now.model} --release stable --reason WHY`, or the DAG "
        "roll_back with the release `stable`, takes it out"
    )


def _known(state: ModelState) -> list[LedgerEntry]:
    """Return the ledger; while its store is away, what the record still holds of it."""
    try:
        return state.history()
    except (HeadraceError, OSError):
        return list(state.peek().entries)
