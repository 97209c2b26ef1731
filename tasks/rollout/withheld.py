"""What a keeper decided and the record does not hold yet: until then it keeps the candidate out.

A lapse or a cut reaches the routes first and the record afterwards; where it cannot be written,
since the API or the disk is away, it is tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tasks.rollout.phases import Phase
from tasks.rollout.record import StateRecord


@dataclass(frozen=True, kw_only=True)
class Withheld:
    """One decision about a step; a lapse is undone by the next renewal, a cut by nothing."""

    release_id: str | None
    step: int | None
    renewals: int | None
    write: Callable[[], object]

    def is_about(self, record: StateRecord) -> bool:
        """Return whether a record still lacks the decision."""
        same = (record.release_id, record.status.step) == (self.release_id, self.step)
        renewed = self.renewals not in {None, record.lease.renewals}
        # Another router may have paused the step since, and nothing resumes one that is to be cut.
        phases = {Phase.STEPPING, Phase.PAUSED} if self.renewals is None else {Phase.STEPPING}
        return same and not renewed and record.status.phase in phases


@dataclass(kw_only=True)
class WithheldShares:
    """Decisions that wait to be written, one a model at most."""

    _waiting: dict[str, Withheld] = field(default_factory=dict)

    def lapsed(self, record: StateRecord, write: Callable[[], object]) -> None:
        """Withhold the share until a lapse is written or the lease is renewed."""
        known = self._waiting.get(record.model)
        if known is None or not known.is_about(record):
            self._waiting[record.model] = _decided(record, record.lease.renewals, write)

    def cut(self, record: StateRecord, write: Callable[[], object]) -> None:
        """Withhold the share until a cut is written or the step is over."""
        known = self._waiting.get(record.model)
        if known is None or known.renewals is not None or not known.is_about(record):
            self._waiting[record.model] = _decided(record, None, write)

    def routed(self, record: StateRecord) -> StateRecord:
        """Return the record as it is to be routed: itself where nothing is withheld."""
        known = self._waiting.get(record.model)
        if known is None:
            return record
        if not known.is_about(record):
            del self._waiting[record.model]
            return record
        return without_share(record)

    def unwritten(self) -> list[tuple[str, Withheld]]:
        """Return what is to be written, with the model that it is about."""
        return list(self._waiting.items())

    def written(self, model: str, withheld: Withheld, _phase: object = None) -> None:
        """Say that the record has it; what was decided since then goes on waiting."""
        if self._waiting.get(model) is withheld:
            del self._waiting[model]


def _decided(record: StateRecord, renewals: int | None, write: Callable[[], object]) -> Withheld:
    return Withheld(
        release_id=record.release_id, step=record.status.step, renewals=renewals, write=write
    )


def without_share(record: StateRecord) -> StateRecord:
    """Return the record as if the step were paused: nobody meets the candidate, nothing counts."""
    return replace(record, status=replace(record.status, phase=Phase.PAUSED, share=0))
