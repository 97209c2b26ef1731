"""What a second release of a model is told: who is in progress, since when, what to do now."""

from __future__ import annotations

from tasks.rollout.ledger import LedgerEntry
from tasks.rollout.record import StateRecord


def occupied_sentence(now: StateRecord, asked: str, staged: LedgerEntry | None) -> str:
    """Return why `asked` is refused; `staged` is the entry that gave the other its slot."""
    return (
        f"{now.model}: {asked} is refused, one release of a model at a time: release "
        f"{now.release_id} is in progress ({_whereabouts(now)}){_since(staged)}; wait until it is "
        f"promoted or rolled back (`headrace status` shows it), or end it with `headrace rollback "
        f"--model {now.model} --reason WHY`"
    )


def _whereabouts(now: StateRecord) -> str:
    number = "" if now.candidate is None else f"number {now.candidate.release_number}, "
    phase = f"phase {now.status.phase.value}"
    if not now.status.step:
        return f"{number}{phase}"
    return f"{number}{phase}, step {now.status.step}, {now.status.share / 100:g} % of users"


def _since(staged: LedgerEntry | None) -> str:
    return "" if staged is None else f", staged by {staged.who} at {staged.at}"
