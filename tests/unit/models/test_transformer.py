"""What the network may and may not see."""

from __future__ import annotations

import pytest
import torch

from tasks.models.transformer import BLOCKS, Transformer


@pytest.fixture(params=[(block, score) for block in BLOCKS for score in (None, 0.05)], ids=str)
def network(request: pytest.FixtureRequest) -> Transformer:
    block, temperature = request.param
    torch.manual_seed(0)
    return Transformer(
        9, steps=4, width=8, layers=2, heads=2, dropout=0.5, block=block, temperature=temperature
    ).eval()


def test_the_order_of_items_within_a_basket_carries_nothing(network):
    ago = torch.tensor([[2, 2, 1, 1]])
    one = network(torch.tensor([[1, 2, 3, 4]]), ago)
    other = network(torch.tensor([[2, 1, 4, 3]]), ago)

    assert torch.allclose(one, other, atol=1e-6)


def test_the_order_of_baskets_counts(network):
    items = torch.tensor([[1, 2]])
    one = network(items, torch.tensor([[2, 1]]))
    other = network(items, torch.tensor([[1, 2]]))

    assert not torch.allclose(one, other, atol=1e-4)


def test_padding_on_the_left_changes_nothing(network):
    short = network(torch.tensor([[3, 4]]), torch.tensor([[2, 1]]))
    padded = network(torch.tensor([[0, 0, 0, 3, 4]]), torch.tensor([[0, 0, 0, 2, 1]]))

    assert torch.allclose(short, padded, atol=1e-6)


def test_a_state_knows_nothing_of_later_steps(network):
    ago = torch.tensor([[3, 2, 1]])
    one = network.states(torch.tensor([[1, 2, 3]]), ago)
    other = network.states(torch.tensor([[1, 2, 7]]), ago)

    assert torch.allclose(one[:, :-1], other[:, :-1], atol=1e-6)
    assert not torch.allclose(one[:, -1], other[:, -1], atol=1e-4)


def test_shown_only_the_steps_that_there_are_the_states_are_the_same(network):
    items, ago = torch.tensor([[4, 2, 7], [0, 0, 5]]), torch.tensor([[2, 1, 1], [0, 0, 1]])
    whole = network.states(items, ago)
    shown = network.states(items, ago, steps=2)

    assert whole.shape[1] == 4
    assert shown.shape[1] == 2
    assert torch.allclose(shown[0], whole[0, -2:], atol=1e-6)
    assert torch.allclose(shown[1, -1], whole[1, -1], atol=1e-6)


def test_steps_before_the_window_are_not_seen(network):
    one = network(torch.tensor([[1, 2, 3]]), torch.tensor([[5, 2, 1]]))
    other = network(torch.tensor([[8, 2, 3]]), torch.tensor([[6, 2, 1]]))

    assert torch.allclose(one, other, atol=1e-6)


def test_an_empty_history_gets_finite_scores_and_never_padding(network):
    scores = network(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.int64))

    assert torch.isfinite(scores).all()
    assert int(scores.argmin()) == 0


def test_scores_with_a_temperature_are_cosines_over_it():
    torch.manual_seed(0)
    one = Transformer(9, steps=4, width=8, layers=1, heads=2, dropout=0.0, temperature=0.1).eval()
    items, ago = torch.tensor([[3, 4]]), torch.tensor([[2, 1]])
    state = one.embed(items, ago)

    cosines = torch.cosine_similarity(state, one.items.weight, dim=1)

    assert torch.allclose(one(items, ago)[0, 1:], 10 * cosines[1:], atol=1e-4)


def test_the_age_of_a_step_counts_in_a_transduction_unit():
    torch.manual_seed(0)
    one = Transformer(9, steps=4, width=8, layers=1, heads=2, dropout=0.0, block="hstu").eval()
    items, ago = torch.tensor([[3, 4, 5]]), torch.tensor([[3, 2, 1]])
    before = one(items, ago)

    torch.nn.init.normal_(one.blocks[0].ages.weight)

    assert not torch.allclose(before, one(items, ago), atol=1e-4)
