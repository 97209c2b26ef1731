"""The bounds of every gate on one page: what a release demands of each kind of artifact.

Fields without a default are what the release request pins; those with one belong to the code.
Standard library only: a gate whose report is sealed already is answered without pandas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, cast

from tasks.contracts.artifacts import Manifest
from tasks.contracts.catalogues import Material
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json
from tasks.contracts.requests import ReleaseRequest
from tasks.contracts.stages import ArtifactKind
from tasks.gates.picture_bounds import PICTURE_BOUNDS

LAST_RUN = "last_run"  # role of the events that the champion was made from
MADE_FROM = "made_from"  # role of the events that a feature set was made from


@dataclass(frozen=True, kw_only=True)
class EventBounds:
    """Bounds on events; where a number is not obvious, why it is what it is."""

    as_of: str
    min_events: int = 100
    max_left_out_share: float = 0.2
    max_duplicate_share: float = 0.01
    # A hole in the export, not a quiet day: real days of four sets stay above .48 of the median.
    min_day_share: float = 0.2
    min_typical_day: int = 50  # below it an empty day is no surprise
    usual_closures: tuple[str, ...] = ("12-25", "01-01")  # month-day on which shops are shut
    max_day_change: float = 0.05  # of a day that the last run had too
    max_volume_change: float = 3.0  # typical new day against the last run's, either way
    max_copied_basket_share: float = 0.02  # or three times what is usual within training
    min_catalogue_share: float = 0.95  # of events, on items of the catalogue
    min_titled_share: float = 0.98
    min_category_lift: float = 1.3  # shuffled catalogues reach 1.13, real ones start at 1.9
    min_pairs: int = 2000  # of neighbours, for the lift to be steady
    max_retitled_share: float = 0.05  # of items that the last run had too
    min_used_share: float = 0.5  # of events with a value: such a column was used by the last run
    max_emptied_share: float = 0.1  # of that share: below it the column has gone


@dataclass(frozen=True, kw_only=True)
class FeatureBounds:
    """Bounds on features."""

    min_items: int = 20
    min_users: int = 20
    min_examples: int = 20  # in each of the periods after training
    # Of later events, on items of the vocabulary: small samples of big shops reach 0.12.
    min_known_share: float = 0.05
    usual_known_share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class TrainingBounds:
    """Bounds on a trained model."""

    recipe: str
    max_loss_rebound: float = 1.2  # last loss over the lowest: above it training diverged
    min_blend_weight: float = 0.02  # of the network, or it was trained for nothing


@dataclass(frozen=True, kw_only=True)
class CompressionBounds:
    """Bounds on a compressed model."""

    recipe: str
    compression: str
    max_ratio: float = 0.30  # of the fp32 weights' bytes
    min_fp32_bytes: int = 1_000_000  # below it there is nothing worth saving
    min_overlap: float = 0.9  # of the top 10 before and after
    min_golden_requests: int = 100


@dataclass(frozen=True, kw_only=True)
class BundleBounds:
    """Bounds on a serving bundle."""

    compression: str
    max_ratio: float = 0.30  # of the fp32 SavedModel's bytes
    min_fp32_bytes: int = 1_000_000
    min_agreement: float = 499 / 500  # of users, top 10 against the compressed torch model
    max_score_difference: float = 1e-3  # between torch and TensorFlow
    min_golden_requests: int = 100


@dataclass(frozen=True, kw_only=True)
class EvaluationBounds:
    """What a release demands of its candidate."""

    recipe: str
    has_champion: bool
    margin: float
    slice_margin: float
    alpha: float
    max_standard_error_share: float
    min_users: int = 30


@dataclass(frozen=True, kw_only=True)
class SlotBounds:
    """Bounds on a staged slot; without a stable release the latency bound is absolute."""

    max_latency_ratio: float
    min_latency_bound_ms: float
    max_first_p99_ms: float = 500.0
    # As in the parity certificate: a user whom TensorFlow answers otherwise than torch.
    max_wrong_share: float = 1 / 500
    min_golden_requests: int = 100


@dataclass(frozen=True, kw_only=True)
class StepBounds:
    """The traffic plan, as the release pinned it."""

    shares: tuple[int, ...]  # basis points of each step
    judgements: tuple[str, ...]
    min_users: tuple[int, ...]
    max_error_ratio: float
    max_latency_ratio: float
    min_latency_bound_ms: float
    sample_ratio_alpha: float
    hypothesis: str
    margin: float


def _of_validated_events(release: ReleaseRequest) -> EventBounds:
    """Return the bounds for a release: nothing may have happened after its as-of time."""
    return EventBounds(as_of=release.as_of)


def _of_feature_set(_release: ReleaseRequest) -> FeatureBounds:
    """Return the bounds, equal for every release."""
    return FeatureBounds()


def _of_trained_model(release: ReleaseRequest) -> TrainingBounds:
    """Return the bounds for the recipe of the release."""
    return TrainingBounds(recipe=release.recipe)


def _of_compressed_model(release: ReleaseRequest) -> CompressionBounds:
    """Return the bounds for the recipes of the release."""
    return CompressionBounds(recipe=release.recipe, compression=release.compression)


def _of_serving_bundle(release: ReleaseRequest) -> BundleBounds:
    """Return the bounds for the compression of the release."""
    return BundleBounds(compression=release.compression)


def _of_evaluation(release: ReleaseRequest) -> EvaluationBounds:
    """Return the evaluation plan of the release."""
    plan = release.evaluation
    return EvaluationBounds(
        recipe=release.recipe,
        has_champion=release.champion is not None,
        margin=plan.margin,
        slice_margin=plan.slice_margin,
        alpha=plan.alpha,
        max_standard_error_share=plan.max_standard_error_share,
    )


def _of_staged_slot(release: ReleaseRequest) -> SlotBounds:
    """Return the latency bounds of the release's traffic plan."""
    return SlotBounds(
        max_latency_ratio=release.plan.max_latency_ratio,
        min_latency_bound_ms=release.plan.min_latency_bound_ms,
    )


