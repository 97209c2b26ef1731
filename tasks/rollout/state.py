"""The door to one model's rollout state; every operation may be repeated and then changes nothing.

state = open_state(state_dir, "recommender", ObjectStore(store_url))   # store: only to write
state.champion() -> Champion | None            state.read() -> StateRecord
state.reserve_slot(release_id, bundle=..., events=...) -> (colour, release_number)
state.begin_step(release_id, step, plan, per_try_timeout_ms=...) -> LedgerEntry
state.renew(release_id, seconds) -> Phase      state.lapse(release_id), cut, pause, resume, look
state.record_verdict(release_id, step, decision, numbers=...) -> LedgerEntry     state.cut_of(..)
state.promote(release_id) -> LedgerEntry       state.roll_back(release_id) -> LedgerEntry | None
state.history() -> list[LedgerEntry]           state.verify() -> list[str]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from tasks.contracts.bake import STATE_FILE
from tasks.contracts.errors import BadRequestError, HeadraceError, StoreUnavailableError
from tasks.contracts.json_types import Json
from tasks.contracts.record_store import RecordStore
from tasks.contracts.requests import MODEL_NAME, Champion, TrafficPlan
from tasks.rollout import changes
from tasks.rollout.changes import Change, about_candidate, moved
from tasks.rollout.decide import Observation
from tasks.rollout.file_records import FileRecords
from tasks.rollout.ledger import (
    LedgerEntry,
    LedgerStore,
    continues,
    is_written,
    read_entry,
    read_ledger,
    verify_chain,
    with_unwritten,
    write_entry,
)
from tasks.rollout.occupied import occupied_sentence
from tasks.rollout.phases import Ask, Decision, Phase
from tasks.rollout.record import Colour, SlotContent, StateRecord


class _MovedOnError(Exception):
    """The record has changed since the ledger was read."""


class _RefusedError(Exception):
    """A refusal whose sentence needs the ledger: it is made when the lock is free again."""

    def __init__(self, explain: Callable[[], BadRequestError]) -> None:
        super().__init__()
        self.explain = explain


class Reservation(NamedTuple):
    """The slot of a release and its number, which is the version that the server shows."""

    colour: Colour
    release_number: int


@dataclass(frozen=True, kw_only=True)
class Note:
    """What goes into the ledger beside the numbers: who asks and why."""

    who: str = "airflow"
    why: str = ""
    code: str | None = None  # digest of the code that asks


def open_state(
    state_dir: Path,
    model: str,
    store: LedgerStore | None = None,
    *,
    clock: Callable[[], float] = time.time,
    records: RecordStore | None = None,
) -> ModelState:
    """Open the state of one model; without a store the ledger is written by the next who has one.

    `clock` gives unix seconds for ledger entries and for the expiry that Envoy sees. `records` is
    where the state records lie: without it, files below `state_dir`.
    """
    if not MODEL_NAME.fullmatch(model):
        message = f"model: expected a name of a-z, 0-9 and -, at most 40 long, found {model!r:.80}"
        raise BadRequestError(message)
    kept = FileRecords(state_dir=state_dir) if records is None else records
    return ModelState(folder=state_dir / model, model=model, store=store, clock=clock, records=kept)


def models_with_state(state_dir: Path) -> list[str]:
    """Return the models that have a state record below a folder, sorted."""
    return FileRecords(state_dir=state_dir).models()


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """Operations on one model's state record and ledger."""

    folder: Path
    model: str
    store: LedgerStore | None
    clock: Callable[[], float]
    records: RecordStore

    @property
    def path(self) -> Path:
        """Return where the state record lies, where records are files."""
        return self.folder / STATE_FILE

    @property
    def where(self) -> str:
        """Return the place of the record, for messages."""
        return self.records.where(self.model)

    def text(self) -> bytes | None:
        """Return the record as it is kept, None where there is none."""
        return self.records.read(self.model)

    def peek(self) -> StateRecord:
        """Return the record as it is, without looking at the ledger."""
        return self._parsed(self.text())

    def _parsed(self, text: bytes | None) -> StateRecord:
        if text is None:
            return StateRecord(model=self.model)
        return StateRecord.parse(text, self.records.where(self.model))

    def read(self) -> StateRecord:
        """Return the record; ledger objects that a crash left out are written first.

        A store that does not hold the entry before them is another one: it is left as it is.
        """
        record = self.peek()
        if (
            self.store is not None
            and record.unwritten
            and continues(self.store, record.unwritten[0])
        ):
            for entry in record.unwritten:
                if not is_written(self.store, entry):  # who may only read is not asked to write
                    write_entry(self.store, entry)
        return record

    def held_back(self) -> LedgerEntry | None:
        """Return the oldest entry that the store cannot take, for it lacks the one before it."""
        waiting = self.peek().unwritten
        if self.store is None or not waiting:
            return None
        try:
            return None if continues(self.store, waiting[0]) else waiting[0]
        except (HeadraceError, OSError):  # away: the next change writes it
            return None

    def champion(self) -> Champion | None:
        """Return who serves now, or None before the first release."""
        stable = self.peek().stable
        if stable is None or stable.bundle is None:
            return None
        return Champion(
            release_number=stable.release_number,
            release_id=stable.release_id,
            bundle=stable.bundle,
            events=stable.events,
        )

    def demand_free(self, release_id: str) -> None:
        """Refuse a release while another of this model is in progress; nothing is changed."""
        now = self.peek()
        if _another(now, release_id):
            raise self._occupied(now, f"release {release_id}")

    def reserve_slot(
        self,
        release_id: str,
        *,
        bundle: str | None = None,
        events: str | None = None,
        note: Note | None = None,
    ) -> Reservation:
        """Give a release a colour and a number; a second release in progress is refused."""

        def change(now: StateRecord) -> Change:
            if now.slot_of(release_id) is not None:
                return Change(record=now)
            self._refuse_other(now, release_id)
            if now.sequence != seen:
                raise _MovedOnError
            content = SlotContent(
                release_id=release_id,
                release_number=now.next_release_number,
                bundle=bundle,
                events=events,
            )
            return changes.reserved(moved(now, Observation(asked=Ask.STAGE)), content)

        while True:
            before = self.peek()
            seen = before.sequence
            if before.slot_of(release_id) is None and not _another(before, release_id):
                self._refuse_ended(release_id)
            try:
                record = self.commit(change, note)
                break
            except _MovedOnError:
                continue  # somebody else was faster: read the ledger again
        colour = record.slot_of(release_id)
        if colour is None:  # pragma: no cover - the change above has just set it
            message = f"{self.model}: expected a slot for {release_id}, found none"
            raise BadRequestError(message)
        return Reservation(colour, record.slots[colour].release_number)

    def begin_step(
        self,
        release_id: str,
        step: int,
        plan: TrafficPlan,
        *,
        per_try_timeout_ms: float,
        note: Note | None = None,
    ) -> LedgerEntry:
        """Give the candidate the step's share under a new lease; return when it first began."""

        def change(now: StateRecord) -> Change:
            self._demand_in_progress(now, release_id)
            self._demand_plan(now, plan)
            asked = Observation(asked=Ask.BEGIN_STEP, step=step)
            began = moved(replace(now, plan=plan), asked)
            if began.status == now.status:
                return Change(record=now)
            leased = self._leased(began, plan.lease_seconds)
            if now.status.phase is Phase.PAUSED and now.status.step == step:
                return about_candidate(leased, kind="resumed")
            return changes.step_began(leased, per_try_timeout_ms, self.clock())

        self.commit(change, note)
        return self._entry("step_began", release_id, step)

    def renew(self, release_id: str, seconds: float, *, note: Note | None = None) -> Phase:
        """Renew the lease; a step paused by a lapse goes on. Return the phase afterwards."""

        def change(now: StateRecord) -> Change:
            if now.release_id != release_id:
                return Change(record=now)
            renewed = moved(now, Observation(asked=Ask.RENEW))
            if renewed.status.phase is not Phase.STEPPING:
                return Change(record=now)
            leased = self._leased(renewed, seconds)
            if renewed.status == now.status:
                return Change(record=leased)
            return about_candidate(leased, kind="resumed", why="the lease was renewed")

        return self.commit(change, note).status.phase

    def lapse(self, release_id: str, renewals: int, *, note: Note | None = None) -> Phase:
        """Cut the candidate to 0 % because lease number `renewals` ran out."""

        def change(now: StateRecord) -> Change:
            if now.release_id != release_id or now.lease.renewals != renewals:
                return Change(record=now)  # renewed meanwhile: nothing lapsed
            lapsed = moved(now, Observation(lease_lapsed=True))
            if lapsed.status == now.status:
                return Change(record=now)
            return changes.lapsed(lapsed)

        return self.commit(change, note).status.phase

    def cut(
        self,
        release_id: str,
        step: int,
        *,
        numbers: Mapping[str, Json],
        note: Note | None = None,
    ) -> Phase:
        """Cut a candidate that harms to 0 %, for good: whatever was said of the step before."""

        def change(now: StateRecord) -> Change:
            if now.release_id != release_id:
                return Change(record=now)  # it ended meanwhile: there is nothing to cut
            cut = moved(now, Observation(asked=Ask.CUT, step=step))
            if cut.status == now.status:
                return Change(record=now)
            return about_candidate(cut, kind="cut", details=numbers)

        return self.commit(change, note).status.phase

    def look(
        self,
        unready: Iterable[Colour] | Callable[[], Iterable[Colour]],
        *,
        note: Note | None = None,
    ) -> Phase:
        """Note which slots do not answer; users leave a broken slot while the other answers.

        A function is asked when the change is made: the API may have held it up for seconds.
        """

        def change(now: StateRecord) -> Change:
            return changes.looked_at(now, frozenset(unready() if callable(unready) else unready))

        return self.commit(change, note).status.phase

    def pause(self, release_id: str, *, note: Note | None = None) -> Phase:
        """Cut the candidate to 0 % until somebody resumes."""
        return self._ask(release_id, Ask.PAUSE, "paused", note)

    def resume(self, release_id: str, *, note: Note | None = None) -> Phase:
        """Go on with a paused step under a new lease."""
        return self._ask(release_id, Ask.RESUME, "resumed", note)

    def record_verdict(
        self,
        release_id: str,
        step: int,
        decision: Decision,
        *,
        numbers: Mapping[str, Json],
        note: Note | None = None,
    ) -> LedgerEntry:
        """Record what the judge said; an unfavourable verdict takes the share away at once."""

        def change(now: StateRecord) -> Change:
            self._demand_in_progress(now, release_id)
            ended = now.status.verdicts.get(step) is Decision.ROLL_BACK
            if ended and decision is not Decision.ROLL_BACK:
                raise _RefusedError(lambda: self._cut_sentence(release_id, step))
            seen = Observation(asked=Ask.RECORD_VERDICT, step=step, decision=decision)
            judged = moved(now, seen)
            if judged.status == now.status:
                return Change(record=now)
            details: dict[str, Json] = {"decision": decision.value, **numbers}
            return about_candidate(judged, kind="judged", details=details)

        self.commit(change, note)
        found = self._find("judged", release_id, step)
        if found is None:
            raise self._cut_sentence(release_id, step)
        return found

    def cut_of(self, release_id: str, step: int) -> LedgerEntry | None:
        """Return how a step was cut before anybody judged it; None where it was not."""
        if self.peek().status.verdicts.get(step) is not Decision.ROLL_BACK:
            return None
        judged = self._find("judged", release_id, step)
        return self._find("cut", release_id, step) if judged is None else None

    def promotion_of(self, release_id: str) -> LedgerEntry | None:
        """Return how a release was promoted; None where it never was."""
        return self._find("promoted", release_id)

    def promote(self, release_id: str, *, note: Note | None = None) -> LedgerEntry:
        """Make the candidate stable and stable previous; no server loads anything."""

        def change(now: StateRecord) -> Change:
            if now.stable is not None and now.stable.release_id == release_id:
                return Change(record=now)
            self._demand_in_progress(now, release_id)
            return changes.promoted(moved(now, Observation(asked=Ask.PROMOTE)))

        self.commit(change, note)
        return self._entry("promoted", release_id)

    def roll_back(
        self, release_id: str, *, note: Note | None = None, even_stable: bool = True
    ) -> LedgerEntry | None:
        """Take a release out; None where it has no role in which it is looked for.

        In progress: the candidate's share ends and its slot is free. Stable, unless that is left
        alone: the previous release serves again, if its slot is still warm.
        """

        def change(now: StateRecord) -> Change:
            if now.release_id == release_id:
                return changes.abandoned(moved(now, Observation(asked=Ask.ROLL_BACK)))
            if even_stable and now.stable is not None and now.stable.release_id == release_id:
                self._refuse_other(now, release_id, f"taking stable's release {release_id} out")
                return changes.returned(now)
            return Change(record=now)

        self.commit(change, note)
        return self._find("rolled_back", release_id)

    def number_of(self, release_id: str) -> int | None:
        """Return the number that a release got with its slot; None where it never had one."""
        for held in self.peek().slots.values():
            if held.release_id == release_id:
                return held.release_number
        reserved = self._find("slot_reserved", release_id)
        return None if reserved is None else reserved.release_number

    def history(self) -> list[LedgerEntry]:
        """Return all entries, oldest first; without a store only those the record still holds."""
        return list(self._newest_first())[::-1]

    def _newest_first(self) -> Iterator[LedgerEntry]:
        record = self.read()
        held = {entry.sequence: entry for entry in record.entries}
        if self.store is None:
            yield from reversed(record.entries)
            return
        for number in range(record.sequence, 0, -1):
            entry = held.get(number) or read_entry(self.store, self.model, number)
            if entry is not None:
                yield entry

    def verify(self) -> list[str]:
        """Return what is wrong with the ledger, in sentences; empty when the chain holds."""
        if self.store is None:
            message = f"{self.model}: expected a store to verify the ledger in, found none"
            raise BadRequestError(message)
        record = self.peek()
        objects = with_unwritten(read_ledger(self.store, self.model), record.unwritten)
        return verify_chain(self.model, objects, record.sequence, record.head)

    def _ask(self, release_id: str, ask: Ask, kind: str, note: Note | None) -> Phase:
        def change(now: StateRecord) -> Change:
            self._demand_in_progress(now, release_id)
            asked = moved(now, Observation(asked=ask))
            if asked.status == now.status:
                return Change(record=now)
            if asked.status.phase is Phase.STEPPING:
                asked = self._leased(asked, now.lease.seconds)
            return about_candidate(asked, kind=kind, details=changes.paused_by(asked))

        return self.commit(change, note).status.phase

    def _leased(self, record: StateRecord, seconds: float) -> StateRecord:
        return changes.leased(record, seconds, self.clock())

    def commit(self, decide: Callable[[StateRecord], Change], note: Note | None) -> StateRecord:
        """Apply `decide` to the newest record by compare-and-swap; that one write decides.

        Nobody waits for the object store meanwhile: who takes users out must not.
        """
        record = StateRecord(model=self.model)

        def change(text: bytes | None) -> str | None:
            nonlocal record
            now = self._parsed(text)
            record = self._with_entry(now, decide(now), note or Note())
            return None if record == now else record.to_text()

        try:
            self.records.update(self.model, change)
        except _RefusedError as refused:
            raise refused.explain() from None
        self._write_ledger(record)
        return record

    def _with_entry(self, now: StateRecord, change: Change, note: Note) -> StateRecord:
        record = change.record
        if change.kind is None or record == now:
            return record
        entry = self._draft(now, change, note)
        return replace(
            record,
            sequence=entry.sequence,
            head=entry.digest,
            entries=(*now.unwritten, entry),
        )

    def _write_ledger(self, record: StateRecord) -> None:
        """Write what the ledger lacks, and note in the record that it is there.

        A store that is away, or that holds another ledger (`held_back`), ends this, not the
        change: the entries stay in the record, the next who has a store writes them, and `verify`
        says what is wrong.
        """
        if self.store is None or not record.unwritten:
            return
        try:
            if not continues(self.store, record.unwritten[0]):
                return
            for entry in record.unwritten:
                write_entry(self.store, entry)
        except (HeadraceError, OSError):  # away, read-only, or without the right to write
            return

        def noted(text: bytes | None) -> str | None:
            now = self._parsed(text)
            if record.sequence <= now.in_ledger:
                return None
            left = tuple(e for e in now.entries[:-1] if e.sequence > record.sequence)
            entries = (*left, now.entries[-1])
            return replace(now, in_ledger=record.sequence, entries=entries).to_text()

        with suppress(StoreUnavailableError):  # the next change finds out what the ledger has
            self.records.update(self.model, noted)

    def _draft(self, now: StateRecord, change: Change, note: Note) -> LedgerEntry:
        moment = datetime.fromtimestamp(self.clock(), tz=UTC)
        about = change.about
        return LedgerEntry(
            model=self.model,
            sequence=now.sequence + 1,
            previous=now.head,
            kind=change.kind or "",
            at=moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            who=note.who,
            why=note.why or change.why,
            release_id=None if about is None else about.release_id,
            release_number=None if about is None else about.release_number,
            step=change.step,
            share=change.record.status.share,
            details={**change.details, **({"code": note.code} if note.code else {})},
        )

    def _entry(self, kind: str, release_id: str, step: int | None = None) -> LedgerEntry:
        found = self._find(kind, release_id, step)
        if found is None:
            at = "" if step is None else f" of step {step}"
            message = (
                f"{self.model}: expected a ledger entry {kind}{at} of {release_id}, found none"
            )
            raise BadRequestError(message)
        return found

    def _find(self, kind: str, release_id: str, step: int | None = None) -> LedgerEntry | None:
        for entry in reversed(self.peek().entries):
            if (entry.kind, entry.release_id, entry.step) == (kind, release_id, step):
                return entry
        for entry in self._newest_first():
            if (entry.kind, entry.release_id, entry.step) == (kind, release_id, step):
                return entry
        return None

    def _demand_in_progress(self, now: StateRecord, release_id: str) -> None:
        if now.release_id != release_id:
            raise _RefusedError(lambda: self._not_in_progress(now, release_id))

    def _not_in_progress(self, now: StateRecord, release_id: str) -> BadRequestError:
        ended = self._end_of(release_id)
        if ended is not None:
            return ended
        message = (
            f"{self.model}: expected release {release_id} in progress, found "
            f"{now.release_id or 'none'} (phase {now.status.phase}); stage it first"
        )
        return BadRequestError(message)

    def _cut_sentence(self, release_id: str, step: int) -> BadRequestError:
        cut = self._find("cut", release_id, step)
        if cut is None:
            message = (
                f"{self.model}: step {step} of {release_id} was judged {Decision.ROLL_BACK.value} "
                "before; roll the release back"
            )
        else:
            message = (
                f"{self.model}: step {step} of {release_id} was cut by {cut.who} at {cut.at} "
                f"(sequence {cut.sequence}): {cut.why}; roll the release back"
            )
        return BadRequestError(message)

    def _demand_plan(self, now: StateRecord, plan: TrafficPlan) -> None:
        if now.plan is not None and now.plan != plan:
            message = (
                f"{self.model}: expected the plan {now.plan.name} that release {now.release_id} "
                f"began with, found another ({plan.name}); a plan is fixed by its release request"
            )
            raise BadRequestError(message)

    def _refuse_other(self, now: StateRecord, release_id: str, asked: str | None = None) -> None:
        if _another(now, release_id):
            asked = asked or f"release {release_id}"
            raise _RefusedError(lambda: self._occupied(now, asked))

    def _occupied(self, now: StateRecord, asked: str) -> BadRequestError:
        staged = self._find("slot_reserved", now.release_id or "")
        return BadRequestError(occupied_sentence(now, asked, staged))

    def _refuse_ended(self, release_id: str) -> None:
        ended = self._end_of(release_id)
        if ended is not None:
            raise ended

    def _end_of(self, release_id: str) -> BadRequestError | None:
        """Return the refusal of a release that was promoted or rolled back before."""
        for entry in self._newest_first():
            if entry.release_id == release_id and entry.kind in {"promoted", "rolled_back"}:
                message = (
                    f"{self.model}: release {release_id} has ended: {entry.kind} at sequence "
                    f"{entry.sequence} ({entry.why}); trigger a new release"
                )
                return BadRequestError(message)
        return None


def _another(now: StateRecord, release_id: str) -> bool:
    return now.release_id is not None and now.release_id != release_id
