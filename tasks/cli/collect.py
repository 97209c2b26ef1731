"""`headrace gc`: remove what no ledger reaches and what is not young."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.adapters.chain import Walk, read_request, sealed, walk
from tasks.cli.home import Home
from tasks.cli.ledgers import ledger_mentions
from tasks.cli.stack import airflow_of, running
from tasks.cli.stores import open_store
from tasks.contracts.artifacts import MANIFEST_NAME, Address, Manifest
from tasks.contracts.errors import BadRequestError, CorruptArtifactError
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.stages import ArtifactKind

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from tasks.adapters.artifact_store import ArtifactStore
    from tasks.adapters.object_store import Stored
    from tasks.cli.console import Console

RELEASE_DAG = "release_recommender"
SECONDS_PER_HOUR = 3600.0
WORK = "work"
# What is written about an artifact lives as long as the artifact: small, and proof.
RECORDS = frozenset(
    {
        ArtifactKind.EVALUATION,
        ArtifactKind.STAGED_SLOT,
        ArtifactKind.TRAFFIC_STEP,
        ArtifactKind.STEP_VERDICT,
        ArtifactKind.RELEASE,
        ArtifactKind.ROLLBACK,
        ArtifactKind.MIRROR,
        ArtifactKind.GATE_REPORT,
    }
)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of the store: when it was last written (unix seconds), and its bytes."""

    path: str
    written: float
    size: int
    paths: tuple[str, ...]


def run(options: argparse.Namespace, console: Console) -> int:
    """Remove, or with --dry-run only say so."""
    home = Home.from_environment()
    _demand_idle(home)
    store = open_store(home)
    before = time.time() - options.grace_hours * SECONDS_PER_HOUR
    doomed = to_remove(store, keep(store, *ledger_mentions(home)), written_before=before)
    for folder in doomed:
        console.say(f"{'would remove' if options.dry_run else 'removes'} {folder.path}")
        if not options.dry_run:
            remove(store, folder)
    size = sum(folder.size for folder in doomed) / 1e6
    done = "would be freed" if options.dry_run else "freed"
    console.say(f"{len(doomed)} folders, {size:.1f} MB {done}")
    return int(ExitCode.DONE)


def _demand_idle(home: Home) -> None:
    """Refuse while a release runs: it may be about to re-use what nothing reaches yet."""
    report = running(home)
    runs = [] if report is None else airflow_of(home, report).running(RELEASE_DAG)
    if runs:
        message = f"gc: expected no release to run, found {', '.join(runs)}; try again when it ends"
        raise BadRequestError(message)


def keep(
    store: ArtifactStore, addresses: set[Address], release_ids: set[str]
) -> Mapping[Address, Manifest]:
    """Return what the ledger reaches: inputs all the way down, and the records written about them.

    A ledger that mentions what is not there stops everything: the store may be the wrong one.
    """
    reached = walk(store, [*addresses, *_requests(store, release_ids)])
    if reached.problems:
        shown = "; ".join(reached.problems[:3])
        message = f"gc: expected all that the ledger reaches, found {shown}; nothing was removed"
        raise CorruptArtifactError(message)
    _add_records(store, reached)
    return reached.found


def _requests(store: ArtifactStore, release_ids: set[str]) -> list[Address]:
    return [
        address
        for address in sealed(store, ArtifactKind.RELEASE_REQUEST)
        if read_request(store, address).release_id in release_ids
    ]


def _add_records(store: ArtifactStore, reached: Walk) -> None:
    """Add, until nothing more comes, records all of whose inputs are kept."""
    left = {
        address: store.manifest(address)
        for kind in ArtifactKind
        if kind in RECORDS
        for address in sealed(store, kind)
        if address not in reached.found
    }
    grew = True
    while grew:
        added = {
            address: manifest
            for address, manifest in left.items()
            if manifest.inputs
            and all(Address.parse(i.address) in reached.found for i in manifest.inputs.values())
        }
        reached.found.update(added)
        left = {address: m for address, m in left.items() if address not in added}
        grew = bool(added)


def to_remove(
    store: ArtifactStore, kept: Mapping[Address, Manifest], *, written_before: float
) -> list[Folder]:
    """Return the folders that are neither kept nor young, sealed or not, scratch included.

    Of a kept artifact they are the payloads that its manifest does not name: of killed tries.
    """
    wanted = {str(address): manifest for address, manifest in kept.items()}
    return [
        folder
        for root in (*(kind.value for kind in ArtifactKind), WORK)
        for folder in _folders(store, root, wanted)
        if folder.path not in wanted and folder.written < written_before
    ]


def _folders(store: ArtifactStore, root: str, wanted: Mapping[str, Manifest]) -> list[Folder]:
    stored: dict[str, list[Stored]] = {}
    for one in store.objects.entries(root):
        folder = "/".join(one.path.split("/")[:2])
        left_behind = wanted[folder].left_behind(one.path) if folder in wanted else None
        stored.setdefault(left_behind or folder, []).append(one)
    return [
        Folder(
            path=folder,
            written=max(one.written for one in inside),
            size=sum(one.size for one in inside),
            paths=tuple(one.path for one in inside),
        )
        for folder, inside in sorted(stored.items())
    ]


def remove(store: ArtifactStore, folder: Folder) -> None:
    """Remove a folder, its manifest first: a gc that is killed leaves no half artifact."""
    manifest = f"{folder.path}/{MANIFEST_NAME}"
    if manifest in folder.paths:
        store.objects.remove_tree(manifest)
    store.objects.remove_tree(folder.path)
