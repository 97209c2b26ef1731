"""One gate: the suite of an artifact's kind, Great Expectations over it, a report of the findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tasks.contracts.gate_reports import PAGE_NAME, REPORT_NAME, GateReport
from tasks.contracts.stages import ArtifactKind
from tasks.gates import (
    classifier,
    compressed_model,
    evaluation,
    feature_set,
    pictures,
    serving_bundle,
    staged_slot,
    step_verdict,
    trained_model,
    validated_events,
)
from tasks.gates.checks import Payload, Suite
from tasks.gates.expectations import validate
from tasks.gates.picture_bounds import (
    ClassifierBounds,
    ClassifierBundleBounds,
    ClassifierCompressionBounds,
    ClassifierEvaluationBounds,
    PictureBounds,
    PictureFeatureBounds,
)
from tasks.gates.report_page import page

SUITES: Mapping[ArtifactKind, Callable[[Payload, Any], Suite]] = MappingProxyType(
    {
        ArtifactKind.VALIDATED_EVENTS: validated_events.suite,
        ArtifactKind.FEATURE_SET: feature_set.suite,
        ArtifactKind.TRAINED_MODEL: trained_model.suite,
        ArtifactKind.COMPRESSED_MODEL: compressed_model.suite,
        ArtifactKind.SERVING_BUNDLE: serving_bundle.suite,
        ArtifactKind.EVALUATION: evaluation.suite,
        ArtifactKind.STAGED_SLOT: staged_slot.suite,
        ArtifactKind.STEP_VERDICT: step_verdict.suite,
    }
)

# Of pictures: the bounds' type says so, for the kinds of artifact are the same.
PICTURE_SUITES: Mapping[type, Callable[[Payload, Any], Suite]] = MappingProxyType(
    {
        PictureBounds: pictures.validated,
        PictureFeatureBounds: pictures.features,
        ClassifierBounds: classifier.trained,
        ClassifierCompressionBounds: classifier.compressed,
        ClassifierBundleBounds: classifier.bundle,
        ClassifierEvaluationBounds: classifier.evaluation,
    }
)


def run_gate(
    kind: ArtifactKind, bounds: Any, payload: Payload, *, artifact: str, content: str
) -> GateReport:
    """Look at the payload and return what was found; nothing is written."""
    suite = PICTURE_SUITES.get(type(bounds), SUITES[kind])(payload, bounds)
    return GateReport(
        artifact=artifact,
        content=content,
        kind=kind,
        checks=validate(suite),
        figures=suite.figures,
        key_figures=dict(suite.key_figures),
        note=suite.note,
    )


def write_report(report: GateReport, folder: Path) -> None:
    """Write `report.json` and the page of it."""
    (folder / REPORT_NAME).write_text(report.to_text(), encoding="utf-8")
    (folder / PAGE_NAME).write_text(page(report), encoding="utf-8")
