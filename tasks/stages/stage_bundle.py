"""Serving bundle -> staged slot: loaded beside what serves, asked every golden request, not yet seen."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tasks.adapters.artifact_store import ArtifactStore
from tasks.adapters.object_store import ObjectStore
from tasks.adapters.tf_serving import TfServingRest
from tasks.contracts.artifacts import Address
from tasks.contracts.errors import HeadraceError
from tasks.contracts.json_types import Json, pretty_json
from tasks.contracts.stage_io import Outcome, StageContext
from tasks.contracts.stages import ArtifactKind
from tasks.rollout.state import ModelState, open_state
from tasks.serving.bundle_entries import BUNDLE_RECORD, BundleEntries
from tasks.serving.golden_answers import read_golden
from tasks.serving.infra_check import InfraCheck
from tasks.serving.slot_check import (
    LOAD_SECONDS,
    MEASURED_REQUESTS,
    Staged,
    check_slot,
    slot_of_colour,
    slots_of,
    wait_until_loaded,
)
from tasks.serving.slot_folder import Slot, publish, remove_older, withdraw
from tasks.serving.version_states import VersionId

READS: Mapping[str, ArtifactKind] = MappingProxyType(
    {
        "bundle": ArtifactKind.SERVING_BUNDLE,
        "evaluation": ArtifactKind.EVALUATION,
        "events": ArtifactKind.VALIDATED_EVENTS,
    }
)
GATED = frozenset({"bundle", "evaluation"})
PRODUCES = ArtifactKind.STAGED_SLOT


def configure(context: StageContext) -> dict[str, Json]:
    """Return whose slot it is: a release is staged once."""
    release = context.the_release()
    return {
        "release_id": release.release_id,
        "model": release.model,
        "measured_requests": MEASURED_REQUESTS,
    }


def run(context: StageContext) -> Outcome:
    """Compare entries with stable's, reserve, publish, wait, ask; the gate judges what was found."""
    release = context.the_release()
    state = open_state(
        context.the_state_dir(),
        release.model,
        ObjectStore(context.store_url),
        records=context.records,
    )
    bundle, events = context.inputs["bundle"], context.inputs["events"]
    demand_fit(state, release.release_id, context)
    colour, number = state.reserve_slot(
        release.release_id, bundle=bundle.address, events=events.address
    )
    slots = slots_of(context.the_state_dir(), release.model, context.slot_host)
    staged = Staged(
        slot=slot_of_colour(slots, colour), version=VersionId(name=release.model, version=number)
    )
    stable = _stable(state, slots)
    began = time.monotonic()
    context.progress(f"loading release {number} into the {colour} slot", 0.0)
    publish(bundle.path / "model", staged.slot.directory, number)
    try:
        wait_until_loaded(staged, LOAD_SECONDS)
    except HeadraceError:  # so that the slot stays usable
        withdraw(staged.slot.directory, number)
        raise
    removed = remove_older(staged.slot.directory, number)
    loaded = time.monotonic()
    golden = list(read_golden(bundle.path))
    infra = check_slot(staged, stable, golden, context.progress, TfServingRest)
    _write(context.out / "slot.json", _slot_record(staged, stable, bundle.address))
    _write(context.out / "infra.json", infra.to_record())
    facts: dict[str, Json] = {
        "load_seconds": round(loaded - began, 3),
        "check_seconds": round(time.monotonic() - loaded, 3),
        "versions_removed": list(removed),
    }
    return Outcome(sentence=_sentence(staged, stable, infra), facts=facts)


def demand_fit(state: ModelState, release_id: str, context: StageContext) -> None:
    """Refuse a release that lacks what clients ask of stable, before it has a slot; staged once, it stays.

    What the candidate refuses stable answers, so that no user pays: but after its promotion all would.
    """
    record, bundle = state.peek(), context.inputs["bundle"]
    stable = None if record.stable is None else record.stable.bundle
    if stable is None or record.slot_of(release_id) is not None:
        return
    store = ArtifactStore(ObjectStore(context.store_url), cache=context.work / "cache")
    text = store.read_payload(Address.parse(stable), BUNDLE_RECORD)
    if text is None:
        context.progress(f"entries are not compared: {stable} is not in the store any more", 0.0)
        return
    where = f"{bundle.address}/{BUNDLE_RECORD}"
    found = BundleEntries.parse((bundle.path / BUNDLE_RECORD).read_bytes(), where)
    way_on = (
        f"{state.model} stays as it is: release a model with these entries; to drop them on purpose, "
        "release it under another model name and let clients ask that one"
    )
    served = BundleEntries.parse(text, f"{stable}/{BUNDLE_RECORD}")
    found.demand_all_of(served, where=where, stable=stable, way_on=way_on)


def _stable(state: ModelState, slots: Mapping[str, Slot]) -> Staged | None:
    record = state.peek()
    if record.stable is None or record.roles.stable is None:
        return None
    return Staged(
        slot=slot_of_colour(slots, record.roles.stable),
        version=VersionId(name=record.model, version=record.stable.release_number),
    )


# Records


def _slot_record(staged: Staged, stable: Staged | None, bundle: str) -> dict[str, Json]:
    slot = staged.slot
    return {
        "format": "staged_slot/1",
        "model": staged.version.name,
        "release_number": staged.version.version,
        "version": staged.version.version,
        "colour": slot.colour,
        "ports": {"grpc": slot.grpc, "rest": slot.rest},
        "addresses": {"grpc": slot.grpc_address, "rest": slot.rest_url},
        "directory": str(slot.directory),
        "bundle": bundle,
        "stable": None
        if stable is None
        else {"colour": stable.slot.colour, "release_number": stable.version.version},
    }


def _write(path: Path, record: Mapping[str, Json]) -> None:
    path.write_text(pretty_json(dict(record)), encoding="utf-8")


def _sentence(staged: Staged, stable: Staged | None, infra: InfraCheck) -> str:
    asked, wrong = infra.grpc.asked + infra.rest.asked, infra.grpc.wrong + infra.rest.wrong
    failed = infra.grpc.failed + infra.rest.failed
    right = asked - wrong - failed
    text = (
        f"{staged.version.name}: release {staged.version.version} is loaded in the "
        f"{staged.slot.colour} slot: {right} of {asked} golden answers right"
    )
    latency = infra.latency["grpc"]
    if "candidate" not in latency:
        return text
    text += f", p99 {latency['candidate'].milliseconds[99]:.1f} ms"
    if stable is not None and "stable" in latency:
        text += f" beside stable's {latency['stable'].milliseconds[99]:.1f} ms"
    return text
