"""The bounds of the gates of pictures and their classifiers; standard library only, as `bounds`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tasks.contracts.requests import ReleaseRequest
from tasks.contracts.stages import ArtifactKind


@dataclass(frozen=True, kw_only=True)
class PictureBounds:
    """Bounds on validated pictures."""

    min_classes: int = 2
    min_each: int = 20  # pictures of each class in each period
    max_blank_share: float = 0.001  # of one grey only: nothing to see
    # Of later pictures that training holds byte for byte: their class would be known by heart.
    max_copied_share: float = 0.001


@dataclass(frozen=True, kw_only=True)
class PictureFeatureBounds:
    """Bounds on a feature set of pictures."""

    min_each: int = 20
    # Between the mean grey of the train period and of a later one, of 255: other cameras.
    max_grey_difference: float = 10.0


@dataclass(frozen=True, kw_only=True)
class ClassifierBounds:
    """Bounds on a trained classifier."""

    recipe: str
    max_loss_rebound: float = 1.2


@dataclass(frozen=True, kw_only=True)
class ClassifierCompressionBounds:
    """Bounds on a compressed classifier."""

    compression: str
    max_ratio: float = 0.30
    min_fp32_bytes: int = 1_000_000  # below it there is nothing worth saving
    min_same_class: float = 0.98  # of golden pictures, before and after
    min_golden_requests: int = 100


@dataclass(frozen=True, kw_only=True)
class ClassifierBundleBounds:
    """Bounds on the serving bundle of a classifier."""

    compression: str
    max_ratio: float = 0.30
    min_fp32_bytes: int = 1_000_000
    min_agreement: float = 499 / 500
    max_score_difference: float = 1e-3
    min_golden_requests: int = 100


@dataclass(frozen=True, kw_only=True)
class ClassifierEvaluationBounds:
    """What a release demands of its candidate; margins are of accuracy, absolute."""

    recipe: str
    has_champion: bool
    margin: float
    slice_margin: float  # of the pictures about one class: it is proven worse below it
    alpha: float
    min_pictures: int = 100


def _of_evaluation(release: ReleaseRequest) -> ClassifierEvaluationBounds:
    plan = release.evaluation
    return ClassifierEvaluationBounds(
        recipe=release.recipe,
        has_champion=release.champion is not None,
        margin=plan.margin,
        slice_margin=plan.slice_margin,
        alpha=plan.alpha,
    )


PICTURE_BOUNDS: Mapping[ArtifactKind, Callable[[ReleaseRequest], Any]] = MappingProxyType(
    {
        ArtifactKind.VALIDATED_EVENTS: lambda _release: PictureBounds(),
        ArtifactKind.FEATURE_SET: lambda _release: PictureFeatureBounds(),
        ArtifactKind.TRAINED_MODEL: lambda release: ClassifierBounds(recipe=release.recipe),
        ArtifactKind.COMPRESSED_MODEL: lambda release: ClassifierCompressionBounds(
            compression=release.compression
        ),
        ArtifactKind.SERVING_BUNDLE: lambda release: ClassifierBundleBounds(
            compression=release.compression
        ),
        ArtifactKind.EVALUATION: _of_evaluation,
    }
)
