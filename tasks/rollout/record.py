"""The state record of one model (`rollout_state/4`): everything that decides who serves whom."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, cast

from tasks.contracts.errors import BadRequestError
from tasks.contracts.facts import FIRST_WITH_DIGEST, self_digest_problems, with_digest
from tasks.contracts.json_types import Json, check_format, parse_object, pretty_json
from tasks.contracts.requests import TrafficPlan, plan_from_record
from tasks.rollout.decide import RolloutStatus
from tasks.rollout.ledger import FIRST_PREVIOUS, LedgerEntry
from tasks.rollout.phases import Decision, Pause, Phase

NEWEST = 4


class Colour(StrEnum):
    """The three slots of a model; a role points to a colour."""

    BLUE = "blue"
    GREEN = "green"
    VIOLET = "violet"


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which colour serves as what; None where the role is vacant."""

    stable: Colour | None = None
    candidate: Colour | None = None
    previous: Colour | None = None
    hotfix: Colour | None = None  # loaded beside an experiment, to become stable

    def third_colour(self) -> Colour:
        """Return the colour that neither stable nor candidate has; the previous release gives way."""
        return next(colour for colour in Colour if colour not in {self.stable, self.candidate})

    def free_colour(self) -> Colour:
        """Return a colour without a role; the previous release gives way last."""
        taken = {self.stable, self.candidate, self.previous}
        for colour in Colour:
            if colour not in taken:
                return colour
        if self.previous is None:  # pragma: no cover - three colours, at most three roles
            message = "roles: expected a free colour, found none"
            raise BadRequestError(message)
        return self.previous


@dataclass(frozen=True, kw_only=True)
class SlotContent:
    """Which release a slot holds; its number is the version that the server shows."""

    release_id: str
    release_number: int
    bundle: str | None = None  # address of the serving bundle
    events: str | None = None  # address of the validated events


@dataclass(frozen=True, kw_only=True)
class Lease:
    """How long a share lives unless renewed; `renewals` changes with each renewal."""

    seconds: float = 0.0
    renewals: int = 0
    expires_at: float = 0.0  # unix time: only for Envoy and for a keeper that just started


@dataclass(frozen=True, kw_only=True)
class StateRecord:
    """The state of one model's rollout; `entries` ends with the ledger's newest entry.

    Entries after `in_ledger` may be here only: the record decides, and its ledger objects follow.
    """

    model: str
    sequence: int = 0
    head: str = FIRST_PREVIOUS
    in_ledger: int = 0  # the last entry whose ledger object is known to be written
    entries: tuple[LedgerEntry, ...] = ()
    status: RolloutStatus = field(
        default_factory=lambda: RolloutStatus(phase=Phase.EMPTY, has_stable=False)
    )
    roles: Roles = field(default_factory=Roles)
    slots: Mapping[Colour, SlotContent] = field(default_factory=dict)
    release_id: str | None = None  # the release in progress
    plan: TrafficPlan | None = None
    next_release_number: int = 1
    per_try_timeout_ms: float = 0.0
    step_began_at: float = 0.0  # unix time: how long a step has baked
    lease: Lease = field(default_factory=Lease)
    unready: tuple[Colour, ...] = ()  # slots that did not answer the keeper, as it last saw

    @property
    def unwritten(self) -> tuple[LedgerEntry, ...]:
        """Return the entries whose ledger objects may not be there yet, oldest first."""
        return tuple(entry for entry in self.entries if entry.sequence > self.in_ledger)

    @property
    def candidate(self) -> SlotContent | None:
        """Return what the candidate's slot holds."""
        return None if self.roles.candidate is None else self.slots.get(self.roles.candidate)

    @property
    def stable(self) -> SlotContent | None:
        """Return what the stable slot holds."""
        return None if self.roles.stable is None else self.slots.get(self.roles.stable)

    @property
    def hotfix(self) -> SlotContent | None:
        """Return what the hotfix's slot holds."""
        return None if self.roles.hotfix is None else self.slots.get(self.roles.hotfix)

    @property
    def rollout(self) -> str | None:
        """Return the name of the rollout in progress, such as `r7`."""
        return None if self.candidate is None else f"r{self.candidate.release_number}"

    @property
    def salt(self) -> str | None:
        """Return the salt of the rollout in progress: drawn anew by each release."""
        if self.candidate is None:
            return None
        text = f"{self.model}\0{self.candidate.release_id}\0{self.candidate.release_number}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def slot_of(self, release_id: str) -> Colour | None:
        """Return the colour that holds a release."""
        for colour, content in self.slots.items():
            if content.release_id == release_id:
                return colour
        return None

    def to_text(self) -> str:
        """Return `state.json` as text."""
        status = {
            "phase": self.status.phase.value,
            "step": self.status.step,
            "share": self.status.share,
            "verdicts": {str(step): said.value for step, said in self.status.verdicts.items()},
            "paused_by": self.status.paused_by,
        }
        entries = [{"format": "ledger_entry/1", **asdict(entry)} for entry in self.entries]
        plan = None if self.plan is None else asdict(self.plan)
        record = asdict(replace(self, plan=None, entries=()))
        del record["status"]
        slots = {colour.value: asdict(content) for colour, content in self.slots.items()}
        derived = {"salt": self.salt, "rollout": self.rollout}
        return pretty_json(
            with_digest(
                {"format": f"rollout_state/{NEWEST}"}
                | record
                | {"entries": entries, "status": status, "plan": plan, "slots": slots}
                | derived
            )
        )

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> StateRecord:
        """Read a state record; errors name `where`."""
        record = parse_object(text, where)
        number = check_format(record, "rollout_state", NEWEST, where)
        try:
            return _from_record(cast("dict[str, Any]", record), where)
        except (KeyError, TypeError, ValueError) as error:
            message = f"{where}: expected a complete rollout_state/{number}, found: {error!r}"
            raise BadRequestError(message) from error


