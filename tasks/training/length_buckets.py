"""Batches of windows of about one length: a short history does not pay for the padding of a long one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.contracts.errors import BadRequestError
from tasks.models.sequence_model import SequenceModel
from tasks.training.windows import Windows

Rows = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much of each window of a batch the network is shown: its last steps, its last items."""

    steps: int
    items: int


@dataclass(frozen=True, kw_only=True)
class LengthBuckets:
    """The windows by the number of steps they need: each bucket reaches half as far as the next."""

    steps: NDArray[np.int64]  # [W] last steps that a window needs
    items: NDArray[np.int64]  # [W] last items
    bucket: torch.Tensor  # [W]

    @classmethod
    def of(cls, windows: Windows, steps: int, count: int) -> LengthBuckets:
        """Sort windows of S `steps` into `count` buckets, which reach to S, S / 2, S / 4, .. steps."""
        needed = windows.steps_ago.max(axis=1, initial=1)
        window = np.repeat(np.arange(len(windows)), np.diff(windows.pair_offsets))
        np.maximum.at(needed, window, steps - windows.pair_place)
        reach = [steps / 2**halvings for halvings in range(count - 1, 0, -1)]
        return cls(
            steps=needed,
            items=(windows.items > 0).sum(axis=1).clip(1),
            bucket=torch.from_numpy(np.searchsorted(reach, needed)),
        )

    def arranged(
        self, order: torch.Tensor, batch_windows: int, generator: torch.Generator
    ) -> torch.Tensor:
        """Return the windows of `order` [W] so that a batch has windows of one bucket, batches in any order.

        Every window comes once. Where one bucket ends and the next begins, a batch has windows of both; the last
        batch, which may be smaller, has the longest.
        """
        by_length = order[torch.argsort(self.bucket[order], stable=True)]
        whole = len(order) // batch_windows
        batches = by_length[: whole * batch_windows].view(whole, batch_windows)
        drawn = torch.randperm(whole, generator=generator)
        return torch.cat([batches[drawn].flatten(), by_length[whole * batch_windows :]])

    def extent(self, rows: Rows) -> Extent:
        """Return the least that holds all windows of a batch."""
        return Extent(steps=int(self.steps[rows].max()), items=int(self.items[rows].max()))


def buckets_of(model: SequenceModel, windows: Windows, count: int) -> LengthBuckets | None:
    """Return the buckets that a fit batches its windows by; None for one bucket, all windows padded to the whole.

    Only states before the first item that a window holds (older ones were cut) change with what it is padded to.
    """
    if count == 1:
        return None
    if count < 1 or model.sees_empty_steps:
        message = (
            "length_buckets: expected 1, or more for a network in which empty steps do not change states after an item, "
            f"found {count} for {type(model).__name__}"
        )
        raise BadRequestError(message)
    return LengthBuckets.of(windows, model.steps, count)
