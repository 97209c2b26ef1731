"""Windowed Markov chain: what followed the items of the last steps, nearer steps counting more.

Counts: every pair (item in step t - d, item in step t), d = 1..window, adds 1 / d. A row is divided
by the square root of its sum and each column by popularity^0.25; the largest K of a row are kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.models.interactions import Interactions
from tasks.models.scores import last_columns, padding_penalty, recency_weights, sum_by_item

ROWS_AT_A_TIME = 2000
POPULARITY_POWER = 0.25


class Markov(nn.Module):
    """Scores are sums of neighbours' weights over the last items of the history."""

    decay: Tensor
    neighbours: Tensor
    weights: Tensor
    tie_break: Tensor
    penalty: Tensor

    def __init__(self, num_items: int, neighbours: int, last_items: int) -> None:
        super().__init__()
        self.num_items = num_items
        self.last_items = last_items
        self.register_buffer("decay", torch.tensor(0.8))
        empty = torch.zeros((num_items + 1, neighbours))
        self.register_buffer("neighbours", empty.to(torch.int64))
        self.register_buffer("weights", empty)
        self.register_buffer("tie_break", torch.zeros(num_items + 1))
        self.register_buffer("penalty", padding_penalty(num_items))

    def transitions(self, items: Tensor, steps_ago: Tensor) -> Tensor:
        """Return summed transition weights float32 [B, I + 1]."""
        last, ago = last_columns(items, self.last_items), last_columns(steps_ago, self.last_items)
        weights = recency_weights(last, ago, self.decay)
        targets = self.neighbours[last].flatten(1)  # [B, L * K]
        values = (self.weights[last] * weights.unsqueeze(-1)).flatten(1)
        return sum_by_item(targets, values, self.num_items)

    def forward(self, items: Tensor, steps_ago: Tensor) -> Tensor:
        """Return scores float32 [B, I + 1] from items and steps_ago, int64 [B, L]."""
        return self.transitions(items, steps_ago) + (self.tie_break + self.penalty).unsqueeze(0)


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
    counts: sp.csr_matrix, popularity: NDArray[np.float64], neighbours: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the K best columns of each row and their weights, int64 and float32 [I + 1, K]."""
    size = counts.shape[0]
    columns = np.zeros((size, neighbours), np.int64)
    values = np.zeros((size, neighbours), np.float32)
    sums = np.asarray(counts.sum(axis=1)).ravel()
    penalty = np.maximum(popularity, 1.0) ** POPULARITY_POWER
    for row in range(size):
        start, end = counts.indptr[row], counts.indptr[row + 1]
        found = counts.indices[start:end]
        weight = counts.data[start:end] / np.sqrt(max(sums[row], 1e-9)) / penalty[found]
        order = np.lexsort((found, -weight))[:neighbours]
        columns[row, : len(order)] = found[order]
        values[row, : len(order)] = weight[order]
    return columns, values
