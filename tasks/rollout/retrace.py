"""Retrace a ledger: the records its entries lead to, by the same pure functions that wrote them.

An entry that those functions would not have written is named. What the ledger does not hold (the
lease, and when a step began by the clock) is left out of comparisons with the state record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from tasks.contracts.errors import BadRequestError, bounded
from tasks.contracts.requests import TrafficPlan, plan_from_record
from tasks.rollout import changes
from tasks.rollout.changes import Change, moved
from tasks.rollout.decide import Observation
from tasks.rollout.ledger import LedgerEntry, entry_path
from tasks.rollout.phases import Ask, Decision
from tasks.rollout.record import Lease, SlotContent, StateRecord

COMPARED = (
    "status",
    "roles",
    "slots",
    "release_id",
    "plan",
    "next_release_number",
    "per_try_timeout_ms",
)


@dataclass(frozen=True, kw_only=True)
class Retraced:
    """Where the entries lead; more than one record only while a pause may have two reasons."""

    records: tuple[StateRecord, ...]
    problems: list[str] = field(default_factory=list)

    @property
    def record(self) -> StateRecord:
        """Return the record that follows."""
        return self.records[-1]


def retrace(model: str, entries: Iterable[LedgerEntry]) -> Retraced:
    """Follow the entries from an empty record; stops at the first that does not follow."""
    records: tuple[StateRecord, ...] = (StateRecord(model=model),)
    for entry in entries:
        where = entry_path(model, entry.sequence)
        found: list[StateRecord] = []
        reasons: list[str] = []
        for record in records:
            for way in _WAYS.get(entry.kind, (_unknown,)):
                try:
                    found.append(_checked(way(record, entry), entry))
                except (
                    BadRequestError,
                    LookupError,
                    TypeError,
                    ValueError,
                    AttributeError,
                ) as error:
                    reasons.append(str(error) or repr(error))
        if not found:
            reason = bounded(reasons[0], 400)
            problem = f"{where}: {entry.kind} does not follow from the entries before: {reason}"
            return Retraced(records=records, problems=[problem])
        records = tuple(record for place, record in enumerate(found) if record not in found[:place])
    return Retraced(records=records)


def state_problems(record: StateRecord, retraced: Retraced, where: str) -> list[str]:
    """Return which fields of a state record differ from what its ledger leads to."""
    if retraced.problems:
        return []  # what follows after such an entry, nobody can say
    differing = [list(_differences(record, one)) for one in retraced.records]
    fewest = min(differing, key=len)
    return [f"{where}: {words}" for words in fewest]


def _differences(record: StateRecord, expected: StateRecord) -> Iterator[str]:
    for name in COMPARED:
        found, wanted = getattr(record, name), getattr(expected, name)
        if name == "slots":
            found, wanted = _known_alike(found, wanted)
        if found != wanted:
            yield bounded(f"field {name}: expected {wanted} from the ledger, found {found}", 600)


def _known_alike(found: Mapping[Any, SlotContent], wanted: Mapping[Any, SlotContent]) -> Any:
    """Return both without the events of slots whose ledger entry is too old to hold them."""
    blind = {colour for colour, content in wanted.items() if content.events is None}
    strip = [
        {c: replace(s, events=None) if c in blind else s for c, s in slots.items()}
        for slots in (found, wanted)
    ]
    return strip[0], strip[1]


def _checked(change: Change, entry: LedgerEntry) -> StateRecord:
    """Return the record of a change that says what the entry says."""
    record = change.record
    about = change.about
    expected = {
        "share": record.status.share,
        "step": change.step,
        "release_id": None if about is None else about.release_id,
        "release_number": None if about is None else about.release_number,
    }
    for name, value in expected.items():
        if getattr(entry, name) != value:
            message = f"field {name}: expected {value!r}, found {getattr(entry, name)!r}"
            raise BadRequestError(message)
    known = json.loads(json.dumps(dict(change.details)))
    for name, value in known.items():
        if name in entry.details and entry.details[name] != value:
            message = f"field details.{name}: expected {value!r}, found {entry.details[name]!r}"
            raise BadRequestError(bounded(message, 400))
    return replace(record, lease=Lease(), step_began_at=0.0)


Way = Callable[[StateRecord, LedgerEntry], Change]


def _unknown(_now: StateRecord, entry: LedgerEntry) -> Change:
    message = f"expected a kind of {sorted(_WAYS)}, found {entry.kind!r}"
    raise BadRequestError(message)


def _slot_reserved(now: StateRecord, entry: LedgerEntry) -> Change:
    content = SlotContent(
        release_id=str(entry.release_id),
        release_number=now.next_release_number,
        bundle=cast("str | None", entry.details.get("bundle")),
        events=cast("str | None", entry.details.get("events")),
    )
    return changes.reserved(moved(now, Observation(asked=Ask.STAGE)), content)


def _hotfix_reserved(now: StateRecord, entry: LedgerEntry) -> Change:
    content = SlotContent(
        release_id=str(entry.release_id),
        release_number=now.next_release_number,
        bundle=cast("str | None", entry.details.get("bundle")),
        events=cast("str | None", entry.details.get("events")),
    )
    return changes.hotfix_reserved(moved(now, Observation(asked=Ask.HOTFIX)), content)


def _hotfixed(now: StateRecord, _entry: LedgerEntry) -> Change:
    return changes.hotfixed(moved(_with_hotfix(now), Observation(asked=Ask.HOTFIX)))


def _hotfix_abandoned(now: StateRecord, _entry: LedgerEntry) -> Change:
    return changes.hotfix_abandoned(_with_hotfix(now))


def _with_hotfix(now: StateRecord) -> StateRecord:
    if now.hotfix is None:
        message = "expected a hotfix in a slot, found none"
        raise BadRequestError(message)
    return now


def _step_began(now: StateRecord, entry: LedgerEntry) -> Change:
    plan = _plan(now, entry)
    began = moved(replace(now, plan=plan), Observation(asked=Ask.BEGIN_STEP, step=entry.step))
    timeout = float(cast("float", entry.details["per_try_timeout_ms"]))
    return changes.step_began(began, timeout, 0.0)


def _plan(now: StateRecord, entry: LedgerEntry) -> TrafficPlan | None:
    raw = entry.details.get("plan")
    if raw is None:
        return now.plan
    return plan_from_record(cast("dict[str, Any]", raw), f"ledger entry {entry.sequence}")


def _resumed(ask: Ask) -> Way:
    def way(now: StateRecord, entry: LedgerEntry) -> Change:
        resumed = moved(now, Observation(asked=ask, step=entry.step))
        if resumed.status == now.status:
            message = f"expected a paused step, found phase {now.status.phase}"
            raise BadRequestError(message)
        return changes.about_candidate(resumed, kind="resumed")

    return way


def _lapsed(now: StateRecord, _entry: LedgerEntry) -> Change:
    return changes.lapsed(moved(now, Observation(lease_lapsed=True)))


def _paused(now: StateRecord, _entry: LedgerEntry) -> Change:
    return _pause(moved(now, Observation(asked=Ask.PAUSE)))


def _pause(paused: StateRecord) -> Change:
    return changes.about_candidate(paused, kind="paused", details=changes.paused_by(paused))


def _broke(now: StateRecord, _entry: LedgerEntry) -> Change:
    return _pause(moved(now, Observation(candidate_ready=False)))


def _halted(now: StateRecord, _entry: LedgerEntry) -> Change:
    halted = moved(now, Observation(stable_ready=False))
    if halted.status == now.status:
        message = f"expected a step in progress, found phase {now.status.phase}"
        raise BadRequestError(message)
    return changes.about_candidate(halted, kind="halted")


def _cut(now: StateRecord, entry: LedgerEntry) -> Change:
    cut = moved(now, Observation(asked=Ask.CUT, step=entry.step))
    return changes.about_candidate(cut, kind="cut")


def _judged(now: StateRecord, entry: LedgerEntry) -> Change:
    decision = Decision(str(entry.details["decision"]))
    seen = Observation(asked=Ask.RECORD_VERDICT, step=entry.step, decision=decision)
    judged = moved(now, seen)
    if judged.status == now.status:
        message = f"expected a first verdict on step {entry.step}, found one before"
        raise BadRequestError(message)
    return changes.about_candidate(judged, kind="judged")


def _promoted(now: StateRecord, _entry: LedgerEntry) -> Change:
    return changes.promoted(moved(now, Observation(asked=Ask.PROMOTE)))


def _rolled_back(now: StateRecord, entry: LedgerEntry) -> Change:
    if now.release_id is not None and now.release_id == entry.release_id:
        return changes.abandoned(moved(now, Observation(asked=Ask.ROLL_BACK)))
    if now.stable is not None and now.stable.release_id == entry.release_id:
        return changes.returned(now)
    message = f"expected a release in progress or stable, found {entry.release_id!r}"
    raise BadRequestError(message)


_WAYS: Mapping[str, Sequence[Way]] = {
    "slot_reserved": (_slot_reserved,),
    "step_began": (_step_began,),
    "resumed": (_resumed(Ask.RENEW), _resumed(Ask.RESUME), _resumed(Ask.BEGIN_STEP)),
    "paused": (_lapsed, _paused, _broke),
    "halted": (_halted,),
    "cut": (_cut,),
    "judged": (_judged,),
    "hotfix_reserved": (_hotfix_reserved,),
    "hotfixed": (_hotfixed,),
    "hotfix_abandoned": (_hotfix_abandoned,),
    "promoted": (_promoted,),
    "rolled_back": (_rolled_back,),
}


def as_json(value: object) -> Any:
    """Return a dataclass as it looks in a JSON file."""
    return json.loads(json.dumps(asdict(cast("Any", value))))
