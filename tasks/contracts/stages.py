"""The flow, written once: stages in pipeline order, what each makes, and in which image."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class ArtifactKind(StrEnum):
    """Kinds of sealed artifact, in the order in which a release makes them."""

    RELEASE_REQUEST = "release_request"
    VALIDATED_EVENTS = "validated_events"
    FEATURE_SET = "feature_set"
    TRAINED_MODEL = "trained_model"
    COMPRESSED_MODEL = "compressed_model"
    SERVING_BUNDLE = "serving_bundle"
    EVALUATION = "evaluation"
    STAGED_SLOT = "staged_slot"
    TRAFFIC_STEP = "traffic_step"
    STEP_VERDICT = "step_verdict"
    RELEASE = "release"
    ROLLBACK = "rollback"
    HOTFIX = "hotfix"
    MIRROR = "mirror"
    GATE_REPORT = "gate_report"


class Image(StrEnum):
    """One container image per heavy dependency."""

    DATA = "data"
    TORCH = "torch"
    TENSORFLOW = "tensorflow"
    ROLLOUT = "rollout"


class Stage(StrEnum):
    """Stages in pipeline order; the gate, which stands after each of them, comes last."""

    REQUEST_RELEASE = "request_release"
    INGEST_EVENTS = "ingest_events"
    BUILD_FEATURES = "build_features"
    TRAIN_MODEL = "train_model"
    COMPRESS_MODEL = "compress_model"
    BUNDLE_MODEL = "bundle_model"
    EVALUATE_MODEL = "evaluate_model"
    STAGE_BUNDLE = "stage_bundle"
    SHIFT_TRAFFIC = "shift_traffic"
    JUDGE_STEP = "judge_step"
    PROMOTE_RELEASE = "promote_release"
    ROLL_BACK_RELEASE = "roll_back_release"
    HOTFIX_STABLE = "hotfix_stable"
    MIRROR_RELEASE = "mirror_release"
    GATE_ARTIFACT = "gate_artifact"


@dataclass(frozen=True, kw_only=True)
class StageFacts:
    """What everybody may know of a stage without importing it."""

    produces: ArtifactKind
    image: Image
    gated: bool  # a gate_artifact task follows it


STAGE_FACTS: MappingProxyType[Stage, StageFacts] = MappingProxyType(
    {
        Stage.REQUEST_RELEASE: StageFacts(
            produces=ArtifactKind.RELEASE_REQUEST, image=Image.ROLLOUT, gated=False
        ),
        Stage.INGEST_EVENTS: StageFacts(
            produces=ArtifactKind.VALIDATED_EVENTS, image=Image.DATA, gated=True
        ),
        Stage.BUILD_FEATURES: StageFacts(
            produces=ArtifactKind.FEATURE_SET, image=Image.DATA, gated=True
        ),
        Stage.TRAIN_MODEL: StageFacts(
            produces=ArtifactKind.TRAINED_MODEL, image=Image.TORCH, gated=True
        ),
        Stage.COMPRESS_MODEL: StageFacts(
            produces=ArtifactKind.COMPRESSED_MODEL, image=Image.TORCH, gated=True
        ),
        Stage.BUNDLE_MODEL: StageFacts(
            produces=ArtifactKind.SERVING_BUNDLE, image=Image.TENSORFLOW, gated=True
        ),
        Stage.EVALUATE_MODEL: StageFacts(
            produces=ArtifactKind.EVALUATION, image=Image.TENSORFLOW, gated=True
        ),
        Stage.STAGE_BUNDLE: StageFacts(
            produces=ArtifactKind.STAGED_SLOT, image=Image.TENSORFLOW, gated=True
        ),
        Stage.SHIFT_TRAFFIC: StageFacts(
            produces=ArtifactKind.TRAFFIC_STEP, image=Image.ROLLOUT, gated=False
        ),
        Stage.JUDGE_STEP: StageFacts(
            produces=ArtifactKind.STEP_VERDICT, image=Image.ROLLOUT, gated=True
        ),
        Stage.PROMOTE_RELEASE: StageFacts(
            produces=ArtifactKind.RELEASE, image=Image.ROLLOUT, gated=False
        ),
        Stage.ROLL_BACK_RELEASE: StageFacts(
            produces=ArtifactKind.ROLLBACK, image=Image.ROLLOUT, gated=False
        ),
        Stage.HOTFIX_STABLE: StageFacts(
            produces=ArtifactKind.HOTFIX, image=Image.TENSORFLOW, gated=False
        ),
        Stage.MIRROR_RELEASE: StageFacts(
            produces=ArtifactKind.MIRROR, image=Image.ROLLOUT, gated=False
        ),
        Stage.GATE_ARTIFACT: StageFacts(
            produces=ArtifactKind.GATE_REPORT, image=Image.DATA, gated=False
        ),
    }
)

# Those that only a person starts, in a DAG of their own: no release passes through them.
STAGES_BY_HAND = frozenset({Stage.HOTFIX_STABLE})
# Those that read or change a rollout's state record.
ROLLOUT_STAGES = frozenset(
    {
        Stage.REQUEST_RELEASE,
        Stage.STAGE_BUNDLE,
        Stage.SHIFT_TRAFFIC,
        Stage.JUDGE_STEP,
        Stage.PROMOTE_RELEASE,
        Stage.ROLL_BACK_RELEASE,
        Stage.HOTFIX_STABLE,
        Stage.MIRROR_RELEASE,
    }
)
