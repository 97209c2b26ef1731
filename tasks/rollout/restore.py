"""A state record from its ledger, for a record that is lost: the entries say all but the lease."""

from __future__ import annotations

from dataclasses import replace

from tasks.contracts.errors import BadRequestError, bounded
from tasks.rollout.changes import Change
from tasks.rollout.ledger import LedgerEntry, LedgerStore, entry_path, read_ledger, verify_chain
from tasks.rollout.phases import Pause
from tasks.rollout.record import StateRecord
from tasks.rollout.retrace import retrace
from tasks.rollout.state import ModelState


def record_from_ledger(store: LedgerStore, model: str) -> StateRecord:
    """Return the record that a model's whole ledger leads to; a ledger that is not whole is refused.

    A step in progress comes without a lease, so that the keeper pauses it before anybody meets the
    candidate. What an entry leaves open (who paused) is read as a person's doing: only a person
    ends that. The newest entry is trusted, as no record says which is the last.
    """
    objects = read_ledger(store, model)
    if not objects:
        message = f"ledger/{model}: expected entries in the store, found none; is it the right one?"
        raise BadRequestError(message)
    entries = [
        LedgerEntry.parse(data, entry_path(model, number))
        for number, data in sorted(objects.items())
    ]
    last = entries[-1]
    problems = verify_chain(model, objects, last.sequence, last.digest)
    retraced = retrace(model, entries) if not problems else None
    problems += retraced.problems if retraced is not None else []
    if retraced is None or problems:
        message = (
            f"ledger/{model}: expected a whole ledger to restore the record from, found "
            f"{len(problems)} problems, first {problems[0]}; restore that object from a copy"
        )
        raise BadRequestError(bounded(message, 600))
    found = max(retraced.records, key=lambda one: one.status.paused_by is Pause.PERSON)
    return replace(
        found,
        sequence=last.sequence,
        head=last.digest,
        in_ledger=last.sequence,
        entries=(last,),
    )


def restore(state: ModelState, record: StateRecord) -> None:
    """Write the record where there is none; one that is there is refused, never written over."""

    def change(now: StateRecord) -> Change:
        if now.sequence:
            message = (
                f"{state.model}: expected no state record, found one that ends at sequence "
                f"{now.sequence}; `headrace verify --model {state.model}` says whether it is whole"
            )
            raise BadRequestError(message)
        return Change(record=record)

    state.commit(change, None)
