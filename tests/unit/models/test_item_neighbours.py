"""Neighbours of the last items, added up by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from tasks.models.item_neighbours import ItemNeighbours, largest_of_rows


def test_scores_add_up_the_neighbours_of_the_history_with_decay():
    model = ItemNeighbours(3, neighbours=2, last_items=4)
    model.decay.fill_(0.5)
    model.neighbours.copy_(torch.tensor([[0, 0], [2, 3], [3, 0], [1, 0]]))
    model.weights.copy_(torch.tensor([[0.0, 0.0], [0.4, 0.2], [1.0, 0.0], [0.8, 0.0]]))

    scores = model.neighbour_sums(torch.tensor([[0, 1, 2]]), torch.tensor([[0, 2, 1]]))

    assert scores[0, 1:].tolist() == pytest.approx([0.0, 0.5 * 0.4, 0.5 * 0.2 + 1.0])


def test_items_before_the_last_ones_are_not_looked_up():
    model = ItemNeighbours(2, neighbours=1, last_items=1)
    model.neighbours.copy_(torch.tensor([[0], [2], [1]]))
    model.weights.copy_(torch.tensor([[0.0], [1.0], [1.0]]))

    scores = model.neighbour_sums(torch.tensor([[1, 2]]), torch.tensor([[2, 1]]))

    assert scores[0, 1:].tolist() == [1.0, 0.0]


def test_the_largest_of_a_row_are_kept_and_the_lower_item_first_of_equals():
    weights = sp.csr_matrix(np.asarray([[0, 0, 0, 0], [0, 0, 2, 1], [0, 3, 0, 3], [0, 0, 0, 0]]))

    columns, values = largest_of_rows(weights, neighbours=1)

    assert columns[:, 0].tolist() == [0, 2, 1, 0]
    assert values[:, 0].tolist() == [0, 2, 3, 0]


def test_of_many_equal_weights_a_row_keeps_those_that_a_whole_sort_would():
    draw = np.random.default_rng(3)
    dense = draw.integers(0, 4, (40, 30)).astype(np.float32)  # 0: no neighbour

    columns, values = largest_of_rows(sp.csr_matrix(dense), neighbours=7)

    for row, weights in enumerate(dense):
        order = [place for place in np.argsort(-weights, kind="stable") if weights[place] > 0][:7]
        assert columns[row, : len(order)].tolist() == order
        assert values[row, : len(order)].tolist() == weights[order].tolist()
