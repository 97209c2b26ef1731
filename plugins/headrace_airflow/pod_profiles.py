"""Stage -> image, resources, node pool, longest run: one table for both runtimes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from tasks.contracts.stages import STAGE_FACTS, Image, Stage


@dataclass(frozen=True, kw_only=True)
class PodProfile:
    """What one stage needs; the local runtime obeys only `longest_run`."""

    cpu_cores: float
    memory_gib: float
    node_pool: str
    longest_run: timedelta

    def __post_init__(self) -> None:
        """Refuse profiles that no node can hold."""
        if self.cpu_cores <= 0 or self.memory_gib <= 0 or not self.node_pool:
            message = (
                "PodProfile needs cpu_cores > 0, memory_gib > 0 and a node pool, "
                f"got {self.cpu_cores}, {self.memory_gib}, {self.node_pool!r}"
            )
            raise ValueError(message)


_SMALL = PodProfile(cpu_cores=0.5, memory_gib=1, node_pool="cpu", longest_run=timedelta(minutes=10))
_DATA = PodProfile(cpu_cores=2, memory_gib=8, node_pool="cpu", longest_run=timedelta(hours=2))
_TRAIN = PodProfile(cpu_cores=4, memory_gib=16, node_pool="cpu", longest_run=timedelta(hours=12))
_SERVE = PodProfile(cpu_cores=2, memory_gib=8, node_pool="cpu", longest_run=timedelta(hours=2))

POD_PROFILES: MappingProxyType[Stage, PodProfile] = MappingProxyType(
    {
        Stage.REQUEST_RELEASE: _SMALL,
        Stage.INGEST_EVENTS: _DATA,
        Stage.BUILD_FEATURES: _DATA,
        Stage.TRAIN_MODEL: _TRAIN,
        Stage.COMPRESS_MODEL: _SERVE,
        Stage.BUNDLE_MODEL: _SERVE,
        Stage.EVALUATE_MODEL: _SERVE,
        Stage.STAGE_BUNDLE: _SERVE,
        Stage.SHIFT_TRAFFIC: _SMALL,
        Stage.JUDGE_STEP: _SMALL,
        Stage.PROMOTE_RELEASE: _SMALL,
        Stage.ROLL_BACK_RELEASE: _SMALL,
        Stage.MIRROR_RELEASE: _SMALL,
        Stage.GATE_ARTIFACT: _DATA,
    }
)


def image_of(stage: Stage) -> Image:
    """Return the image that holds the stage's one heavy dependency."""
    return STAGE_FACTS[stage].image