def record_problems(text: bytes, where: str) -> list[str]:
    """Return why a state record is not as it was written; one of format 1 keeps no digest."""
    try:
        record = parse_object(text, where)
        number = check_format(record, "rollout_state", NEWEST, where)
        StateRecord.parse(text, where)
    except BadRequestError as error:
        return [str(error)]
    return self_digest_problems(record, text, where, demanded=number >= FIRST_WITH_DIGEST)


def _from_record(raw: dict[str, Any], where: str) -> StateRecord:
    roles = Roles(**{role: colour and Colour(colour) for role, colour in raw["roles"].items()})
    slots = {Colour(colour): SlotContent(**content) for colour, content in raw["slots"].items()}
    entries: list[Mapping[str, Json]] = raw["entries"]
    return StateRecord(
        model=raw["model"],
        sequence=raw["sequence"],
        head=raw["head"],
        in_ledger=raw.get("in_ledger", 0),  # since format 3
        entries=tuple(LedgerEntry.from_record(entry, where) for entry in entries),
        status=_status(raw["status"], has_stable=roles.stable is not None),
        roles=roles,
        slots=slots,
        release_id=raw["release_id"],
        plan=None if raw["plan"] is None else plan_from_record(raw["plan"], where),
        next_release_number=raw["next_release_number"],
        per_try_timeout_ms=raw["per_try_timeout_ms"],
        step_began_at=raw["step_began_at"],
        lease=Lease(**raw["lease"]),
        unready=tuple(Colour(colour) for colour in raw.get("unready", ())),
    )


def _status(raw: dict[str, Any], *, has_stable: bool) -> RolloutStatus:
    status = RolloutStatus(
        phase=Phase(raw["phase"]),
        has_stable=has_stable,
        step=raw["step"],
        share=raw["share"],
        verdicts={int(step): Decision(said) for step, said in raw["verdicts"].items()},
    )
    return replace(status, paused_by=_paused_by(raw, status))


def _paused_by(raw: Mapping[str, Any], status: RolloutStatus) -> Pause | None:
    if "paused_by" in raw:  # since format 4
        return None if raw["paused_by"] is None else Pause(raw["paused_by"])
    if status.phase is not Phase.PAUSED:
        return None
    if raw["paused_by_lease"]:
        return Pause.LEASE
    return Pause.VERDICT if status.refused else Pause.PERSON
