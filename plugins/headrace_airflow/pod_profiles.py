"""Stage -> image, resources, node pool, longest run: one table for both runtimes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType

from headrace_airflow.compute_profiles import (
    STEERING,
    ComputeProfile,
    ProfileName,
    StageCompute,
)
from tasks.contracts.errors import BadRequestError
from tasks.contracts.stages import STAGE_FACTS, Image, Stage

CUDA_IMAGES = frozenset({Image.TORCH})  # those that `make images VARIANT=cuda` can make
MAX_RANKS = 64  # beyond what is sensible for plain pods
RANKED_STAGES = frozenset({Stage.TRAIN_MODEL})  # those that share their work between ranks
_CPU_ONLY = (ProfileName.CPU,)
_TRAINS = (ProfileName.CPU, ProfileName.GPU_TRAIN, ProfileName.SPOT_GPU)
_MEASURES = (*_TRAINS, ProfileName.GPU_SERVE)  # also on what serves, since it compares speeds


@dataclass(frozen=True, kw_only=True)
class PodProfile:
    """What one stage needs and where it may run; the local runtime obeys only `longest_run`."""

    cpu_cores: float
    memory_gib: float
    longest_run: timedelta
    profile: ProfileName = ProfileName.CPU
    may_use: tuple[ProfileName, ...] = _CPU_ONLY
    ranks: int = 1  # pods that work together, each with these amounts
    priority_class: str | None = None  # None: its pool's, behind its pool's queue

    def __post_init__(self) -> None:
        """Refuse a stage that runs where it may not, or for no time."""
        if self.profile not in self.may_use:
            message = (
                f"PodProfile: expected one of {[name.value for name in self.may_use]}, "
                f"found {self.profile.value!r}"
            )
            raise BadRequestError(message)
        if self.longest_run <= timedelta(0):
            message = f"PodProfile: expected longest_run > 0, found {self.longest_run}"
            raise BadRequestError(message)

    def compute(self, profiles: Mapping[ProfileName, ComputeProfile]) -> StageCompute:
        """Return what the stage's pod gets; amounts that its pool cannot hold are refused."""
        return StageCompute(
            profile=profiles[self.profile],
            cpu_cores=self.cpu_cores,
            memory_gib=self.memory_gib,
            priority_class=self.priority_class,
        )


_SMALL = PodProfile(cpu_cores=0.5, memory_gib=1, longest_run=timedelta(minutes=10))
_DATA = PodProfile(cpu_cores=2, memory_gib=8, longest_run=timedelta(hours=2))
_TRAIN = PodProfile(cpu_cores=4, memory_gib=16, longest_run=timedelta(hours=12), may_use=_TRAINS)
_COMPRESS = PodProfile(cpu_cores=2, memory_gib=8, longest_run=timedelta(hours=2), may_use=_MEASURES)
_SERVE = PodProfile(cpu_cores=2, memory_gib=8, longest_run=timedelta(hours=2))
_STEER = replace(_SMALL, priority_class=STEERING)

POD_PROFILES: Mapping[Stage, PodProfile] = MappingProxyType(
    {
        Stage.REQUEST_RELEASE: _SMALL,
        Stage.INGEST_EVENTS: _DATA,
        Stage.BUILD_FEATURES: _DATA,
        Stage.TRAIN_MODEL: _TRAIN,
        Stage.COMPRESS_MODEL: _COMPRESS,
        Stage.BUNDLE_MODEL: _SERVE,
        Stage.EVALUATE_MODEL: _SERVE,
        Stage.STAGE_BUNDLE: _SERVE,
        Stage.SHIFT_TRAFFIC: _STEER,
        Stage.JUDGE_STEP: _STEER,
        Stage.PROMOTE_RELEASE: _STEER,
        Stage.ROLL_BACK_RELEASE: _STEER,
        Stage.HOTFIX_STABLE: replace(_SERVE, priority_class=STEERING),
        Stage.MIRROR_RELEASE: _SMALL,
        Stage.GATE_ARTIFACT: _DATA,
    }
)


def demand_ranks(stage: Stage, ranks: int) -> None:
    """Refuse several pods for a stage that does not share its work, and numbers of pods beyond sense."""
    most = MAX_RANKS if stage in RANKED_STAGES else 1
    if 1 <= ranks <= most:
        return
    message = (
        f"{stage.value}: expected ranks=1, or 2 to {MAX_RANKS} for "
        f"{sorted(one.value for one in RANKED_STAGES)}, found ranks={ranks}"
    )
    raise BadRequestError(message)


def image_of(stage: Stage) -> Image:
    """Return the image that holds the stage's one heavy dependency."""
    return STAGE_FACTS[stage].image


def image_name(stage: Stage, profile: ComputeProfile) -> str:
    """Return the image's name: its CUDA variant where the profile has GPUs."""
    image = image_of(stage)
    if not profile.gpus:
        return image.value
    if image not in CUDA_IMAGES:
        message = (
            f"{stage.value} on {profile.name}: expected an image with a CUDA variant "
            f"{sorted(one.value for one in CUDA_IMAGES)}, found {image.value!r}; use profile cpu"
        )
        raise BadRequestError(message)
    return f"{image.value}-cuda"
