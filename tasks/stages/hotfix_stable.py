"""By hand, a serving bundle -> hotfix: stable's release in an experiment; the candidate keeps its users."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tasks.adapters.artifact_store import ArtifactStore
from tasks.adapters.chain import SealedReport, reports_by_content, walk
from tasks.adapters.object_store import ObjectStore
from tasks.adapters.tf_serving import TfServingRest
from tasks.contracts.artifacts import Address, Manifest
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, pretty_json
from tasks.contracts.requests import MODEL_NAME
from tasks.contracts.stage_io import Outcome, StageContext
from tasks.contracts.stages import ArtifactKind
from tasks.rollout.hotfix import (
    abandon_hotfix,
    applied_hotfix,
    apply_hotfix,
    hotfix_name,
    reserve_hotfix,
)
from tasks.rollout.ledger import LedgerEntry
from tasks.rollout.record import Colour
from tasks.rollout.state import ModelState, Note, open_state
from tasks.serving.bundle_entries import BUNDLE_RECORD, BundleEntries
from tasks.serving.golden_answers import read_golden
from tasks.serving.slot_check import (
    LOAD_SECONDS,
    Staged,
    check_slot,
    slot_of_colour,
    slots_of,
    wait_until_loaded,
)
from tasks.serving.slot_folder import Slot, publish, remove_older, withdraw
from tasks.serving.version_states import VersionId

READS: Mapping[str, ArtifactKind] = MappingProxyType({"bundle": ArtifactKind.SERVING_BUNDLE})
GATED: frozenset[str] = frozenset()  # a person names the bundle: `passing_report` finds its report
PRODUCES = ArtifactKind.HOTFIX
MAX_WORDS = 500


def configure(context: StageContext) -> dict[str, Json]:
    """Return whose hotfix it is: one run of a person's."""
    note = _note(context)
    return {"model": _model(context), "who": note.who, "why": note.why}


def run(context: StageContext) -> Outcome:
    """Replace stable's release; what this run did before it was killed it does not do again."""
    model, note, bundle = _model(context), _note(context), context.inputs["bundle"]
    state = open_state(
        context.the_state_dir(), model, ObjectStore(context.store_url), records=context.records
    )
    store = ArtifactStore(ObjectStore(context.store_url), cache=context.work / "cache")
    asked = Asked(bundle=bundle.manifest, folder=bundle.path, note=note)
    report = passing_report(store, asked.bundle)
    entry = entry_of_this_run(state, asked) or hotfix(
        state,
        asked,
        events=events_of(store, asked.bundle),
        entries_of=lambda address: entries_of(store, address),
        slots=lambda: slots_of(context.the_state_dir(), model, context.slot_host),
        say=lambda sentence: context.progress(sentence, None),
    )
    record: dict[str, Json] = {
        "format": "hotfix/1",
        "model": model,
        "release_id": entry.release_id,
        "release_number": entry.release_number,
        "instead_of": entry.details["instead_of"],
        "bundle": str(asked.bundle.address),
        "gate_report": str(report.address),
        "who": entry.who,  # this run, unless somebody was before it with the same bundle
        "why": entry.why,
        "step": entry.step,
        "hotfixed_at": entry.at,
        "sequence": entry.sequence,
    }
    (context.out / "hotfix.json").write_text(pretty_json(record), encoding="utf-8")
    return Outcome(sentence=sentence_of(state, entry))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be stable, and who wants it why."""

    bundle: Manifest
    folder: Path  # its payload
    note: Note


def hotfix(
    state: ModelState,
    asked: Asked,
    *,
    events: str | None,
    entries_of: Callable[[str], BundleEntries | None],
    slots: Callable[[], Mapping[str, Slot]],
    say: Callable[[str], None],
) -> LedgerEntry:
    """Load a bundle that fits into the third slot, ask it every golden request, then move the roles.

    Whatever fails before leaves stable as it was. Its own content names it: asked for again, also
    by somebody else at the same time, it goes on where it was.
    """
    release_id, bundle = hotfix_name(state, asked.bundle.content), str(asked.bundle.address)
    applied = applied_hotfix(state, release_id)
    if applied is not None:  # its slot is stable's: nothing is loaded into it or taken out of it
        return applied
    say(demand_fit(state, asked, entries_of))
    found = slots()
    reservation = reserve_hotfix(state, release_id, bundle=bundle, events=events, note=asked.note)
    slot, number = slot_of_colour(found, reservation.colour), reservation.release_number
    staged = Staged(slot=slot, version=VersionId(name=state.model, version=number))
    try:
        say(f"{state.model}: loading the hotfix into the {reservation.colour} slot")
        publish(asked.folder / "model", slot.directory, number)
        wait_until_loaded(staged, LOAD_SECONDS)
        _demand_right_answers(staged, asked.folder)
        remove_older(slot.directory, number)
        return apply_hotfix(state, release_id, number, note=asked.note)
    except Exception:
        abandon_hotfix(state, release_id, number, note=asked.note)
        # Also where a person abandoned it before it was published: what no record names would stay loaded.
        if not _holds(state, reservation.colour, number):
            withdraw(slot.directory, number)
        raise


def abandon(state: ModelState, note: Note, slots: Mapping[str, Slot]) -> str:
    """Free the slot of a hotfix that was begun and is not wanted; who still loads it is refused."""
    record = state.peek()
    begun, colour = record.hotfix, record.roles.hotfix
    if begun is None or colour is None:
        message = f"{state.model}: expected a hotfix in progress, found none"
        raise BadRequestError(message)
    if not abandon_hotfix(state, begun.release_id, begun.release_number, note=note):
        return f"{state.model}: {begun.release_id} ended meanwhile; `headrace history` says how"
    withdraw(slot_of_colour(slots, colour).directory, begun.release_number)
    return f"{state.model}: {begun.release_id} is abandoned; stable stays as it was"


def passing_report(store: ArtifactStore, bundle: Manifest) -> SealedReport:
    """Return a passing gate report on exactly these bytes; a bundle without one is refused."""
    reports, _ = reports_by_content(store)
    about = sorted(reports.get(bundle.content, []), key=lambda one: one.address.key)
    for one in about:
        if one.report.passed:
            return one
    found = "only refusals" if about else "none"
    message = (
        f"{bundle.address}: expected a passing gate report on it, found {found}; make it by a "
        "release (of another model name while this one is in an experiment)"
    )
    raise BadRequestError(message)


def demand_fit(
    state: ModelState, asked: Asked, entries_of: Callable[[str], BundleEntries | None]
) -> str:
    """Refuse a bundle that lacks what clients ask of stable's, and a replay too; say what was compared."""
    stable = state.peek().stable
    before = None if stable is None else stable.bundle
    served = None if before is None else entries_of(before)
    if served is None:
        reason = (
            "the record names none" if before is None else f"{before} is not in the store any more"
        )
        return f"{state.model}: entries are not compared with those of stable's bundle: {reason}"
    where = f"{asked.bundle.address}/{BUNDLE_RECORD}"
    found = BundleEntries.parse((asked.folder / BUNDLE_RECORD).read_bytes(), where)
    way_on = f"stable stays as it was: take a bundle with these entries, as of a release of {state.model}"
    found.demand_all_of(served, where=where, stable=str(before), way_on=way_on)
    return f"{state.model}: the bundle has every entry of stable's"


