"""Decayed counts, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from tasks.models.personal_frequency import PersonalFrequency


@pytest.fixture
def halving() -> PersonalFrequency:
    model = PersonalFrequency(3)
    model.decay.fill_(0.5)
    return model


def test_a_step_ago_counts_one_and_every_further_step_half_of_it(halving):
    items = torch.tensor([[1, 2, 1]])
    steps_ago = torch.tensor([[3, 3, 1]])

    counts = halving.counts(items, steps_ago)

    assert counts[0].tolist() == pytest.approx([0.0, 0.25 + 1.0, 0.25, 0.0])


def test_padding_on_the_left_changes_nothing(halving):
    short = halving(torch.tensor([[1, 2]]), torch.tensor([[2, 1]]))
    padded = halving(torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 0, 2, 1]]))

    assert torch.equal(short, padded)


def test_popularity_decides_only_between_items_the_user_never_took(halving):
    halving.tie_break.copy_(torch.tensor([0.0, 1e-6, 1e-4, 2e-5]))

    scores = halving(torch.tensor([[1]]), torch.tensor([[4]]))

    assert scores[0].argsort(descending=True).tolist() == [1, 2, 3, 0]