def _of_step_verdict(release: ReleaseRequest) -> StepBounds:
    """Return the bounds of the release's traffic plan."""
    plan = release.plan
    return StepBounds(
        shares=tuple(step.share_basis_points for step in plan.steps),
        judgements=tuple(step.judgement for step in plan.steps),
        min_users=tuple(step.min_users for step in plan.steps),
        max_error_ratio=plan.max_error_ratio,
        max_latency_ratio=plan.max_latency_ratio,
        min_latency_bound_ms=plan.min_latency_bound_ms,
        sample_ratio_alpha=plan.sample_ratio_alpha,
        hypothesis=plan.hypothesis,
        margin=plan.margin,
    )


_BOUNDS: Mapping[ArtifactKind, Callable[[ReleaseRequest], Any]] = MappingProxyType(
    {
        ArtifactKind.VALIDATED_EVENTS: _of_validated_events,
        ArtifactKind.FEATURE_SET: _of_feature_set,
        ArtifactKind.TRAINED_MODEL: _of_trained_model,
        ArtifactKind.COMPRESSED_MODEL: _of_compressed_model,
        ArtifactKind.SERVING_BUNDLE: _of_serving_bundle,
        ArtifactKind.EVALUATION: _of_evaluation,
        ArtifactKind.STAGED_SLOT: _of_staged_slot,
        ArtifactKind.STEP_VERDICT: _of_step_verdict,
    }
)


def bounds_for(kind: ArtifactKind, release: ReleaseRequest) -> Any:
    """Return the bounds of `kind`, a frozen dataclass of this file, for this release."""
    if kind not in _BOUNDS:
        known = sorted(kind.value for kind in _BOUNDS)
        message = f"gate: expected an artifact of kind {known}, found {kind.value}"
        raise BadRequestError(message)
    own = PICTURE_BOUNDS if release.material is Material.PICTURES else {}
    return own.get(kind, _BOUNDS[kind])(release)


def configuration(artifact: Manifest, release: ReleaseRequest) -> dict[str, Json]:
    """Return all that a verdict depends on besides the payload and the code of the gate."""
    bounds = asdict(bounds_for(artifact.kind, release))
    return {
        "kind": artifact.kind.value,
        "bounds": cast("Json", bounds),
        LAST_RUN: last_run(artifact, release),
        MADE_FROM: made_from(artifact),
    }


def pinned_by_request(kind: ArtifactKind, release: ReleaseRequest) -> frozenset[str]:
    """Return the names of the bounds that the release request decides, whatever the code."""
    return frozenset(
        item.name for item in fields(bounds_for(kind, release)) if item.default is MISSING
    )


def last_run(artifact: Manifest, release: ReleaseRequest) -> str | None:
    """Return the address of the champion's events, which new events are held against."""
    if release.champion is None or artifact.kind is not ArtifactKind.VALIDATED_EVENTS:
        return None
    return release.champion.events


def made_from(artifact: Manifest) -> str | None:
    """Return the address of the events that a feature set was made from."""
    events = artifact.inputs.get("events")
    if events is None or artifact.kind is not ArtifactKind.FEATURE_SET:
        return None
    return events.address
