"""How much more often than the average an item is taken again by those who took it before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.models.interactions import Interactions

PRIOR = 20.0  # decayed exposures with the average rate, added to every item
DAMPING = 0.5  # power of the rate: found on the select period of the Complete Journey


def return_rates(interactions: Interactions, decay: float) -> NDArray[np.float32]:
    """Return [I + 1]: (repeats / exposure, over its mean)^DAMPING in the train period.

    An interaction k steps before its user's last train step has exposure 1 + decay + ... +
    decay^(k - 1): what it adds to the decayed counts of the later steps.
    """
    size = interactions.num_items + 1
    train = interactions.period == 0
    user = np.repeat(np.arange(interactions.num_users), np.diff(interactions.offsets))[train]
    items, step = interactions.items[train].astype(np.int64), interactions.basket[train]
    last = np.zeros(interactions.num_users, np.int64)
    np.maximum.at(last, user, step)
    again = np.ones(len(items), dtype=bool)
    again[np.unique(user * size + items, return_index=True)[1]] = False
    repeats = np.bincount(items[again], minlength=size).astype(np.float64)
    exposure = np.bincount(
        items, weights=(1 - decay ** (last[user] - step)) / (1 - decay), minlength=size
    )
    mean = max(repeats.sum(), 1.0) / max(exposure.sum(), 1.0)
    rates = (repeats + PRIOR * mean) / (exposure + PRIOR) / mean
    return (rates**DAMPING).astype(np.float32)
