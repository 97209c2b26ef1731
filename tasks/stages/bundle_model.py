"""CompressedModel -> ServingBundle: SavedModels that TensorFlow Serving loads, with certificate."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tasks.bundling.bundle import WARMUP_BATCHES, read_source, write_bundle
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
    source = read_source(context.inputs["model"].path)
    certificate = write_bundle(source, context.out, context.progress)
    return Outcome(
        sentence=f"{certificate['agreeing']} of {certificate['requests']} golden users get torch's "
        f"top 10, worst score difference {certificate['worst_score_difference']}"
    )
