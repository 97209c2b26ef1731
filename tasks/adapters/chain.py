"""Walk sealed artifacts: what a release was made from, and which gate reports speak of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType

from tasks.adapters.artifact_store import ArtifactStore
from tasks.contracts.artifacts import FACTS_NAME, MANIFEST_NAME, Address, Manifest
from tasks.contracts.errors import HeadraceError
from tasks.contracts.gate_reports import REPORT_NAME, GateReport
from tasks.contracts.json_types import Json, parse_object
from tasks.contracts.requests import ReleaseRequest
from tasks.contracts.stages import ArtifactKind

REQUEST_NAME = "request.json"
# Each of these says in whose name it was sealed; they are found by a listing of their kind.
SEALED_IN_THE_NAME: Mapping[ArtifactKind, str] = MappingProxyType(
    {
        ArtifactKind.STEP_VERDICT: "verdict.json",
        ArtifactKind.RELEASE: "release.json",
        ArtifactKind.ROLLBACK: "rollback.json",
        ArtifactKind.HOTFIX: "hotfix.json",
    }
)
_ADDRESS = re.compile(rf"\b(?:{'|'.join(kind.value for kind in ArtifactKind)})/[0-9a-f]{{64}}\b")


def addresses_in(text: str | bytes) -> set[Address]:
    """Return every artifact address that a text mentions."""
    plain = text.decode(errors="replace") if isinstance(text, bytes) else text
    return {Address.parse(found) for found in _ADDRESS.findall(plain)}


@dataclass(kw_only=True)
class Walk:
    """Artifacts reached from some starts, and what was wrong on the way."""

    found: dict[Address, Manifest] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def walk(store: ArtifactStore, starts: Iterable[Address]) -> Walk:
    """Follow inputs from `starts` down to raw events; problems are collected, not raised."""
    seen = Walk()
    waiting = [(address, "") for address in starts]
    while waiting:
        address, holder = waiting.pop()
        if address in seen.found:
            continue
        try:
            seen.found[address] = store.manifest(address)
        except HeadraceError as error:
            seen.problems.append(f"{holder}{error}")
            continue
        made_from, problems = inputs_of(seen.found[address])
        waiting += made_from
        seen.problems += problems
    by_address = {str(address): manifest for address, manifest in seen.found.items()}
    for manifest in seen.found.values():
        seen.problems += reference_problems(manifest, by_address)
    return seen


def inputs_of(manifest: Manifest) -> tuple[list[tuple[Address, str]], list[str]]:
    """Return the addresses of the inputs, each with the words that name who refers to it."""
    found, problems = [], []
    for name, item in sorted(manifest.inputs.items()):
        holder = f"{manifest.address}/{MANIFEST_NAME}: input {name}: "
        try:
            found.append((Address.parse(item.address), holder))
        except HeadraceError as error:
            problems.append(f"{holder}{error}")
    return found, problems


def reference_problems(manifest: Manifest, by_address: Mapping[str, Manifest]) -> list[str]:
    """Return which inputs hold other content than the manifest says."""
    return [
        f"{manifest.address}/{MANIFEST_NAME}: input {name}: expected content {item.content}, "
        f"found {by_address[item.address].content} at {item.address}"
        for name, item in sorted(manifest.inputs.items())
        if item.address in by_address and by_address[item.address].content != item.content
    ]


def sealed(store: ArtifactStore, kind: ArtifactKind) -> Iterator[Address]:
    """Yield the addresses of all sealed artifacts of a kind: a listing, not for hot paths."""
    for path in store.objects.list(kind.value):
        folder, _, name = path.rpartition("/")
        if name == MANIFEST_NAME and folder.count("/") == 1:
            yield Address.parse(folder)


def sealed_in_the_name(
    store: ArtifactStore, release_ids: AbstractSet[str]
) -> tuple[list[Address], list[str]]:
    """Return what was sealed in the name of one of these releases, and what cannot be read."""
    found, problems = [], []
    for kind, name in SEALED_IN_THE_NAME.items():
        for address in sealed(store, kind):
            try:
                record = read_payload(store, address, name)
            except (HeadraceError, OSError) as error:
                problems.append(f"{address}: {error}")
                continue
            found += [address] if record.get("release_id") in release_ids else []
    return found, problems


@dataclass(frozen=True, kw_only=True)
class SealedReport:
    """A gate report and the manifest that it is sealed with."""

    manifest: Manifest
    report: GateReport

    @property
    def address(self) -> Address:
        """Return where it is sealed."""
        return self.manifest.address


def reports_by_content(store: ArtifactStore) -> tuple[dict[str, list[SealedReport]], list[str]]:
    """Return gate reports by the content that they are about, and those that cannot be read."""
    reports: dict[str, list[SealedReport]] = {}
    problems = []
    for address in sealed(store, ArtifactKind.GATE_REPORT):
        try:
            one = read_report(store, address)
        except HeadraceError as error:
            problems.append(str(error))
            continue
        reports.setdefault(one.report.content, []).append(one)
    return reports, problems


def read_report(store: ArtifactStore, address: Address) -> SealedReport:
    """Return a sealed gate report, every byte verified."""
    manifest = store.manifest(address)
    folder = store.fetch(manifest)
    report = GateReport.parse((folder / REPORT_NAME).read_bytes(), str(address))
    return SealedReport(manifest=manifest, report=report)


def read_request(store: ArtifactStore, address: Address) -> ReleaseRequest:
    """Return a sealed release request, every byte verified."""
    folder = store.fetch(store.manifest(address))
    return ReleaseRequest.parse((folder / REQUEST_NAME).read_bytes(), str(address))


def read_payload(store: ArtifactStore, address: Address, name: str) -> dict[str, Json]:
    """Return a JSON file of an artifact, every byte verified."""
    folder = store.fetch(store.manifest(address))
    return parse_object((folder / name).read_bytes(), f"{address}/{name}")


def read_facts(store: ArtifactStore, address: Address) -> dict[str, Json]:
    """Return the times and figures outside the digest, empty where there are none."""
    try:
        return parse_object(store.objects.read(f"{address}/{FACTS_NAME}"), str(address))
    except (FileNotFoundError, HeadraceError):
        return {}


def mentions(value: object) -> set[Address]:
    """Return every artifact address inside a JSON value."""
    return addresses_in(json.dumps(value))
