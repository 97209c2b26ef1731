"""`headrace hotfix`: replace stable's release during an experiment; needs no Airflow."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING

from tasks.adapters.artifact_store import ArtifactStore
from tasks.adapters.object_store import ObjectStore
from tasks.cli.home import Home
from tasks.cli.ledgers import demand_written, state_of
from tasks.contracts.artifacts import Address
from tasks.contracts.errors import BadRequestError
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.stages import ArtifactKind
from tasks.rollout.state import Note
from tasks.serving.slot_check import slots_of
from tasks.stages import hotfix_stable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from tasks.cli.console import Console
    from tasks.rollout.state import ModelState
    from tasks.serving.slot_folder import Slot


def run(options: argparse.Namespace, console: Console) -> int:
    """Do what the stage `hotfix_stable` does, in the name of who is logged in here."""
    home = Home.from_environment()
    state = state_of(home, options.model)
    store = ArtifactStore(ObjectStore(home.store_url), cache=home.cache)
    note = Note(who=f"person {getpass.getuser()}", why=options.reason)
    if options.abandon:
        console.say(hotfix_stable.abandon(state, note, _slots(state)))
    else:
        hotfix(state, store, Address.parse(options.bundle), note, console.say)
    demand_written(home, state)
    return int(ExitCode.DONE)


def hotfix(
    state: ModelState, store: ArtifactStore, bundle: Address, note: Note, say: Callable[[str], None]
) -> None:
    """Replace stable's release; whatever fails before the roles move leaves stable as it was."""
    if bundle.kind is not ArtifactKind.SERVING_BUNDLE:
        message = f"--bundle: expected the address of a serving_bundle, found {bundle}"
        raise BadRequestError(message)
    manifest = store.manifest(bundle)
    hotfix_stable.passing_report(store, manifest)
    asked = hotfix_stable.Asked(bundle=manifest, folder=store.fetch(manifest), note=note)
    entry = hotfix_stable.hotfix(
        state,
        asked,
        events=hotfix_stable.events_of(store, manifest),
        entries_of=lambda address: hotfix_stable.entries_of(store, address),
        slots=lambda: _slots(state),
        say=say,
    )
    say(hotfix_stable.sentence_of(state, entry))


def _slots(state: ModelState) -> Mapping[str, Slot]:
    slot_host = os.environ.get("HEADRACE_SLOT_HOST") or None
    return slots_of(state.folder.parent, state.model, slot_host)
