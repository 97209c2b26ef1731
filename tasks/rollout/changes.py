"""What each operation makes of the state record: pure functions from record to record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

from tasks.contracts.errors import BadRequestError, NotYetError
from tasks.contracts.json_types import Json
from tasks.rollout.decide import Observation, next_status
from tasks.rollout.phases import Phase
from tasks.rollout.record import Colour, Lease, Roles, SlotContent, StateRecord


@dataclass(frozen=True, kw_only=True)
class Change:
    """A record about to be written; without a `kind` there is no ledger entry (a renewal)."""

    record: StateRecord
    kind: str | None = None
    why: str = ""
    about: SlotContent | None = None  # the release that the entry is about
    step: int | None = None
    details: Mapping[str, Json] = field(default_factory=dict)


def moved(now: StateRecord, seen: Observation) -> StateRecord:
    """Return the record with its next status; a refusal is a bad request, or not yet one."""
    transition = next_status(now.plan, now.status, _with_unready(now, seen))
    if transition.refused is not None:
        message = (
            f"{now.model}: {seen.asked} refused for release {now.release_id}: "
            f"{transition.refused} (phase {now.status.phase}, sequence {now.sequence})"
        )
        raise (NotYetError if transition.may_pass else BadRequestError)(message)
    return replace(now, status=transition.status)


def _with_unready(now: StateRecord, seen: Observation) -> Observation:
    """Return the observation with what the keeper saw of the slots: whoever asks must heed it."""
    return replace(
        seen,
        stable_ready=seen.stable_ready and now.roles.stable not in now.unready,
        candidate_ready=seen.candidate_ready and now.roles.candidate not in now.unready,
    )


def looked_at(now: StateRecord, unready: Iterable[Colour]) -> Change:
    """Return what follows from the slots that do not answer; an entry only where users move."""
    noted = replace(now, unready=tuple(sorted(set(unready) & set(now.slots))))
    seen = moved(noted, Observation())
    if seen.status == now.status:
        return Change(record=seen)
    kind = "halted" if seen.status.phase is Phase.HALTED else "paused"
    broken = "stable" if kind == "halted" else "the candidate"
    why = f"{broken}'s slot does not answer"
    return about_candidate(seen, kind=kind, why=why, details=paused_by(seen))


def leased(record: StateRecord, seconds: float, now_unix: float) -> StateRecord:
    """Return the record with a new lease."""
    lease = Lease(
        seconds=seconds, renewals=record.lease.renewals + 1, expires_at=now_unix + seconds
    )
    return replace(record, lease=lease)


def lapsed(record: StateRecord) -> Change:
    """Return the pause of a rollout whose lease was not renewed."""
    why = f"the lease of {record.lease.seconds:g} s was not renewed"
    ended = replace(record, lease=replace(record.lease, expires_at=0.0))
    return about_candidate(ended, kind="paused", why=why, details=paused_by(ended))


def paused_by(record: StateRecord) -> dict[str, Json]:
    """Return who or what paused, for the ledger."""
    by = record.status.paused_by
    return {} if by is None else {"paused_by": by.value}


def reserved(staged: StateRecord, content: SlotContent) -> Change:
    """Put a release into a free colour; the previous one gives way if it must."""
    colour = staged.roles.free_colour()
    previous = None if colour == staged.roles.previous else staged.roles.previous
    record = replace(
        staged,
        roles=replace(staged.roles, candidate=colour, previous=previous),
        slots={**staged.slots, colour: content},
        unready=tuple(one for one in staged.unready if one != colour),
        release_id=content.release_id,
        plan=None,
        next_release_number=content.release_number + 1,
    )
    details: dict[str, Json] = {
        "colour": colour.value,
        "bundle": content.bundle,
        "events": content.events,
    }
    return Change(record=record, kind="slot_reserved", about=content, details=details)


def step_began(record: StateRecord, per_try_timeout_ms: float, now_unix: float) -> Change:
    """Note how a step began: salt, time limit of one try, and at the first step the plan."""
    details: dict[str, Json] = {"salt": record.salt, "per_try_timeout_ms": per_try_timeout_ms}
    if record.status.step == 1 and record.plan is not None:
        details["plan"] = asdict(record.plan)
    timed = replace(record, per_try_timeout_ms=per_try_timeout_ms, step_began_at=now_unix)
    return about_candidate(timed, kind="step_began", details=details)


def promoted(served: StateRecord) -> Change:
    """Move the roles: candidate becomes stable, stable becomes previous."""
    content = served.candidate
    first = served.roles.stable is None
    roles = Roles(stable=served.roles.candidate, previous=served.roles.stable)
    status = replace(served.status, has_stable=True)
    record = _without_rollout(replace(served, roles=roles, status=status))
    why = "the first release has no champion to be compared with" if first else ""
    return Change(record=record, kind="promoted", about=content, why=why, details=_served(record))


def hotfix_reserved(now: StateRecord, content: SlotContent) -> Change:
    """Put a hotfix of stable into the third slot; the previous release gives way if it must."""
    colour = now.roles.third_colour()
    previous = None if colour == now.roles.previous else now.roles.previous
    record = replace(
        now,
        roles=replace(now.roles, hotfix=colour, previous=previous),
        slots={**now.slots, colour: content},
        unready=tuple(one for one in now.unready if one != colour),
        next_release_number=content.release_number + 1,
    )
    details: dict[str, Json] = {
        "colour": colour.value,
        "bundle": content.bundle,
        "events": content.events,
    }
    return replace(_beside(record, "hotfix_reserved", content), details=details)


def hotfixed(now: StateRecord) -> Change:
    """Move the roles: the hotfix becomes stable, stable previous; the candidate stays as it is."""
    before = now.stable
    roles = replace(now.roles, stable=now.roles.hotfix, previous=now.roles.stable, hotfix=None)
    record = replace(now, roles=roles)
    details: dict[str, Json] = {
        **_served(record),
        "instead_of": None if before is None else before.release_number,
        "rollout": now.rollout,
    }
    return replace(_beside(record, "hotfixed", now.hotfix), details=details)


def hotfix_abandoned(now: StateRecord) -> Change:
    """Free the slot of a hotfix that was not applied."""
    content = now.hotfix
    slots = {colour: held for colour, held in now.slots.items() if colour != now.roles.hotfix}
    unready = tuple(colour for colour in now.unready if colour != now.roles.hotfix)
    roles = replace(now.roles, hotfix=None)
    record = replace(now, roles=roles, slots=slots, unready=unready)
    return _beside(record, "hotfix_abandoned", content)


def _beside(record: StateRecord, kind: str, content: SlotContent | None) -> Change:
    """Return a change about a hotfix in the step that goes on beside it."""
    return Change(record=record, kind=kind, about=content, step=record.status.step)


def abandoned(ended: StateRecord) -> Change:
    """Free the candidate's slot."""
    content = ended.candidate
    roles = replace(ended.roles, candidate=None, hotfix=None)
    record = _without_rollout(replace(ended, roles=roles))
    return Change(record=record, kind="rolled_back", about=content, details=_served(record))


