"""The requests of a classifier's replay: pictures kept for canary traffic, each with its class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.columns import Period
from tasks.models.pictures import Pictures
from tasks.rollout.step_requests import StepRequests, step_ends

ORDER_SEED = 20  # pictures of one class lie together in some sets


@dataclass(frozen=True, kw_only=True)
class PictureReplay(StepRequests):
    """E pictures; each is its own user, so that it meets one variant only."""

    FORMAT: ClassVar[str] = "replay_pictures/1"

    images: NDArray[np.uint8]  # [E, H, W], 0 to 255
    labels: NDArray[np.str_]  # [E] names of classes
    rows: NDArray[np.int64]  # [E] where each lies in the feature set

    def __len__(self) -> int:
        """Return E."""
        return len(self.images)

    def user_of(self, request: int) -> str:
        """Return the picture's name."""
        return f"picture-{int(self.rows[request]):06d}"

    def body_of(self, request: int) -> bytes:
        """Return the JSON body of the predict request."""
        inputs = {"images": [self.images[request].tolist()]}
        return json.dumps({"signature_name": "serving_default", "inputs": inputs}).encode()

    def is_hit(self, request: int, body: Any) -> bool:
        """Say whether the class that is ranked first is the picture's."""
        return str(body["outputs"]["classes"][0][0]) == str(self.labels[request])


def plan_picture_replay(pictures: Pictures, shares: Sequence[float]) -> PictureReplay:
    """Return the canary period's pictures in a drawn order, the same in every run; each step gets its share."""
    rows = np.random.default_rng(ORDER_SEED).permutation(pictures.rows(Period.CANARY))
    names = np.asarray(pictures.class_names)
    return PictureReplay(
        images=pictures.images[rows],
        labels=names[pictures.labels[rows]],
        rows=rows,
        step_ends=step_ends(shares, len(rows)),
    )
