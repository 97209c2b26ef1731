"""`headrace verify`: recompute digests, gates, decisions and the ledger of a release, offline."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.adapters.chain import (
    mentions,
    read_payload,
    read_request,
    reports_by_content,
    sealed,
    walk,
)
from tasks.cli.artifact_proof import (
    artifact_problems,
    gate_problems,
    report_problems,
    unsealed_problems,
)
from tasks.cli.home import Home
from tasks.cli.ledgers import known_state, named, readable_entries
from tasks.cli.rollout_proof import (
    record_against_ledger,
    state_and_ledger_problems,
    unproved_decisions,
    verdict_problems,
)
from tasks.cli.stores import open_store
from tasks.contracts.errors import BadRequestError, HeadraceError
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.stages import STAGE_FACTS, ArtifactKind

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from tasks.adapters.artifact_store import ArtifactStore
    from tasks.cli.console import Console
    from tasks.cli.ledgers import ReleaseName
    from tasks.contracts.artifacts import Address, Manifest
    from tasks.rollout.ledger import LedgerEntry
    from tasks.rollout.state import ModelState

MAX_SHOWN = 20
STABLE = "stable"
GATED_KINDS = frozenset(facts.produces for facts in STAGE_FACTS.values() if facts.gated)
# Each of these says in whose name it was sealed; they are found by a listing of their kind.
SEALED_IN_THE_NAME: Mapping[ArtifactKind, str] = {
    ArtifactKind.STEP_VERDICT: "verdict.json",
    ArtifactKind.RELEASE: "release.json",
    ArtifactKind.ROLLBACK: "rollback.json",
}
LISTED_KINDS = (*SEALED_IN_THE_NAME, ArtifactKind.RELEASE_REQUEST)


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
    state = known_state(home, options.model)
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
    verdict.problems += state_and_ledger_problems(store, state, entries)
    about = [entry for entry in entries if entry.release_id == release.release_id]
    starts, problems = _starts(store, release, about)
    seen = walk(store, starts)
    verdict.problems += problems + seen.problems
    _verify_artifacts(store, seen.found, about, verdict)
    steps = _steps(store, seen.found)
    verdict.problems += unproved_decisions(about, seen.found.values(), steps)
    verdict.problems = list(dict.fromkeys(verdict.problems))
    return verdict


def _verify_artifacts(
    store: ArtifactStore,
    found: Mapping[Address, Manifest],
    about: Sequence[LedgerEntry],
    verdict: Verdict,
) -> None:
    reports, unreadable = reports_by_content(store)
    verdict.problems += unreadable
    promoted = any(entry.kind == "promoted" for entry in about)
    for manifest in found.values():
        verdict.problems += artifact_problems(store, manifest)
        verdict.problems += record_against_ledger(store, manifest, about)
        verdict.problems += verdict_problems(store, manifest, about)
        verdict.artifacts += 1
        verdict.size += manifest.size
        if manifest.kind in GATED_KINDS:
            on_it = reports.get(manifest.content, [])
            verdict.problems += gate_problems(manifest, on_it, promoted=promoted)
            verdict.problems += [p for one in on_it for p in report_problems(store, one)]
            verdict.gates += 1
    contents = {one.content for one in found.values() if one.kind in GATED_KINDS}
    verdict.problems += unsealed_problems(store, (ArtifactKind.GATE_REPORT,), "content", contents)


def _steps(store: ArtifactStore, found: Mapping[Address, Manifest]) -> dict[str, int]:
    """Return which step each sealed verdict judged; the unreadable are named elsewhere."""
    steps = {}
    for address in found:
        if address.kind is ArtifactKind.STEP_VERDICT:
            try:
                steps[str(address)] = int(str(read_payload(store, address, "verdict.json")["step"]))
            except (HeadraceError, OSError, KeyError, ValueError):
                continue
    return steps


def _starts(
    store: ArtifactStore, release: ReleaseName, about: Sequence[LedgerEntry]
) -> tuple[list[Address], list[str]]:
    """Return where to walk from: what the ledger mentions and what was sealed in its name."""
    mentioned = {address for entry in about for address in mentions(dict(entry.details))}
    starts, problems = sorted(mentioned, key=str), []
    ours = []
    for kind, name in SEALED_IN_THE_NAME.items():
        for address in sealed(store, kind):
            try:
                record = read_payload(store, address, name)
            except (HeadraceError, OSError) as error:
                problems.append(f"{address}: {error}")
                continue
            ours += [address] if record.get("release_id") == release.release_id else []
    requests, unreadable = _requests(store, release)
    promoted = any(entry.kind == "promoted" for entry in about)
    if promoted and not any(address.kind is ArtifactKind.RELEASE for address in ours):
        problems.append(
            f"{release.release_id}: expected a sealed {ArtifactKind.RELEASE.value} for what the "
            "ledger calls promoted, found none"
        )
    problems += unsealed_problems(store, LISTED_KINDS, "release_id", {release.release_id})
    return [*starts, *ours, *requests], problems + unreadable


def _requests(store: ArtifactStore, release: ReleaseName) -> tuple[list[Address], list[str]]:
    found, problems = [], []
    for address in sealed(store, ArtifactKind.RELEASE_REQUEST):
        try:
            request = read_request(store, address)
        except (HeadraceError, OSError) as error:
            problems.append(f"{address}: {error}")
            continue
        found += [address] if request.release_id == release.release_id else []
    if not found:
        problems.append(f"{release.release_id}: expected its sealed release request, found none")
    return found, problems
