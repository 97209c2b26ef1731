"""`headrace gc`: remove what no ledger reaches and what is not young."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.adapters.chain import read_request, sealed, sealed_in_the_name, walk
from tasks.cli.artifact_proof import address_of
from tasks.cli.collect_local import collect_local
from tasks.cli.home import Home
from tasks.cli.ledgers import ledger_mentions
from tasks.cli.stack import airflow_of, running
from tasks.cli.stores import open_store
from tasks.contracts.artifacts import MANIFEST_NAME, Address, Manifest
from tasks.contracts.catalogues import RELEASE_DAGS
from tasks.contracts.errors import BadRequestError, CorruptArtifactError
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.stages import ArtifactKind

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from tasks.adapters.artifact_store import ArtifactStore
    from tasks.adapters.object_store import Stored
    from tasks.cli.console import Console

SECONDS_PER_HOUR = 3600.0
WORK = "work"
LOOK_AGAIN_SECONDS = 5.0
# What is written about an artifact lives as long as the artifact: small, and proof.
RECORDS = frozenset(
    {
        ArtifactKind.EVALUATION,
        ArtifactKind.STAGED_SLOT,
        ArtifactKind.TRAFFIC_STEP,
        ArtifactKind.STEP_VERDICT,
        ArtifactKind.RELEASE,
        ArtifactKind.ROLLBACK,
        ArtifactKind.HOTFIX,
        ArtifactKind.MIRROR,
        ArtifactKind.GATE_REPORT,
    }
)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of the store and the objects in it."""

    path: str
    inside: tuple[Stored, ...]

    def __str__(self) -> str:
        """Return where it is."""
        return self.path

    @property
    def paths(self) -> tuple[str, ...]:
        """Return where its objects are."""
        return tuple(one.path for one in self.inside)

    @property
    def written(self) -> float:
        """Return when its newest object was written, in unix seconds."""
        return max(one.written for one in self.inside)

    @property
    def size(self) -> int:
        """Return its bytes."""
        return sum(one.size for one in self.inside)

    @property
    def is_sealed(self) -> bool:
        """Return whether it is an artifact."""
        return f"{self.path}/{MANIFEST_NAME}" in self.paths


def run(options: argparse.Namespace, console: Console) -> int:
    """Remove, or with --dry-run only say so."""
    home = Home.from_environment()
    _demand_idle(home)
    before = time.time() - options.grace_hours * SECONDS_PER_HOUR
    word = "would remove" if options.dry_run else "removes"

    def say(what: object) -> None:
        console.say(f"{word} {what}")

    store = open_store(home)
    doomed = collect(home, written_before=before, dry_run=options.dry_run, say=say)
    local = collect_local(
        home, store.objects, os.environ, written_before=before, dry_run=options.dry_run, say=say
    )
    size = (sum(one.size for one in doomed) + sum(one.size for one in local)) / 1e6
    done = "would be freed" if options.dry_run else "freed"
    console.say(f"{len(doomed) + len(local)} folders, {size:.1f} MB {done}")
    return int(ExitCode.DONE)


def collect(
    home: Home,
    *,
    written_before: float,
    say: Callable[[Folder], None],
    dry_run: bool = False,
    look_again_seconds: float = LOOK_AGAIN_SECONDS,
) -> list[Folder]:
    """Remove what may go and return it; look again on the way, for nothing else stands still."""
    store = open_store(home)
    removed: list[Folder] = []
    waiting, looked = _look(store, home, written_before), time.monotonic()
    while waiting:
        if not dry_run and removed and time.monotonic() - looked >= look_again_seconds:
            waiting, looked = _look(store, home, written_before), time.monotonic()
            gone = {folder.path for folder in removed}
            waiting = [folder for folder in waiting if folder.path not in gone]
            if not waiting:
                break
        folder = waiting.pop(0)
        if dry_run or _is_still(store, folder):
            say(folder)
            if not dry_run:
                remove(store, folder)
            removed.append(folder)
    return removed


def _look(store: ArtifactStore, home: Home, written_before: float) -> list[Folder]:
    return to_remove(store, keep(store, *ledger_mentions(home)), written_before=written_before)


def _is_still(store: ArtifactStore, folder: Folder) -> bool:
    """Say whether nobody wrote into a folder since it was looked at: a re-use marks what it uses."""
    now = [(one.path, one.written) for one in store.objects.entries(folder.path)]
    return {path for path, _ in now} <= set(folder.paths) and all(
        written <= folder.written for _, written in now
    )


def _demand_idle(home: Home) -> None:
    """Refuse while a release runs on this machine; of other machines nothing is known here.

    What runs elsewhere is protected by the grace time: see `to_remove` and `mark_used`.
    """
    report = running(home)
    airflow = None if report is None else airflow_of(home, report)
    runs = [
        run for dag in RELEASE_DAGS.values() if airflow is not None for run in airflow.running(dag)
    ]
    if runs:
        message = f"gc: expected no release to run, found {', '.join(runs)}; try again when it ends"
        raise BadRequestError(message)


