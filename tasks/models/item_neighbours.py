"""Neighbours of items: what Markov chains, item-kNN and EASE are when they are served.

Each item has its K neighbours of largest weight; how weights come about is in `markov` and
`co_occurrence`.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.models.scores import last_columns, padding_penalty, recency_weights, sum_by_item

Neighbours = tuple[NDArray[np.int64], NDArray[np.float32]]  # items and weights, both [I + 1, K]


class ItemNeighbours(nn.Module):
    """Scores are sums of the neighbours' weights of the last items, older steps counting less."""

    decay: Tensor  # per step
    neighbours: Tensor  # [I + 1, K] items, 0 where there are fewer
    weights: Tensor  # [I + 1, K]
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

    def neighbour_sums(self, items: Tensor, steps_ago: Tensor) -> Tensor:
        """Return summed weights float32 [B, I + 1]."""
        last, ago = last_columns(items, self.last_items), last_columns(steps_ago, self.last_items)
        weights = recency_weights(last, ago, self.decay)
        targets = self.neighbours[last].flatten(1)  # [B, L * K]
        values = (self.weights[last] * weights.unsqueeze(-1)).flatten(1)
        return sum_by_item(targets, values, self.num_items)

    def forward(self, items: Tensor, steps_ago: Tensor) -> Tensor:
        """Return scores float32 [B, I + 1] from items and steps_ago, int64 [B, L]."""
        return self.neighbour_sums(items, steps_ago) + (self.tie_break + self.penalty).unsqueeze(0)


def largest_of_rows(weights: sp.csr_matrix, neighbours: int) -> Neighbours:
    """Return the K largest of each row; of equal ones the lower item comes first."""
    size = weights.shape[0]
    columns = np.zeros((size, neighbours), np.int64)
    values = np.zeros((size, neighbours), np.float32)
    for row in range(size):
        start, end = weights.indptr[row], weights.indptr[row + 1]
        found, weight = weights.indices[start:end], weights.data[start:end]
        if len(found) > neighbours:  # sort those only that may be among the largest
            least = np.partition(weight, -neighbours)[-neighbours]
            found, weight = found[weight >= least], weight[weight >= least]
        order = np.lexsort((found, -weight))[:neighbours]
        columns[row, : len(order)] = found[order]
        values[row, : len(order)] = weight[order]
    return columns, values