def returned(now: StateRecord) -> Change:
    """Make the previous release stable again."""
    content = now.stable
    if now.roles.previous is None:
        message = (
            f"{now.model}: expected a previous release still loaded, found none; "
            "release its bundle again (`headrace history` names it)"
        )
        raise BadRequestError(message)
    if now.roles.previous in now.unready and now.roles.stable not in now.unready:
        message = (
            f"{now.model}: expected the previous release's slot to answer, found it silent; see "
            "its log, or release its bundle again: until then users stay with what answers"
        )
        raise BadRequestError(message)
    record = _without_rollout(replace(now, roles=Roles(stable=now.roles.previous)))
    return Change(record=record, kind="rolled_back", about=content, details=_served(record))


def _without_rollout(record: StateRecord) -> StateRecord:
    kept = {record.roles.stable, record.roles.previous}
    slots = {colour: content for colour, content in record.slots.items() if colour in kept}
    lease = Lease(renewals=record.lease.renewals)
    return replace(
        record,
        slots=slots,
        release_id=None,
        plan=None,
        lease=lease,
        unready=tuple(colour for colour in record.unready if colour in kept),
        per_try_timeout_ms=0.0,
        step_began_at=0.0,
    )


def _served(record: StateRecord) -> dict[str, Json]:
    """Return the roles after a move, for the ledger."""
    return {
        role: None if colour is None else _slot_line(colour, record.slots[colour])
        for role, colour in (("stable", record.roles.stable), ("previous", record.roles.previous))
    }


def _slot_line(colour: Colour, content: SlotContent) -> dict[str, Json]:
    return {
        "colour": colour.value,
        "release_number": content.release_number,
        "release_id": content.release_id,
        "bundle": content.bundle,
    }


def about_candidate(
    record: StateRecord, kind: str, *, why: str = "", details: Mapping[str, Json] | None = None
) -> Change:
    """Return a change whose entry is about the candidate and the step in progress."""
    return Change(
        record=record,
        kind=kind,
        why=why,
        about=record.candidate,
        step=record.status.step,
        details=details or {},
    )
