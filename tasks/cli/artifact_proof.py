"""Proof of single artifacts: bytes, manifest, facts, strays, and the verdicts of gate reports."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.adapters.chain import SealedReport, inputs_of, reference_problems
from tasks.contracts.artifacts import FACTS_NAME, MANIFEST_NAME, Address, Manifest
from tasks.contracts.errors import HeadraceError
from tasks.contracts.facts import facts_problems
from tasks.contracts.gate_reports import GateReport
from tasks.contracts.json_types import parse_object
from tasks.contracts.stages import ArtifactKind, Stage

if TYPE_CHECKING:
    from tasks.adapters.artifact_store import ArtifactStore


def artifact_problems(store: ArtifactStore, manifest: Manifest) -> list[str]:
    """Return everything that is not as it was sealed, each with its file."""
    problems = []
    try:
        store.check(manifest)
    except HeadraceError as error:
        problems.append(str(error))
    problems += _stray_problems(store, manifest)
    where = f"{manifest.address}/{MANIFEST_NAME}"
    if store.objects.read(where) != manifest.to_text().encode():
        problems.append(f"{where}: is not the one text of its fields")
    return problems + _facts_of(store, manifest)


def _stray_problems(store: ArtifactStore, manifest: Manifest) -> list[str]:
    known = {f"{manifest.address}/{MANIFEST_NAME}", f"{manifest.address}/{FACTS_NAME}"}
    payload = f"{manifest.address}/{manifest.payload_folder}/"
    return [
        f"{manifest.address}: expected nothing beside manifest, facts and payload, found {path}"
        for path in store.objects.list(str(manifest.address))
        if path not in known and not path.startswith(payload)
    ]


def _facts_of(store: ArtifactStore, manifest: Manifest) -> list[str]:
    where = f"{manifest.address}/{FACTS_NAME}"
    try:
        return facts_problems(store.objects.read(where), where)
    except FileNotFoundError:
        return [f"{where}: expected this file, written before the manifest, found none"]


def report_problems(store: ArtifactStore, one: SealedReport) -> list[str]:
    """Return what is wrong with a report itself, with its verdict and with what it looked at."""
    manifest = store.manifest(one.address)
    looked_at, problems = inputs_of(manifest)
    found = {}
    for address, holder in looked_at:
        try:
            found[str(address)] = store.manifest(address)
        except HeadraceError as error:
            problems.append(f"{holder}{error}")
    problems += reference_problems(manifest, found)
    problems += _subject_problems(manifest, one.report)
    return [*artifact_problems(store, manifest), *problems, *verdict_problems(one)]


def _subject_problems(manifest: Manifest, report: GateReport) -> list[str]:
    """Say that a report speaks of other bytes than the gate was given."""
    subject = manifest.inputs.get("artifact")
    if manifest.stage is not Stage.GATE_ARTIFACT or subject is None:
        return [f"{manifest.address}: expected a report that gate_artifact made on an artifact"]
    if subject.content != report.content:
        where = f"{manifest.address}: report.json: field content"
        return [f"{where}: expected {subject.content}, the gate's input, found {report.content}"]
    return []


def verdict_problems(one: SealedReport) -> list[str]:
    """Return the checks whose verdict does not follow from what was measured and its limits."""
    problems = []
    for place, check in enumerate(one.report.checks):
        where = f"{one.address}: report.json: checks[{place}] ({check.name})"
        try:
            recomputed = check.recomputed
        except HeadraceError as error:
            problems.append(f"{where}: {error}")
            continue
        if recomputed is not None and recomputed is not check.passed:
            problems.append(
                f"{where}: field passed: expected {recomputed} from measured {check.measured} and "
                f"limits {check.limits}, found {check.passed}"
            )
    return problems


def gate_problems(
    manifest: Manifest, reports: Sequence[SealedReport], *, promoted: bool
) -> list[str]:
    """Say that a gate is missing, or that it refused what was promoted all the same."""
    if not reports:
        return [f"{manifest.address}: expected a gate report on its content, found none"]
    if promoted and not any(sealed_report.report.passed for sealed_report in reports):
        failures = reports[-1].report.failures
        expected = f"{manifest.address}: expected a passing gate report"
        return [f"{expected}, found {reports[-1].address}: {failures[0].sentence}"]
    return []


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