def keep(
    store: ArtifactStore, addresses: set[Address], release_ids: set[str], hotfixes: set[str]
) -> Mapping[Address, Manifest]:
    """Return what the ledger reaches: inputs all the way down, and the records written about them.

    A ledger that mentions what is not there stops everything: the store may be the wrong one.
    """
    requests, missing = _requests(store, release_ids - hotfixes)
    ours, unreadable = sealed_in_the_name(store, release_ids)
    reached = walk(store, [*addresses, *requests, *ours])
    problems = [*missing, *unreadable, *reached.problems]
    if problems:
        shown = "; ".join(problems[:3])
        message = (
            f"gc: expected all that the ledger reaches, found {shown}; nothing was removed; "
            "is this the right store? If it is, restore what is missing from a copy"
        )
        raise CorruptArtifactError(message)
    _add_records(store, reached.found)
    return reached.found


def _requests(store: ArtifactStore, release_ids: set[str]) -> tuple[list[Address], list[str]]:
    """Return the sealed requests of these releases, and which releases have none."""
    found: dict[str, list[Address]] = {name: [] for name in sorted(release_ids)}
    for address in sealed(store, ArtifactKind.RELEASE_REQUEST):
        release_id = read_request(store, address).release_id
        if release_id in found:
            found[release_id].append(address)
    missing = [f"no sealed request of release {name}" for name, ours in found.items() if not ours]
    return [address for ours in found.values() for address in ours], missing


def _add_records(store: ArtifactStore, reached: dict[Address, Manifest]) -> None:
    """Add, until nothing more comes, the records about what is kept, and what they are about.

    Gate reports are found by content: one made on equal bytes of another key speaks of ours too,
    and is not worth much without the artifact that it names.
    """
    left = {
        address: store.manifest(address)
        for kind in ArtifactKind
        if kind in RECORDS
        for address in sealed(store, kind)
        if address not in reached
    }
    grew = True
    while grew:
        contents = {manifest.content for manifest in reached.values()}
        added = {
            address: manifest
            for address, manifest in left.items()
            if address not in reached and _is_about(manifest, reached, contents)
        }
        grew = bool(added)
        reached.update(added)
        subjects = [
            Address.parse(item.address) for m in added.values() for item in m.inputs.values()
        ]
        # Of a twin that is gone already nothing can be kept; `headrace verify` names it.
        reached.update(walk(store, [one for one in subjects if one not in reached]).found)


def _is_about(
    record: Manifest, reached: Mapping[Address, Manifest], contents: AbstractSet[str]
) -> bool:
    if record.kind is ArtifactKind.GATE_REPORT:
        return any(item.content in contents for item in record.inputs.values())
    named = [Address.parse(item.address) for item in record.inputs.values()]
    return bool(named) and all(address in reached for address in named)


def to_remove(
    store: ArtifactStore, kept: Mapping[Address, Manifest], *, written_before: float
) -> list[Folder]:
    """Return the folders that are neither kept nor young, sealed or not, scratch included.

    What a young artifact was made from stays too: a release that runs elsewhere may be about to
    read it again. Of a kept artifact the payloads go that its manifest does not name.
    """
    folders = [
        folder
        for root in (*(kind.value for kind in ArtifactKind), WORK)
        for folder in _folders(store.objects.entries(root), lambda path: path.split("/")[:2])
    ]
    young = [
        address
        for folder in folders
        if folder.is_sealed and folder.written >= written_before
        if (address := address_of(folder.path)) is not None
    ]
    wanted = {**walk(store, young).found, **kept}
    by_path = {str(address): manifest for address, manifest in wanted.items()}
    doomed = [folder for folder in folders if folder.path not in by_path]
    for folder in folders:
        if folder.path in by_path:
            doomed += _left_behind(folder, by_path[folder.path])
    return [folder for folder in doomed if folder.written < written_before]


def _left_behind(folder: Folder, manifest: Manifest) -> list[Folder]:
    left = [one for one in folder.inside if manifest.left_behind(one.path)]
    return _folders(left, lambda path: path.split("/")[:3])


def _folders(stored: Iterable[Stored], folder_of: Callable[[str], list[str]]) -> list[Folder]:
    inside: dict[str, list[Stored]] = {}
    for one in stored:
        inside.setdefault("/".join(folder_of(one.path)), []).append(one)
    return [Folder(path=path, inside=tuple(some)) for path, some in sorted(inside.items())]


def remove(store: ArtifactStore, folder: Folder) -> None:
    """Remove a folder, its manifest first: a gc that is killed leaves no half artifact."""
    if folder.is_sealed:
        store.objects.remove_tree(f"{folder.path}/{MANIFEST_NAME}")
    store.objects.remove_tree(folder.path)
