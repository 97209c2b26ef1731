"""Which stages may look at the rollout: the mark that rights and network rules know them by."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from tasks.contracts.stages import ROLLOUT_STAGES, Stage

ROLE_LABEL = "headrace/role"


class PodRole(StrEnum):
    """What a stage's pod is allowed beside names, store and its inputs."""

    STAGE = "stage"  # nothing
    ROLLOUT = "rollout"  # the models' state records, their slots, MLflow


POD_ROLES: Mapping[Stage, PodRole] = MappingProxyType(
    {stage: PodRole.ROLLOUT if stage in ROLLOUT_STAGES else PodRole.STAGE for stage in Stage}
)
