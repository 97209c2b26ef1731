"""`headrace verify`: recompute digests, gates, references and the ledger of a release, offline."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.adapters.artifact_store import verify_payload
from tasks.adapters.chain import (
    SealedReport,
    inputs_of,
    mentions,
    read_payload,
    read_request,
    reference_problems,
    reports_by_content,
    sealed,
    walk,
)
from tasks.cli.home import Home
from tasks.cli.ledgers import named, readable_entries, state_of
from tasks.cli.stores import open_store
from tasks.contracts.artifacts import FACTS_NAME, MANIFEST_NAME, Address, Manifest
from tasks.contracts.errors import BadRequestError, HeadraceError
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.stages import STAGE_FACTS, ArtifactKind

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from tasks.adapters.artifact_store import ArtifactStore
    from tasks.cli.console import Console
    from tasks.cli.ledgers import ReleaseName
    from tasks.rollout.ledger import LedgerEntry
    from tasks.rollout.state import ModelState

MAX_SHOWN = 20
STABLE = "stable"
GATED_KINDS = frozenset(facts.produces for facts in STAGE_FACTS.values() if facts.gated)
# Each of these seals who was released or rolled back under this name.
ENDS: Mapping[ArtifactKind, str] = {
    ArtifactKind.RELEASE: "release.json",
    ArtifactKind.ROLLBACK: "rollback.json",
}


@dataclass(kw_only=True)
class Verdict:
    """What was looked at and what is wrong with it."""

    artifacts: int = 0
    size: int = 0
    gates: int = 0
    entries: int = 0
    problems: list[str] = field(default_factory=list)


def run(options: argparse.Namespace, console: Console) -> int:
    """Verify one release and say what was found."""
    started = time.monotonic()
    home = Home.from_environment()
    state = state_of(home, options.model)
    release = _release(state, options.release)
    verdict = verify_release(open_store(home), state, release)
    seconds = time.monotonic() - started
    looked = (
        f"{verdict.artifacts} artifacts ({verdict.size / 1e6:.1f} MB), {verdict.gates} gate "
        f"reports, {verdict.entries} ledger entries in {seconds:.1f} s"
    )
    name = f"release {release.release_number} ({release.release_id})"
    if not verdict.problems:
        console.say(f"{name} verified: {looked}")
        return int(ExitCode.DONE)
    console.say(f"{name} NOT verified: {len(verdict.problems)} problems; {looked}")
    for problem in verdict.problems[:MAX_SHOWN]:
        console.say(f"  - {problem}")
    if len(verdict.problems) > MAX_SHOWN:
        console.say(f"  (+{len(verdict.problems) - MAX_SHOWN} more)")
    return int(ExitCode.GATE_REFUSED)


def _release(state: ModelState, name: str) -> ReleaseName:
    entries = readable_entries(state)
    if name != STABLE:
        return named(entries, name, state.model)
    stable = state.peek().stable
    if stable is None:
        message = f"{state.model}: expected a release that serves, found none"
        raise BadRequestError(message)
    return named(entries, stable.release_id, state.model)


def verify_release(store: ArtifactStore, state: ModelState, release: ReleaseName) -> Verdict:
    """Return everything that is wrong with a release, each with the file or field."""
    verdict = Verdict()
    entries = readable_entries(state)
    verdict.entries = len(entries)
    verdict.problems += state.verify()
    about = [entry for entry in entries if entry.release_id == release.release_id]
    starts, problems = _starts(store, release, about)
    seen = walk(store, starts)
    verdict.problems += problems + seen.problems
    reports, unreadable = reports_by_content(store)
    verdict.problems += unreadable
    for manifest in seen.found.values():
        verdict.problems += payload_problems(store, manifest)
        verdict.artifacts += 1
        verdict.size += manifest.size
        if manifest.kind in GATED_KINDS:
            found = reports.get(manifest.content, [])
            verdict.problems += _gate_problems(manifest, found, about)
            verdict.problems += [p for one in found for p in _report_problems(store, one)]
            verdict.gates += 1
    return verdict


def _starts(
    store: ArtifactStore, release: ReleaseName, about: Sequence[LedgerEntry]
) -> tuple[list[Address], list[str]]:
    """Return where to walk from: what the ledger mentions and what was sealed in its name."""
    mentioned = {address for entry in about for address in mentions(dict(entry.details))}
    starts, problems = sorted(mentioned, key=str), []
    ends = []
    for kind, name in ENDS.items():
        for address in sealed(store, kind):
            try:
                record = read_payload(store, address, name)
            except HeadraceError as error:
                problems.append(str(error))
                continue
            ends += [address] if record.get("release_id") == release.release_id else []
    requests, unreadable = _requests(store, release)
    promoted = any(entry.kind == "promoted" for entry in about)
    if promoted and not any(address.kind is ArtifactKind.RELEASE for address in ends):
        problems.append(
            f"{release.release_id}: expected a sealed {ArtifactKind.RELEASE.value} for what the "
            "ledger calls promoted, found none"
        )
    return [*starts, *ends, *requests], problems + unreadable


def _requests(store: ArtifactStore, release: ReleaseName) -> tuple[list[Address], list[str]]:
    found, problems = [], []
    for address in sealed(store, ArtifactKind.RELEASE_REQUEST):
        try:
            request = read_request(store, address)
        except HeadraceError as error:
            problems.append(str(error))
            continue
        found += [address] if request.release_id == release.release_id else []
    if not found:
        problems.append(f"{release.release_id}: expected its sealed release request, found none")
    return found, problems


def payload_problems(store: ArtifactStore, manifest: Manifest) -> list[str]:
    """Return what differs between an artifact's files and its manifest."""
    problems = []
    try:
        verify_payload(store.fetch(manifest), manifest)
    except HeadraceError as error:
        problems.append(str(error))
    known = {f"{manifest.address}/{MANIFEST_NAME}", f"{manifest.address}/{FACTS_NAME}"}
    payload = f"{manifest.address}/{manifest.payload_folder}/"
    problems += [
        f"{manifest.address}: expected nothing beside manifest, facts and payload, found {path}"
        for path in store.objects.list(str(manifest.address))
        if path not in known and not path.startswith(payload)
    ]
    stored = store.objects.read(f"{manifest.address}/{MANIFEST_NAME}")
    if stored.decode(errors="replace") != manifest.to_text():
        problems.append(f"{manifest.address}/{MANIFEST_NAME}: is not the one text of its fields")
    return problems


def _report_problems(store: ArtifactStore, one: SealedReport) -> list[str]:
    """Return what is wrong with a report itself and with what it says it looked at."""
    manifest = store.manifest(one.address)
    looked_at, problems = inputs_of(manifest)
    found = {}
    for address, holder in looked_at:
        try:
            found[str(address)] = store.manifest(address)
        except HeadraceError as error:
            problems.append(f"{holder}{error}")
    return [*payload_problems(store, manifest), *problems, *reference_problems(manifest, found)]


def _gate_problems(
    manifest: Manifest, reports: Sequence[SealedReport], about: Sequence[LedgerEntry]
) -> list[str]:
    """Say that a gate is missing, or that it refused what was promoted all the same."""
    if not reports:
        return [f"{manifest.address}: expected a gate report on its content, found none"]
    promoted = any(entry.kind == "promoted" for entry in about)
    if promoted and not any(sealed_report.report.passed for sealed_report in reports):
        failures = reports[-1].report.failures
        expected = f"{manifest.address}: expected a passing gate report"
        return [f"{expected}, found {reports[-1].address}: {failures[0].sentence}"]
    return []
