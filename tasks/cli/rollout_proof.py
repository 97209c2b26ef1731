"""Proof of a rollout: chain, retraced decisions, state record, and sealed records against the ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from tasks.adapters.artifact_store import LINK
from tasks.adapters.chain import read_payload
from tasks.contracts.artifacts import Manifest
from tasks.contracts.errors import BadRequestError, HeadraceError, bounded
from tasks.contracts.json_types import Json
from tasks.contracts.stages import ArtifactKind
from tasks.rollout.judge import judge, verdict_numbers, verify_verdict
from tasks.rollout.ledger import (
    LedgerEntry,
    entry_path,
    read_ledger,
    verify_chain,
    with_unwritten,
)
from tasks.rollout.observation import StepObservation
from tasks.rollout.phases import Decision
from tasks.rollout.record import StateRecord, record_problems
from tasks.rollout.retrace import retrace, state_problems

if TYPE_CHECKING:
    from tasks.adapters.artifact_store import ArtifactStore
    from tasks.rollout.state import ModelState


def state_and_ledger_problems(
    store: ArtifactStore, state: ModelState, entries: Sequence[LedgerEntry]
) -> list[str]:
    """Return what is wrong with a model's state record, its ledger, or between the two."""
    where, text = state.where, state.text()
    if text is None:
        return [f"{where}: expected the state record of {state.model}, found none"]
    problems = record_problems(text, where) + stray_ledger_objects(store, state.model)
    try:
        record = StateRecord.parse(text, where)
    except BadRequestError:
        return problems  # record_problems has said why
    objects = with_unwritten(read_ledger(store.objects, state.model), record.unwritten)
    problems += verify_chain(state.model, objects, record.sequence, record.head)
    problems += [
        f"{where}: field entries: expected entry {entry.sequence} as the ledger holds it"
        for entry in record.entries
        if objects.get(entry.sequence, b"") != entry.to_text().encode()
    ]
    told = retrace(state.model, [entry for entry in entries if entry.sequence <= record.sequence])
    return problems + told.problems + state_problems(record, told, where)


def stray_ledger_objects(store: ArtifactStore, model: str) -> list[str]:
    """Return the objects in a ledger's folder that are no entries of it."""
    problems = []
    for one in store.objects.entries(f"ledger/{model}"):
        stem = one.path.rsplit("/", 1)[-1].removesuffix(".json")
        if not stem.isdigit() or one.path != entry_path(model, int(stem)):
            words = "expected only entries of the ledger here, found this object"
            problems.append(f"{one.path}: {words}")
        elif not one.plain:
            problems.append(f"{one.path}: expected a plain file, found {LINK}")
    return problems


Records = Mapping[str, Json]
Differences = Iterator[tuple[str, object, object]]  # field, expected, found


def record_against_ledger(
    store: ArtifactStore, manifest: Manifest, about: Sequence[LedgerEntry]
) -> list[str]:
    """Return where a sealed record of a rollout tells another story than the ledger."""
    if manifest.kind not in _RECORDS:
        return []
    name, entry_kinds, compare = _RECORDS[manifest.kind]
    where = f"{manifest.address}: {name}"
    try:
        record = read_payload(store, manifest.address, name)
        entry = _entry_of(record, entry_kinds, about)
    except HeadraceError as error:
        return [f"{where}: {error}"]
    except OSError:
        return []  # the artifact's own check names what is missing
    if record.get("sequence", 0) is None:
        return []  # a rollback that had nothing to do
    if entry is None:
        step = f" of step {record['step']}" if record.get("step") else ""
        return [f"{where}: expected a ledger entry {' or '.join(entry_kinds)}{step}, found none"]
    return [
        bounded(f"{where}: field {field}: expected {expected!r}, found {found!r}", 600)
        for field, expected, found in compare(record, entry)
        if expected != found
    ]


def _entry_of(
    record: Records, kinds: Sequence[str], about: Sequence[LedgerEntry]
) -> LedgerEntry | None:
    for kind in kinds:
        for entry in about:
            if entry.kind == kind and entry.step == record.get("step"):
                return entry
    return None


def _slot(record: Records, entry: LedgerEntry) -> Differences:
    yield "release_number", entry.release_number, record.get("release_number")
    yield "colour", entry.details.get("colour"), record.get("colour")
    yield "bundle", entry.details.get("bundle"), record.get("bundle")


