"""ValidatedEvents -> FeatureSet: vocabulary, sequences, items, users; or pictures as arrays."""

from __future__ import annotations

from types import MappingProxyType

from tasks.contracts.catalogues import Material
from tasks.contracts.json_types import Json
from tasks.contracts.stage_io import Outcome, StageContext
from tasks.contracts.stages import ArtifactKind
from tasks.features.build import build_feature_set
from tasks.features.event_log import read_profile
from tasks.features.pictures import build_pictures
from tasks.features.settings import FeatureSettings, settings_of

READS: MappingProxyType[str, ArtifactKind] = MappingProxyType(
    {"events": ArtifactKind.VALIDATED_EVENTS}
)
GATED: frozenset[str] = frozenset({"events"})
PRODUCES = ArtifactKind.FEATURE_SET


def configure(context: StageContext) -> dict[str, Json]:
    """Return the settings of the data set that the events are of."""
    if context.the_release().material is Material.PICTURES:
        return {"dtype": "uint8"}
    return _settings(context).to_json()


def run(context: StageContext) -> Outcome:
    """Build and write features."""
    if context.the_release().material is Material.PICTURES:
        return _pictures(context)
    features = build_feature_set(
        context.inputs["events"].path, _settings(context), context.work / "duckdb", context.progress
    )
    features.write(context.out)
    context.progress("features written", 1.0)
    known = features.interactions
    return Outcome(
        sentence=(
            f"{known.num_items} items, {known.num_users} users, "
            f"{len(known.items)} interactions in {len(known.step_ends)} steps"
        )
    )


def _pictures(context: StageContext) -> Outcome:
    pictures = build_pictures(context.inputs["events"].path)
    pictures.save(context.out)
    context.progress("features written", 1.0)
    classes = len(pictures.class_names)
    return Outcome(sentence=f"{len(pictures.labels)} pictures in {classes} classes")


def _settings(context: StageContext) -> FeatureSettings:
    return settings_of(str(read_profile(context.inputs["events"].path)["dataset"]))
