"""Popularity asks nobody who they are."""

from __future__ import annotations

import torch

from tasks.models.popularity import Popularity


def test_every_history_gets_the_same_scores_and_padding_is_never_the_best():
    model = Popularity(3)
    model.log_counts.copy_(torch.tensor([9.0, 1.0, 3.0, 2.0]))

    scores = model(torch.tensor([[0, 1], [2, 3]]), torch.tensor([[0, 1], [2, 1]]))

    assert torch.equal(scores[0], scores[1])
    assert scores[0].argsort(descending=True).tolist() == [2, 3, 1, 0]
