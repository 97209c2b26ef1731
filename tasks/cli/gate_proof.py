"""Proof of gates: each report itself, and whether it holds what this very release demands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from tasks.adapters.chain import SealedReport, inputs_of, reference_problems
from tasks.cli.artifact_proof import Findings, artifact_findings
from tasks.contracts.artifacts import Manifest
from tasks.contracts.code_digest import code_digest
from tasks.contracts.errors import HeadraceError
from tasks.contracts.gate_reports import GateReport
from tasks.contracts.requests import ReleaseRequest
from tasks.contracts.stages import Stage
from tasks.gates.bounds import LAST_RUN, MADE_FROM, configuration, pinned_by_request

if TYPE_CHECKING:
    from tasks.adapters.artifact_store import ArtifactStore


def report_findings(store: ArtifactStore, one: SealedReport) -> Findings:
    """Return what is wrong with a report itself, with its verdict and with what it looked at."""
    manifest = one.manifest
    looked_at, problems = inputs_of(manifest)
    found = {}
    for address, holder in looked_at:
        try:
            found[str(address)] = store.manifest(address)
        except HeadraceError as error:
            problems.append(f"{holder}{error}")
    problems += reference_problems(manifest, found)
    problems += _subject_problems(manifest, one.report)
    report = artifact_findings(store, manifest)
    report.problems += problems
    report.add(verdict_findings(one))
    return report


def _subject_problems(manifest: Manifest, report: GateReport) -> list[str]:
    """Say that a report speaks of other bytes than the gate was given."""
    subject = manifest.inputs.get("artifact")
    if manifest.stage is not Stage.GATE_ARTIFACT or subject is None:
        return [f"{manifest.address}: expected a report that gate_artifact made on an artifact"]
    if subject.content != report.content:
        where = f"{manifest.address}: report.json: field content"
        return [f"{where}: expected {subject.content}, the gate's input, found {report.content}"]
    return []


def verdict_findings(one: SealedReport) -> Findings:
    """Return the checks whose verdict does not follow from what was measured and its limits."""
    found = Findings()
    without_numbers = 0
    for place, check in enumerate(one.report.checks):
        where = f"{one.address}: report.json: checks[{place}] ({check.name})"
        try:
            recomputed = check.recomputed
        except HeadraceError as error:
            found.problems.append(f"{where}: {error}")
            continue
        if recomputed is None:  # only an older format may keep none
            without_numbers += 1
        elif recomputed is not check.passed:
            found.problems.append(
                f"{where}: field passed: expected {recomputed} from measured {check.measured} and "
                f"limits {check.limits}, found {check.passed}"
            )
    if without_numbers:
        found.notes.append(
            f"{one.address}: {without_numbers} verdicts of an older format, which keeps no "
            "numbers: they are read, not recomputed"
        )
    return found


def gate_findings(
    manifest: Manifest,
    reports: Sequence[SealedReport],
    requests: Sequence[ReleaseRequest],
    *,
    promoted: bool,
) -> Findings:
    """Say that a gate is missing, or that it refused what was promoted all the same.

    A report counts for a release where it was made under the bounds that the release's own request
    demands. `requests` is empty for the champion's artifacts, of which any passing report will do:
    the champion's own proof is another.
    """
    if not reports:
        return _problem(f"{manifest.address}: expected a gate report on its content, found none")
    ours = [one for one in reports if not _differences(manifest, one, requests)]
    if not ours:
        said = "; ".join(_differences(manifest, reports[-1], requests))
        return _problem(
            f"{manifest.address}: expected a gate report under the bounds of this release, found "
            f"{reports[-1].address}: manifest.json: {said}"
        )
    refusing = [one for one in ours if not one.report.passed]
    passed_elsewhere = not requests and len(refusing) < len(ours)
    if not promoted or not refusing or passed_elsewhere:
        return Findings()
    said = f"{refusing[-1].address}: {refusing[-1].report.failures[0].sentence}"
    expected = f"{manifest.address}: expected a passing gate report"
    if len(refusing) == len(ours) or any(_of_this_code(one) for one in refusing):
        return _problem(f"{expected}, found {said}")
    return Findings(
        notes=[f"{expected}, found one, and a refusal by other code of the gate: {said}"]
    )


def _problem(sentence: str) -> Findings:
    return Findings(problems=[sentence])


def _of_this_code(one: SealedReport) -> bool:
    return one.manifest.code == code_digest(Stage.GATE_ARTIFACT)


def _differences(
    manifest: Manifest, one: SealedReport, requests: Sequence[ReleaseRequest]
) -> list[str]:
    """Return how a report's configuration differs from what a release demands; none: it is its."""
    told: list[str] = []
    for request in requests:
        told = _from_what_is_demanded(manifest, one, request)
        if not told:
            return []
    return told


def _from_what_is_demanded(
    manifest: Manifest, one: SealedReport, request: ReleaseRequest
) -> list[str]:
    expected = cast("dict[str, Any]", json.loads(json.dumps(configuration(manifest, request))))
    found = dict(one.manifest.config)
    bounds = found.get("bounds")
    if not _of_this_code(one):  # older code of the gate did not write these down
        for role in (LAST_RUN, MADE_FROM):
            found.setdefault(role, expected[role])
    differing = _differing("config", {**expected, "bounds": None}, {**found, "bounds": None})
    if not isinstance(bounds, Mapping):
        return [*differing, f"field config.bounds: expected an object, found {bounds!r:.80}"]
    if _of_this_code(one):
        return differing + _differing("config.bounds", expected["bounds"], bounds)
    # What other code of the gate demanded beyond the request is its own business.
    pinned = pinned_by_request(manifest.kind, request)
    demanded = {name: expected["bounds"][name] for name in sorted(pinned)}
    same = {name: value for name, value in bounds.items() if name in pinned}
    return differing + _differing("config.bounds", demanded, same)


def _differing(where: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    return [
        f"field {where}.{name}: expected {expected.get(name)!r:.120}, "
        f"found {found.get(name)!r:.120}"
        for name in sorted({*expected, *found})
        if expected.get(name) != found.get(name)
    ]
