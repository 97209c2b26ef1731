"""Replace stable's release in the third slot during a long experiment; the candidate keeps its users.

found = reserve_hotfix(state, "hotfix-7", bundle=..., note=...)    # then load its bundle, and ask it
apply_hotfix(state, "hotfix-7", found.release_number, note=...)    # roles move, nothing is loaded
abandon_hotfix(state, "hotfix-7", found.release_number, note=...)  # before that: its slot is free
"""

from __future__ import annotations

from dataclasses import replace

from tasks.contracts.errors import BadRequestError
from tasks.rollout import changes
from tasks.rollout.changes import Change, moved
from tasks.rollout.decide import Observation
from tasks.rollout.ledger import LedgerEntry
from tasks.rollout.phases import Ask
from tasks.rollout.record import SlotContent, StateRecord
from tasks.rollout.state import ModelState, Note, Reservation


def reserve_hotfix(
    state: ModelState,
    release_id: str,
    *,
    bundle: str | None = None,
    events: str | None = None,
    note: Note | None = None,
) -> Reservation:
    """Give a hotfix the slot that neither stable nor candidate has, and a number."""

    def change(now: StateRecord) -> Change:
        if _pending(now) == release_id or _serves(now, release_id):
            return Change(record=now)
        if _pending(now) is not None:
            message = (
                f"{now.model}: expected one hotfix at a time, found {_pending(now)} in progress; "
                "apply or abandon it first"
            )
            raise BadRequestError(message)
        content = SlotContent(
            release_id=release_id,
            release_number=now.next_release_number,
            bundle=bundle,
            events=events,
        )
        return changes.hotfix_reserved(moved(now, Observation(asked=Ask.HOTFIX)), content)

    _refuse_known(state, release_id)
    record = state.commit(change, note)
    colour = record.slot_of(release_id)
    if colour is None:  # pragma: no cover - the change above has just set it
        message = f"{state.model}: expected a slot for {release_id}, found none"
        raise BadRequestError(message)
    return Reservation(colour, record.slots[colour].release_number)


def apply_hotfix(
    state: ModelState, release_id: str, release_number: int, *, note: Note | None = None
) -> LedgerEntry:
    """Make the hotfix stable and stable previous; step, share and assignment stay as they are.

    Except where a halted candidate does not answer either: its users go to the new stable.

    Only the number that was loaded and asked: abandoned and asked for again, the same name has
    another, of which nothing may be loaded yet. BadRequestError: the slot holds something else.
    """

    def change(now: StateRecord) -> Change:
        if _serves(now, release_id):
            return Change(record=now)
        if now.hotfix is None or not _is(now.hotfix, release_id, release_number):
            found = now.hotfix and f"{now.hotfix.release_id}, number {now.hotfix.release_number}"
            message = (
                f"{now.model}: expected the hotfix {release_id}, number {release_number}, in a "
                f"slot, found {found or 'none'}; reserve it and load it first"
            )
            raise BadRequestError(message)
        ready = now.roles.hotfix not in now.unready
        return changes.hotfixed(moved(now, Observation(asked=Ask.HOTFIX, hotfix_ready=ready)))

    state.commit(change, note)
    _look_again(state, note)
    return _entry(state, "hotfixed", release_id)


def _look_again(state: ModelState, note: Note | None) -> None:
    """Decide anew beside another stable: the keeper does so only when it sees a slot change."""
    by = None if note is None else replace(note, why="")
    state.commit(lambda now: changes.looked_at(now, now.unready), by)


def abandon_hotfix(
    state: ModelState, release_id: str, release_number: int, *, note: Note | None = None
) -> bool:
    """Free the slot of a hotfix that was not applied, and say whether there was one.

    One that serves, never was, or has another number by now changes nothing.
    """
    freed = False

    def change(now: StateRecord) -> Change:
        nonlocal freed
        freed = now.hotfix is not None and _is(now.hotfix, release_id, release_number)
        return changes.hotfix_abandoned(now) if freed else Change(record=now)

    state.commit(change, note)
    return freed


def hotfix_name(state: ModelState, content: str) -> str:
    """Return a hotfix's name by what it is made of: asked for again, it goes on where it was."""
    return f"hotfix-{state.peek().rollout or 'none'}-{content[:12]}"


def applied_hotfix(state: ModelState, release_id: str) -> LedgerEntry | None:
    """Return the entry of a hotfix that serves as stable; None where it does not."""
    return _entry(state, "hotfixed", release_id) if _serves(state.peek(), release_id) else None


def _pending(now: StateRecord) -> str | None:
    return None if now.hotfix is None else now.hotfix.release_id


def _is(held: SlotContent, release_id: str, release_number: int) -> bool:
    return (held.release_id, held.release_number) == (release_id, release_number)


def _serves(now: StateRecord, release_id: str) -> bool:
    return now.stable is not None and now.stable.release_id == release_id


def _refuse_known(state: ModelState, release_id: str) -> None:
    """Refuse the name of a release that ended: its entries would be taken for this one's.

    A hotfix that was abandoned has not served, and may be tried again.
    """
    if state.peek().slot_of(release_id) is not None:
        return
    known = [entry.kind for entry in state.history() if entry.release_id == release_id]
    if known and known[-1] != "hotfix_abandoned":
        message = f"{state.model}: expected a new name, found {release_id}, which the ledger knows"
        raise BadRequestError(message)


def _entry(state: ModelState, kind: str, release_id: str) -> LedgerEntry:
    for entry in reversed(state.history()):
        if (entry.kind, entry.release_id) == (kind, release_id):
            return entry
    message = f"{state.model}: expected a ledger entry {kind} of {release_id}, found none"
    raise BadRequestError(message)
