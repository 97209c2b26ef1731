"""CompressedModel -> ServingBundle: SavedModels that TensorFlow Serving loads, with certificate."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tasks.bundling.bundle import WARMUP_BATCHES, read_source, write_bundle
from tasks.bundling.classifier_bundle import read_classifier, write_classifier_bundle
from tasks.contracts.catalogues import Material
from tasks.contracts.json_types import Json
from tasks.contracts.stage_io import Outcome, StageContext
from tasks.contracts.stages import ArtifactKind

READS: Mapping[str, ArtifactKind] = MappingProxyType({"model": ArtifactKind.COMPRESSED_MODEL})
GATED: frozenset[str] = frozenset({"model"})
PRODUCES = ArtifactKind.SERVING_BUNDLE


def configure(_context: StageContext) -> dict[str, Json]:
    """Return what the bundle depends on besides the compressed model."""
    return {"warmup_batches": list(WARMUP_BATCHES)}


def run(context: StageContext) -> Outcome:
    """Write the bundle."""
    if context.the_release().material is Material.PICTURES:
        return _bundle_classifier(context)
    source = read_source(context.inputs["model"].path)
    certificate = write_bundle(source, context.out, context.progress)
    return Outcome(
        sentence=f"{certificate['agreeing']} of {certificate['requests']} golden users get torch's "
        f"top 10, worst score difference {certificate['worst_score_difference']}"
    )


def _bundle_classifier(context: StageContext) -> Outcome:
    source = read_classifier(context.inputs["model"].path)
    certificate = write_classifier_bundle(source, context.out, context.progress)
    return Outcome(
        sentence=f"{certificate['agreeing']} of {certificate['requests']} golden pictures get the "
        f"trained model's classes, worst score difference {certificate['worst_score_difference']}"
    )