def entries_of(store: ArtifactStore, bundle: str) -> BundleEntries | None:
    """Return what a sealed bundle answers; None where it was collected while its slot serves."""
    text = store.read_payload(Address.parse(bundle), BUNDLE_RECORD)
    return None if text is None else BundleEntries.parse(text, f"{bundle}/{BUNDLE_RECORD}")


def events_of(store: ArtifactStore, bundle: Manifest) -> str | None:
    """Return the events that a bundle was made from."""
    found = walk(store, [bundle.address]).found
    events = [str(one) for one in found if one.kind is ArtifactKind.VALIDATED_EVENTS]
    return events[0] if events else None


def sentence_of(state: ModelState, entry: LedgerEntry) -> str:
    """Say what serves now."""
    record = state.peek()
    text = (
        f"{state.model}: release {entry.release_number} is stable since {entry.at}, instead of "
        f"{entry.details['instead_of']}"
    )
    if record.release_id is None or record.release_id == entry.release_id:
        return text
    return f"{text}; {record.release_id} keeps {record.status.share / 100:g} % of users"


def entry_of_this_run(state: ModelState, asked: Asked) -> LedgerEntry | None:
    """Return what this run has done.

    What it began in another experiment ended with that, and what somebody else abandoned since is
    not begun again: both are a BadRequestError.
    """
    release_id, others = hotfix_name(state, asked.bundle.content), list[LedgerEntry]()
    for entry in reversed(state.history()):
        if entry.who != asked.note.who:
            others += [entry] if entry.release_id == release_id else []
            continue
        if entry.kind == "hotfixed":
            return entry
        if entry.kind == "hotfix_reserved" and entry.release_id != release_id:
            message = (
                f"{state.model}: expected the experiment in which this run reserved "
                f"{entry.release_id}, found {state.peek().rollout or 'none'}: it has ended; "
                "trigger a new run if stable is still wrong"
            )
            raise BadRequestError(message)
        if entry.kind == "hotfix_reserved" and others and others[0].kind == "hotfix_abandoned":
            last = others[0]
            message = (
                f"{state.model}: expected {release_id} to be wanted still, found it abandoned by "
                f"{last.who:.80} at {last.at} ({last.why:.200}); stable stays as it was; trigger a "
                "new run if it is wanted after all"
            )
            raise BadRequestError(message)
    return None


def _holds(state: ModelState, colour: Colour, number: int) -> bool:
    """Say whether the slot is some role's, or reserved, under that number."""
    held = state.peek().slots.get(colour)
    return held is not None and held.release_number == number


def _demand_right_answers(staged: Staged, folder: Path) -> None:
    golden = list(read_golden(folder))
    infra = check_slot(staged, None, golden, lambda _sentence, _share: None, TfServingRest)
    wrong, failed = infra.grpc.wrong + infra.rest.wrong, infra.grpc.failed + infra.rest.failed
    if wrong or failed:
        message = (
            f"{staged.version}: expected every golden answer of the bundle, found {wrong} wrong "
            f"and {failed} failed of {infra.grpc.asked + infra.rest.asked}; stable stays as it was"
        )
        raise BadRequestError(message)


def _model(context: StageContext) -> str:
    model = context.settings.get("model")
    if not isinstance(model, str) or not MODEL_NAME.fullmatch(model):
        message = f"hotfix_stable: expected the setting model, found {model!r:.80}"
        raise BadRequestError(message)
    return model


def _note(context: StageContext) -> Note:
    found = {name: context.settings.get(name) for name in ("requested_by", "reason")}
    who, why = (
        text if isinstance(text, str) and 0 < len(text) <= MAX_WORDS else None
        for text in found.values()
    )
    if who is None or why is None or not who.startswith("person"):
        message = (
            "hotfix_stable: expected the settings requested_by, a person and their run, and "
            f"reason, found {found!r:.200}"
        )
        raise BadRequestError(message)
    return Note(who=who, why=why)
