"""`headrace hotfix`: replace stable's release during an experiment; needs no Airflow."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

from tasks.adapters.artifact_store import ArtifactStore
from tasks.adapters.chain import reports_by_content, walk
from tasks.adapters.object_store import ObjectStore
from tasks.cli.home import Home
from tasks.cli.ledgers import state_of
from tasks.contracts.artifacts import Address
from tasks.contracts.errors import BadRequestError
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.stages import ArtifactKind
from tasks.rollout.hotfix import abandon_hotfix, apply_hotfix, reserve_hotfix
from tasks.rollout.state import Note
from tasks.serving.golden_answers import read_golden
from tasks.serving.slot_folder import keep_only, publish, read_slots, withdraw
from tasks.serving.version_states import VersionId
from tasks.stages.stage_bundle import LOAD_SECONDS, Staged, check_slot, wait_until_loaded

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path

    from tasks.cli.console import Console
    from tasks.contracts.artifacts import Manifest
    from tasks.rollout.state import ModelState


def run(options: argparse.Namespace, console: Console) -> int:
    """Load the bundle into the third slot, ask it every golden request, then move the roles."""
    home = Home.from_environment()
    state = state_of(home, options.model)
    store = ArtifactStore(ObjectStore(home.store_url), cache=home.cache)
    note = Note(who=f"person {getpass.getuser()}", why=options.reason)
    hotfix(state, store, Address.parse(options.bundle), note, console.say)
    return int(ExitCode.DONE)


def hotfix(
    state: ModelState, store: ArtifactStore, bundle: Address, note: Note, say: Callable[[str], None]
) -> None:
    """Replace stable's release; whatever fails before the roles move leaves stable as it was."""
    manifest = _gated(store, bundle)
    folder = store.fetch(manifest)
    # Its own content names it: the same command again goes on where it was killed.
    rollout = state.peek().rollout or "none"
    release_id = f"hotfix-{rollout}-{manifest.content[:12]}"
    reservation = reserve_hotfix(
        state, release_id, bundle=str(bundle), events=_events(store, bundle), note=note
    )
    slot = read_slots(state.folder / "slots.json")[reservation.colour]
    version = VersionId(name=state.model, version=reservation.release_number)
    staged = Staged(slot=slot, version=version)
    try:
        say(f"{state.model}: loading the hotfix into the {reservation.colour} slot")
        publish(folder / "model", slot.directory, version.version)
        wait_until_loaded(staged, LOAD_SECONDS)
        _demand_right_answers(staged, folder)
    except Exception:
        abandon_hotfix(state, release_id, note=note)
        withdraw(slot.directory, version.version)
        raise
    keep_only(slot.directory, version.version)
    entry = apply_hotfix(state, release_id, note=note)
    record = state.peek()
    share = record.status.share / 100
    say(
        f"{state.model}: release {entry.release_number} is stable since {entry.at}, instead of "
        f"{entry.details['instead_of']}; {record.release_id} keeps {share:g} % of users"
    )


def _gated(store: ArtifactStore, bundle: Address) -> Manifest:
    if bundle.kind is not ArtifactKind.SERVING_BUNDLE:
        message = f"--bundle: expected the address of a serving_bundle, found {bundle}"
        raise BadRequestError(message)
    manifest = store.manifest(bundle)
    reports, _ = reports_by_content(store)
    about = reports.get(manifest.content, [])
    if not any(one.report.passed for one in about):
        found = "only refusals" if about else "none"
        message = (
            f"{bundle}: expected a passing gate report on it, found {found}; make it by a release "
            "(of another model name while this one is in an experiment)"
        )
        raise BadRequestError(message)
    return manifest


def _events(store: ArtifactStore, bundle: Address) -> str | None:
    found = walk(store, [bundle]).found
    events = [str(one) for one in found if one.kind is ArtifactKind.VALIDATED_EVENTS]
    return events[0] if events else None


def _demand_right_answers(staged: Staged, folder: Path) -> None:
    infra = check_slot(staged, None, list(read_golden(folder)), lambda _sentence, _share: None)
    wrong, failed = infra.grpc.wrong + infra.rest.wrong, infra.grpc.failed + infra.rest.failed
    if wrong or failed:
        message = (
            f"{staged.version}: expected every golden answer of the bundle, found {wrong} wrong "
            f"and {failed} failed of {infra.grpc.asked + infra.rest.asked}; stable stays as it was"
        )
        raise BadRequestError(message)
