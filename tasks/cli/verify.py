"""`headrace verify`: recompute digests, gates, decisions and the ledger of a release, offline."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.adapters.chain import (
    SEALED_IN_THE_NAME,
    mentions,
    read_payload,
    read_request,
    reports_by_content,
    sealed,
    sealed_in_the_name,
    walk,
)
from tasks.cli.artifact_proof import (
    Findings,
    address_of,
    artifact_findings,
    unsealed_problems,
)
from tasks.cli.gate_proof import gate_findings, report_findings
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
from tasks.contracts.requests import STABLE
from tasks.contracts.stages import STAGE_FACTS, ArtifactKind

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from tasks.adapters.artifact_store import ArtifactStore
    from tasks.cli.console import Console
    from tasks.cli.ledgers import ReleaseName
    from tasks.contracts.artifacts import Address, Manifest
    from tasks.contracts.requests import ReleaseRequest
    from tasks.rollout.ledger import LedgerEntry
    from tasks.rollout.state import ModelState

MAX_SHOWN = 20
GATED_KINDS = frozenset(facts.produces for facts in STAGE_FACTS.values() if facts.gated)
OF_THE_CHAMPION = frozenset({"champion", "champion_events"})  # inputs that a request pins
LISTED_KINDS = (*SEALED_IN_THE_NAME, ArtifactKind.RELEASE_REQUEST)


@dataclass(kw_only=True)
class Verdict(Findings):
    """What was looked at and what is wrong with it."""

    artifacts: int = 0
    size: int = 0
    gates: int = 0
    entries: int = 0


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
    looked += "; it is what serves now" if options.release == STABLE else ""
    name = f"release {release.release_number} ({release.release_id})"
    if not verdict.problems:
        console.say(f"{name} verified: {looked}")
    else:
        console.say(f"{name} NOT verified: {len(verdict.problems)} problems; {looked}")
    _say(console, verdict.problems)
    _say(console, [f"note: {note}" for note in verdict.notes])
    return int(ExitCode.GATE_REFUSED if verdict.problems else ExitCode.DONE)


def _say(console: Console, sentences: Sequence[str]) -> None:
    for sentence in sentences[:MAX_SHOWN]:
        console.say(f"  - {sentence}")
    if len(sentences) > MAX_SHOWN:
        console.say(f"  (+{len(sentences) - MAX_SHOWN} more)")


def _release(state: ModelState, name: str) -> ReleaseName:
    entries = readable_entries(state)
    if name != STABLE:
        return named(entries, name, state.model)
    stable = state.peek().stable
    if stable is None:
        message = (
            f"{state.model}: expected a release that serves, found none; `headrace verify NUMBER "
            f"--model {state.model}` verifies one of the ledger"
        )
        raise BadRequestError(message)
    return named(entries, stable.release_id, state.model)


def verify_release(store: ArtifactStore, state: ModelState, release: ReleaseName) -> Verdict:
    """Return everything that is wrong with a release, each with the file or field."""
    verdict = Verdict()
    entries = readable_entries(state)
    verdict.entries = len(entries)
    verdict.problems += state_and_ledger_problems(store, state, entries)
    about = [entry for entry in entries if entry.release_id == release.release_id]
    starts = _starts(store, release, about)
    seen = walk(store, starts.all)
    verdict.problems += starts.problems + seen.problems
    _verify_artifacts(store, seen.found, about, verdict)
    _verify_gates(store, seen.found, starts, about, verdict)
    steps = _steps(store, seen.found)
    verdict.problems += unproved_decisions(about, seen.found.values(), steps)
    verdict.problems = list(dict.fromkeys(verdict.problems))
    verdict.notes = list(dict.fromkeys(verdict.notes))
    return verdict


def _verify_artifacts(
    store: ArtifactStore,
    found: Mapping[Address, Manifest],
    about: Sequence[LedgerEntry],
    verdict: Verdict,
) -> None:
    for manifest in found.values():
        verdict.add(artifact_findings(store, manifest))
        verdict.problems += record_against_ledger(store, manifest, about)
        verdict.problems += verdict_problems(store, manifest, about)
        verdict.artifacts += 1
        verdict.size += manifest.size


def _verify_gates(
    store: ArtifactStore,
    found: Mapping[Address, Manifest],
    starts: _Starts,
    about: Sequence[LedgerEntry],
    verdict: Verdict,
) -> None:
    reports, unreadable = reports_by_content(store)
    verdict.problems += unreadable
    promoted = any(entry.kind in {"promoted", "hotfixed"} for entry in about)
    gated = [manifest for manifest in found.values() if manifest.kind in GATED_KINDS]
    made_here = _made_here(found, starts.own)
    for manifest in gated:
        on_it = reports.get(manifest.content, [])
        requests = starts.requests if manifest.address in made_here else []
        verdict.add(gate_findings(manifest, on_it, requests, promoted=promoted))
        for one in on_it:
            verdict.add(report_findings(store, one))
        verdict.gates += 1
    contents = {manifest.content for manifest in gated}
    verdict.problems += unsealed_problems(store, (ArtifactKind.GATE_REPORT,), "content", contents)


def _made_here(found: Mapping[Address, Manifest], own: Sequence[Address]) -> set[Address]:
    """Return what the release itself was made of: not what only its champion was made of."""
    made: set[Address] = set()
    waiting = [address for address in own if address in found]
    while waiting:
        address = waiting.pop()
        if address not in made:
            made.add(address)
            for name, item in found[address].inputs.items():
                made_from = address_of(item.address)
                if name not in OF_THE_CHAMPION and made_from is not None and made_from in found:
                    waiting.append(made_from)
    return made


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


_RESERVATIONS = frozenset({"slot_reserved", "hotfix_reserved"})


@dataclass(kw_only=True)
class _Starts:
    """Where to walk from: what the ledger mentions, and what is the release's own of it."""

    mentioned: list[Address]
    own: list[Address] = field(default_factory=list)
    requests: list[ReleaseRequest] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[Address]:
        """Return them all."""
        return [*self.mentioned, *self.own]


