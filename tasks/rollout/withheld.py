"""What a keeper decided and the record does not hold yet: until then it keeps the candidate out.

A lapse or a cut that cannot be written now, since the API or the disk is away, is tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tasks.contracts.errors import StoreUnavailableError
from tasks.rollout.phases import Phase
from tasks.rollout.record import StateRecord

RETRY_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class _Pending:
    """One decision about a step; a lapse is undone by the next renewal, a cut by nothing."""

    release_id: str | None
    step: int | None
    renewals: int | None
    write: Callable[[], object]
    again_at: float = 0.0

    def is_about(self, record: StateRecord) -> bool:
        same = (record.release_id, record.status.step) == (self.release_id, self.step)
        renewed = self.renewals not in {None, record.lease.renewals}
        # Another router may have paused the step since, and nothing resumes one that is to be cut.
        phases = {Phase.STEPPING, Phase.PAUSED} if self.renewals is None else {Phase.STEPPING}
        return same and not renewed and record.status.phase in phases


@dataclass(kw_only=True)
class WithheldShares:
    """Decisions that wait to be written, one a model at most."""

    monotonic: Callable[[], float] = time.monotonic
    say: Callable[[str], None] = lambda _sentence: None
    _pending: dict[str, _Pending] = field(default_factory=dict)

    def lapsed(self, record: StateRecord, write: Callable[[], object]) -> None:
        """Write a lapse; where that fails it holds until the lease is renewed."""
        known = self._pending.get(record.model)
        if known is None or not known.is_about(record):  # else it is tried again in its time
            self._try(record.model, self._decided(record, record.lease.renewals, write))

    def cut(self, record: StateRecord, write: Callable[[], object]) -> None:
        """Write a cut; where that fails it holds until the step is over."""
        known = self._pending.get(record.model)
        if known is None or known.renewals is not None or not known.is_about(record):
            self._try(record.model, self._decided(record, None, write))

    def routed(self, record: StateRecord) -> StateRecord:
        """Return the record as it is to be routed."""
        pending = self._pending.get(record.model)
        if pending is None:
            return record
        if not pending.is_about(record):
            del self._pending[record.model]
            return record
        if self.monotonic() >= pending.again_at:
            self._try(record.model, pending)
        return without_share(record)

    def _decided(
        self, record: StateRecord, renewals: int | None, write: Callable[[], object]
    ) -> _Pending:
        return _Pending(
            release_id=record.release_id, step=record.status.step, renewals=renewals, write=write
        )

    def _try(self, model: str, pending: _Pending) -> None:
        try:
            pending.write()
        except (StoreUnavailableError, OSError) as error:
            again_at = self.monotonic() + RETRY_SECONDS
            self._pending[model] = replace(pending, again_at=again_at)
            self.say(f"{model}: users meet stable only; what the record lacks yet: {error}")
        else:
            self._pending.pop(model, None)


def without_share(record: StateRecord) -> StateRecord:
    """Return the record as if the step were paused: nobody meets the candidate, nothing counts."""
    return replace(record, status=replace(record.status, phase=Phase.PAUSED, share=0))
