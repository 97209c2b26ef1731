"""Any artifact -> GateReport: Great Expectations with the release's bounds, one readable page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tasks.adapters.artifact_store import ArtifactStore
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.artifacts import Address
from tasks.contracts.json_types import Json
from tasks.contracts.stage_io import Outcome, StageContext, StageInput
from tasks.contracts.stages import ArtifactKind
from tasks.gates.bounds import (
    LAST_RUN,
    MADE_FROM,
    bounds_for,
    configuration,
    last_run,
    made_from,
)

READS: Mapping[str, ArtifactKind] = MappingProxyType(
    {"artifact": ArtifactKind.GATE_REPORT}  # stands for any kind: nothing reads a report as input
)
GATED: frozenset[str] = frozenset()
PRODUCES = ArtifactKind.GATE_REPORT


def configure(context: StageContext) -> dict[str, Json]:
    """Return the bounds, and the addresses of the events that the artifact is held against."""
    return configuration(context.inputs["artifact"].manifest, context.the_release())


def run(context: StageContext) -> Outcome:
    """Write the report; a refusal is sealed like any verdict."""
    # Seconds of pandas and Great Expectations: not where a sealed report answers.
    from tasks.gates.checks import Payload  # noqa: PLC0415
    from tasks.gates.run_gate import run_gate, write_report  # noqa: PLC0415

    artifact = context.inputs["artifact"]
    kind = artifact.manifest.kind
    context.progress(f"looking at {kind.value}", None)
    report = run_gate(
        kind,
        bounds_for(kind, context.the_release()),
        Payload(path=artifact.path, compared=_compared(context, artifact)),
        artifact=artifact.address,
        content=artifact.manifest.content,
    )
    write_report(report, context.out)
    facts: dict[str, Json] = {
        "checks": len(report.checks),
        "failed": len(report.failures),
        "warned": len(report.warnings),
    }
    return Outcome(sentence=report.sentence, facts=facts, refused=not report.passed)


def _compared(context: StageContext, artifact: StageInput) -> dict[str, Path]:
    release = context.the_release()
    wanted = {
        LAST_RUN: last_run(artifact.manifest, release),
        MADE_FROM: made_from(artifact.manifest),
    }
    store = ArtifactStore(ObjectStore(context.store_url), cache=context.work / "compared")
    return {
        role: store.fetch(store.manifest(Address.parse(address)))
        for role, address in wanted.items()
        if address is not None and address != artifact.address
    }
