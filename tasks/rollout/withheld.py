"""What a keeper decided and the record does not hold yet: until then it keeps the candidate out.

A lapse, a cut or a pause reaches the routes first and the record afterwards; where it cannot be
written, since the API or the disk is away, it is tried again, by the keeper's next life too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from tasks.contracts.json_types import Json
from tasks.rollout.phases import Phase
from tasks.rollout.record import StateRecord


class WithheldKind(StrEnum):
    """What was decided of a step."""

    LAPSE = "lapse"  # undone by the next renewal, and over with the step
    CUT = "cut"  # of the candidate: undone by nothing, whatever step has begun since
    PAUSE = "pause"  # of a candidate that cannot be judged; undone as a lapse is


@dataclass(frozen=True, kw_only=True)
class Withheld:
    """One decision: about which candidate, and what the ledger is to say of it."""

    kind: WithheldKind
    release_id: str
    step: int
    renewals: int  # of the lease, when it was decided
    why: str = ""
    numbers: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Withheld:
        """Read `as_json`'s; LookupError, TypeError or ValueError where it is something else."""
        return cls(
            kind=WithheldKind(raw["kind"]),
            release_id=str(raw["release_id"]),
            step=int(raw["step"]),
            renewals=int(raw["renewals"]),
            why=str(raw["why"]),
            numbers=dict(raw["numbers"]),
        )

    def as_json(self) -> dict[str, Json]:
        """Return it as `last_routed.json` keeps it."""
        return asdict(self) | {"kind": self.kind.value, "numbers": dict(self.numbers)}

    def is_about(self, record: StateRecord) -> bool:
        """Return whether a record still lacks the decision."""
        status = record.status
        if record.release_id != self.release_id:  # one that has ended is never staged again
            return False
        same_lease = (status.step, record.lease.renewals) == (self.step, self.renewals)
        if self.kind is not WithheldKind.CUT and not same_lease:
            return False
        if self.kind is WithheldKind.LAPSE:
            return status.phase is Phase.STEPPING
        # Another router may have paused the step since, and nothing resumes one that is to be cut.
        return status.phase in {Phase.STEPPING, Phase.PAUSED}


@dataclass(kw_only=True)
class WithheldShares:
    """Decisions that wait to be written, one a model at most."""

    _waiting: dict[str, Withheld] = field(default_factory=dict)

    def lapsed(self, record: StateRecord) -> None:
        """Withhold the share until a lapse is written or the lease is renewed."""
        known = self._waiting.get(record.model)
        if known is None or not known.is_about(record):
            self._decide(record, WithheldKind.LAPSE)

    def cut(self, record: StateRecord, why: str, numbers: Mapping[str, Json]) -> None:
        """Withhold the share until a cut is written or the release is no longer in progress."""
        self._for_good(record, WithheldKind.CUT, why, numbers)

    def paused(self, record: StateRecord, why: str) -> None:
        """Withhold the share until the pause of a candidate that cannot be judged is written."""
        self._for_good(record, WithheldKind.PAUSE, why, {})

    def restored(self, model: str, withheld: Withheld) -> None:
        """Go on with what this keeper's last life had not written."""
        self._waiting.setdefault(model, withheld)

    def routed(self, record: StateRecord) -> StateRecord:
        """Return the record as it is to be routed: itself where nothing is withheld."""
        known = self._waiting.get(record.model)
        if known is None:
            return record
        if not known.is_about(record):
            del self._waiting[record.model]
            return record
        step = record.status.step
        if step is not None and step != known.step:
            self._waiting[record.model] = replace(known, step=step)
        return without_share(record)

    def waiting(self) -> dict[str, Withheld]:
        """Return what is to be written, by model."""
        return dict(self._waiting)

    def written(self, model: str, withheld: Withheld, _phase: object = None) -> None:
        """Say that the record has it; what was decided since then goes on waiting."""
        if self._waiting.get(model) is withheld:
            del self._waiting[model]

    def _for_good(
        self, record: StateRecord, kind: WithheldKind, why: str, numbers: Mapping[str, Json]
    ) -> None:
        known = self._waiting.get(record.model)
        lapses = known is not None and known.kind is WithheldKind.LAPSE
        if known is None or lapses or not known.is_about(record):
            self._decide(record, kind, why, numbers)

    def _decide(
        self,
        record: StateRecord,
        kind: WithheldKind,
        why: str = "",
        numbers: Mapping[str, Json] | None = None,
    ) -> None:
        release_id, step = record.release_id, record.status.step
        if release_id is not None and step is not None:
            self._waiting[record.model] = Withheld(
                kind=kind,
                release_id=release_id,
                step=step,
                renewals=record.lease.renewals,
                why=why,
                numbers=numbers or {},
            )


def without_share(record: StateRecord) -> StateRecord:
    """Return the record as if the step were paused: nobody meets the candidate, nothing counts."""
    return replace(record, status=replace(record.status, phase=Phase.PAUSED, share=0))
