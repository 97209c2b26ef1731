"""Windowed Markov chain: what followed the items of the last steps, nearer steps counting more.

Counts: every pair (item in step t - d, item in step t), d = 1..window, adds 1 / d. A row is divided
by the square root of its sum and each column by a power of its popularity; the largest K of a row
are kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from tasks.models.interactions import Interactions
from tasks.models.item_neighbours import Neighbours, largest_of_rows


def transition_counts(interactions: Interactions, window: int) -> sp.csr_matrix:
    """Return [I + 1, I + 1] counts over train steps: distance d adds 1 / d."""
    train = interactions.period == 0
    user = np.repeat(np.arange(interactions.num_users), np.diff(interactions.offsets))[train]
    items = interactions.items[train]
    span = int(interactions.basket.max(initial=0)) + window + 2
    step = user * span + interactions.basket[train]
    steps, rows = np.unique(step, return_inverse=True)
    bought: Any = sp.csr_matrix(
        (np.ones(len(items), np.float32), (rows, items)),
        shape=(len(steps), interactions.num_items + 1),
    )
    later: Any = sp.csr_matrix(bought.shape, dtype=np.float32)
    for distance in range(1, window + 1):
        later = later + _shifted(steps, distance) @ bought / distance
    return (bought.T.tocsr() @ later.tocsr()).tocsr()


def _shifted(steps: NDArray[np.int64], distance: int) -> sp.csr_matrix:
    """Return [S, S]: row s picks the step of the same user that is `distance` later."""
    place = np.searchsorted(steps, steps + distance)
    inside = place < len(steps)
    found = inside & (steps[np.where(inside, place, 0)] == steps + distance)
    rows = np.flatnonzero(found)
    shape = (len(steps), len(steps))
    return sp.csr_matrix((np.ones(len(rows), np.float32), (rows, place[rows])), shape=shape)


def nearest(
    counts: sp.csr_matrix,
    popularity: NDArray[np.float64],
    neighbours: int,
    popularity_power: float,
) -> Neighbours:
    """Return the K best columns of each row and their weights, int64 and float32 [I + 1, K]."""
    sums = np.asarray(counts.sum(axis=1)).ravel()
    of_row = np.repeat(np.sqrt(np.maximum(sums, 1e-9)), np.diff(counts.indptr))
    of_column = np.maximum(popularity, 1.0) ** popularity_power
    scaled = counts.data / of_row / of_column[counts.indices]
    weights = sp.csr_matrix((scaled, counts.indices, counts.indptr), shape=counts.shape)
    return largest_of_rows(weights, neighbours)
