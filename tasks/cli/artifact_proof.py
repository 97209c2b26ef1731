"""Proof of single artifacts: bytes, manifest, facts, and what lies beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.adapters.artifact_store import LINK
from tasks.contracts.artifacts import FACTS_NAME, MANIFEST_NAME, Address, Manifest
from tasks.contracts.errors import HeadraceError
from tasks.contracts.facts import facts_problems
from tasks.contracts.json_types import parse_object
from tasks.contracts.stages import ArtifactKind

if TYPE_CHECKING:
    from tasks.adapters.artifact_store import ArtifactStore


@dataclass(kw_only=True)
class Findings:
    """What is wrong, and what is only worth saying."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        """Take over what another look found."""
        self.problems += other.problems
        self.notes += other.notes


def artifact_findings(store: ArtifactStore, manifest: Manifest) -> Findings:
    """Return everything that is not as it was sealed, each with its file."""
    found = Findings()
    try:
        store.check(manifest)
    except HeadraceError as error:
        found.problems.append(str(error))
    found.add(_strays(store, manifest))
    where = f"{manifest.address}/{MANIFEST_NAME}"
    if store.objects.read(where) != manifest.to_text().encode():
        found.problems.append(f"{where}: is not the one text of its fields")
    found.problems += _facts_of(store, manifest)
    return found


def _strays(store: ArtifactStore, manifest: Manifest) -> Findings:
    """Name what lies beside an artifact; the payload of a killed try is read by nobody."""
    known = {f"{manifest.address}/{MANIFEST_NAME}", f"{manifest.address}/{FACTS_NAME}"}
    payload = f"{manifest.address}/{manifest.payload_folder}/"
    beside = [
        one
        for one in store.objects.entries(str(manifest.address))
        if not one.path.startswith(payload)
    ]
    paths = [one.path for one in beside if one.path not in known]
    left = {path: folder for path in paths if (folder := manifest.left_behind(path))}
    return Findings(
        problems=[
            f"{manifest.address}: expected nothing beside manifest, facts and payload, found {path}"
            for path in paths
            if path not in left
        ]
        + [
            f"{one.path}: expected a plain file, found {LINK}"
            for one in beside
            if one.path in known and not one.plain
        ],
        notes=[
            f"{folder}: the payload of a try that was killed before its seal, read by nobody; "
            "`headrace gc` removes it once it is not young"
            for folder in dict.fromkeys(left.values())
        ],
    )


def _facts_of(store: ArtifactStore, manifest: Manifest) -> list[str]:
    where = f"{manifest.address}/{FACTS_NAME}"
    try:
        return facts_problems(store.objects.read(where), where)
    except FileNotFoundError:
        return [f"{where}: expected this file, written before the manifest, found none"]
    except HeadraceError as error:
        return [str(error)]


@dataclass(frozen=True, kw_only=True)
class Unsealed:
    """A folder with payload and facts, so all but sealed, that has no manifest."""

    address: str
    payload: tuple[str, ...]

    @property
    def problem(self) -> str:
        """Return what is to be said of it where it matters."""
        return (
            f"{self.address}/{MANIFEST_NAME}: expected this file beside its payload and facts, "
            "found none: it was removed, or the stage was killed just before it"
        )


def unsealed(store: ArtifactStore, kind: ArtifactKind) -> Iterator[Unsealed]:
    """Yield the artifacts of a kind that lack only their manifest: a listing."""
    inside: dict[str, list[str]] = {}
    for path in store.objects.list(kind.value):
        inside.setdefault("/".join(path.split("/")[:2]), []).append(path)
    for folder, paths in sorted(inside.items()):
        names = [path.removeprefix(f"{folder}/") for path in paths]
        if MANIFEST_NAME not in names and FACTS_NAME in names:
            payload = tuple(f"{folder}/{name}" for name in names if name != FACTS_NAME)
            yield Unsealed(address=folder, payload=payload)


def unsealed_problems(
    store: ArtifactStore, kinds: Iterable[ArtifactKind], field: str, wanted: Collection[str]
) -> list[str]:
    """Return the unsealed artifacts of whose own records one says in `field` what is wanted.

    What only mentions it, as a request names its champion, is about something else.
    """
    return [
        one.problem
        for kind in kinds
        for one in unsealed(store, kind)
        if any(_says(store, path, field, wanted) for path in one.payload if path.endswith(".json"))
    ]


def _says(store: ArtifactStore, path: str, field: str, wanted: Collection[str]) -> bool:
    try:
        return str(parse_object(store.objects.read(path), path).get(field)) in wanted
    except (FileNotFoundError, HeadraceError):
        return False


def address_of(text: str) -> Address | None:
    """Return an address, None where the text is none."""
    try:
        return Address.parse(text)
    except HeadraceError:
        return None