def _step(record: Records, entry: LedgerEntry) -> Differences:
    yield "sequence", entry.sequence, record.get("sequence")
    yield "started_at", entry.at, record.get("started_at")
    yield "share_basis_points", entry.share, record.get("share_basis_points")
    yield "candidate_release_number", entry.release_number, record.get("candidate_release_number")
    yield "salt", entry.details.get("salt"), record.get("salt")
    yield (
        "per_try_timeout_ms",
        entry.details.get("per_try_timeout_ms"),
        record.get("per_try_timeout_ms"),
    )


def _verdict(record: Records, entry: LedgerEntry) -> Differences:
    said = Decision.ROLL_BACK.value if entry.kind == "cut" else entry.details.get("decision")
    yield "decision", said, record.get("decision")


def _release(record: Records, entry: LedgerEntry) -> Differences:
    yield "sequence", entry.sequence, record.get("sequence")
    yield "ledger_digest", entry.digest, record.get("ledger_digest")
    yield "release_number", entry.release_number, record.get("release_number")
    yield "promoted_at", entry.at, record.get("promoted_at")
    for role in ("stable", "previous"):
        yield role, entry.details.get(role), record.get(role)


def _rollback(record: Records, entry: LedgerEntry) -> Differences:
    yield "sequence", entry.sequence, record.get("sequence")
    yield "rolled_back_at", entry.at, record.get("rolled_back_at")
    yield "stable", entry.details.get("stable"), record.get("stable")


def _hotfix(record: Records, entry: LedgerEntry) -> Differences:
    yield "sequence", entry.sequence, record.get("sequence")
    yield "release_number", entry.release_number, record.get("release_number")
    yield "hotfixed_at", entry.at, record.get("hotfixed_at")
    yield "who", entry.who, record.get("who")
    yield "why", entry.why, record.get("why")
    yield "instead_of", entry.details.get("instead_of"), record.get("instead_of")


# kind of artifact -> its record, the ledger entry that it is about, what the two must agree on
_RECORDS: Mapping[
    ArtifactKind, tuple[str, tuple[str, ...], Callable[[Records, LedgerEntry], Differences]]
] = {
    ArtifactKind.STAGED_SLOT: ("slot.json", ("slot_reserved",), _slot),
    ArtifactKind.TRAFFIC_STEP: ("step.json", ("step_began",), _step),
    ArtifactKind.STEP_VERDICT: ("verdict.json", ("judged", "cut"), _verdict),
    ArtifactKind.RELEASE: ("release.json", ("promoted",), _release),
    ArtifactKind.ROLLBACK: ("rollback.json", ("rolled_back",), _rollback),
    ArtifactKind.HOTFIX: ("hotfix.json", ("hotfixed",), _hotfix),
}


def verdict_problems(
    store: ArtifactStore, manifest: Manifest, about: Iterable[LedgerEntry]
) -> list[str]:
    """Judge a sealed observation again; verdict and ledger must say what the judge says."""
    if manifest.kind is not ArtifactKind.STEP_VERDICT:
        return []
    try:
        folder = store.fetch(manifest)
        problems = [f"{manifest.address}: {words}" for words in verify_verdict(folder)]
        text = (folder / "observation.json").read_bytes()
        seen = StepObservation.parse(text, f"{manifest.address}: observation.json")
        verdict = judge(seen)
    except HeadraceError as error:
        return [str(error)]
    except OSError as error:
        return [f"{manifest.address}: {error}"]
    numbers = {"decision": verdict.decision.value, **verdict_numbers(verdict)}
    expected = cast("dict[str, Any]", json.loads(json.dumps(numbers)))
    for entry in about:
        if entry.kind == "judged" and entry.step == seen.step:
            found = {name: value for name, value in entry.details.items() if name != "code"}
            problems += [
                bounded(
                    f"{entry_path(entry.model, entry.sequence)}: field details.{name}: expected "
                    f"{expected.get(name)!r} from {manifest.address}, found {found.get(name)!r}",
                    600,
                )
                for name in sorted({*expected, *found})
                if expected.get(name) != found.get(name)
            ]
    return problems


def unproved_decisions(
    about: Iterable[LedgerEntry], manifests: Iterable[Manifest], steps: Mapping[str, int]
) -> list[str]:
    """Return the ledger's verdicts for which no sealed observation is there to judge again."""
    sealed = {
        steps[str(manifest.address)] for manifest in manifests if str(manifest.address) in steps
    }
    return [
        f"{entry_path(entry.model, entry.sequence)}: expected a sealed "
        f"{ArtifactKind.STEP_VERDICT.value} of step {entry.step} of {entry.release_id}, found none"
        for entry in about
        if entry.kind == "judged" and entry.step not in sealed
    ]
