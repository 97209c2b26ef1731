"""A blend is a mixture of distributions."""

from __future__ import annotations

import pytest
import torch

from tasks.models.blend import PARTS, BlendedRecommender
from tasks.models.item_neighbours import ItemNeighbours
from tasks.models.personal_frequency import PersonalFrequency
from tasks.models.scores import share
from tasks.models.transformer import Transformer


@pytest.fixture
def blend() -> BlendedRecommender:
    torch.manual_seed(0)
    markov = ItemNeighbours(5, neighbours=2, last_items=8)
    markov.neighbours.copy_(torch.randint(1, 6, (6, 2)))
    markov.weights.copy_(torch.rand(6, 2))
    network = Transformer(5, steps=3, width=8, layers=1, heads=2, dropout=0.0)
    made = BlendedRecommender(5, PersonalFrequency(5), markov, network).eval()
    made.popularity.copy_(torch.tensor([0.0, 0.4, 0.3, 0.2, 0.1, 0.0]))
    return made


ITEMS = torch.tensor([[0, 1, 4], [2, 2, 3]])
AGO = torch.tensor([[0, 2, 1], [3, 2, 1]])


def test_every_part_is_a_distribution_over_items(blend):
    parts = blend.parts(ITEMS, AGO)

    assert len(parts) == len(PARTS)
    for part in parts:
        assert part.sum(dim=1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
        assert bool((part >= 0).all())


@pytest.mark.parametrize("place", range(len(PARTS)), ids=PARTS)
def test_a_weight_of_one_beside_zeros_gives_that_part_alone(blend, place):
    blend.weights.copy_(torch.eye(len(PARTS))[place])

    scores = blend(ITEMS, AGO)

    assert torch.allclose(scores[:, 1:], blend.parts(ITEMS, AGO)[place][:, 1:])


def test_padding_is_far_below_everything(blend):
    scores = blend(ITEMS, AGO)

    assert scores.argmin(dim=1).tolist() == [0, 0]


def test_unknown_items_age_habits_and_leave_the_network_no_empty_steps(blend):
    blend.transformer = Transformer(
        5, steps=3, width=8, layers=1, heads=2, dropout=0.0, event_types=True
    ).eval()
    late, types = torch.tensor([[0, 5, 3], [9, 4, 4]]), torch.tensor([[0, 1, 2], [4, 3, 1]])
    as_trained = torch.tensor([[0, 2, 1], [2, 1, 1]])
    asked, network = (ITEMS, as_trained, types), blend.transformer

    frequency, markov, transformer, _ = blend.parts(ITEMS, late, types)

    assert torch.equal(frequency, share(blend.frequency.counts(ITEMS, late)))
    assert torch.equal(markov, share(blend.markov.neighbour_sums(ITEMS, late)))
    assert torch.allclose(transformer, torch.softmax(network(*asked), dim=1), atol=1e-6)
    assert torch.allclose(blend.embed(ITEMS, late, types), network.embed(*asked), atol=1e-6)
    assert torch.allclose(blend.next_types(ITEMS, late, types), network.next_types(*asked))