def _starts(store: ArtifactStore, release: ReleaseName, about: Sequence[LedgerEntry]) -> _Starts:
    """Return where to walk from: what the ledger mentions and what was sealed in its name."""
    starts = _Starts(mentioned=_mentioned(about))
    in_its_slot = _mentioned([entry for entry in about if entry.kind in _RESERVATIONS])
    ours, starts.problems = sealed_in_the_name(store, {release.release_id})
    starts.own += [*in_its_slot, *ours]
    promoted = any(entry.kind == "promoted" for entry in about)
    if promoted and not any(address.kind is ArtifactKind.RELEASE for address in ours):
        starts.problems.append(
            f"{release.release_id}: expected a sealed {ArtifactKind.RELEASE.value} for what the "
            "ledger calls promoted, found none"
        )
    own_id = {release.release_id}
    starts.problems += unsealed_problems(store, LISTED_KINDS, "release_id", own_id)
    _add_requests(store, release, starts)
    # A hotfix is a bundle of another release: that one has the request.
    if not starts.requests and not any(entry.kind == "hotfix_reserved" for entry in about):
        starts.problems.append(
            f"{release.release_id}: expected its sealed release request, found none"
        )
    return starts


def _mentioned(entries: Sequence[LedgerEntry]) -> list[Address]:
    return sorted({found for entry in entries for found in mentions(dict(entry.details))}, key=str)


def _add_requests(store: ArtifactStore, release: ReleaseName, starts: _Starts) -> None:
    for address in sealed(store, ArtifactKind.RELEASE_REQUEST):
        try:
            request = read_request(store, address)
        except (HeadraceError, OSError) as error:
            starts.problems.append(f"{address}: {error}")
            continue
        if request.release_id == release.release_id:
            starts.own.append(address)
            starts.requests.append(request)
