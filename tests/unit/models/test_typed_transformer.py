"""A network that reads types: where each type may act, and what is said without them."""

from __future__ import annotations

import pytest
import torch

from tasks.contracts.errors import BadRequestError
from tasks.models.registry import build_model
from tasks.models.transformer import BLOCKS, Transformer

ITEMS = torch.tensor([[1, 2, 3, 4]])
AGO = torch.tensor([[4, 3, 2, 1]])
TYPES = torch.tensor([[1, 4, 2, 3]])
SHAPE = {"steps": 4, "width": 8, "layers": 2, "heads": 2, "dropout": 0.5}


@pytest.fixture(params=BLOCKS)
def network(request: pytest.FixtureRequest) -> Transformer:
    torch.manual_seed(0)
    return Transformer(9, **SHAPE, block=request.param, event_types=True).eval()


def test_shapes_are_those_of_a_network_without_types_and_a_chance_per_type(network):
    assert network.takes_event_types
    assert network(ITEMS, AGO, TYPES).shape == (1, 10)
    assert network.states(ITEMS, AGO, TYPES).shape == (1, 4, 8)
    chances = network.next_types(ITEMS, AGO, TYPES)
    assert chances.shape == (1, 4)
    assert float(chances.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("place", range(4))
def test_the_type_of_an_event_is_seen_from_its_own_step_on_and_never_before(network, place):
    changed = TYPES.clone()
    changed[0, place] = 0
    one, other = network.states(ITEMS, AGO, TYPES), network.states(ITEMS, AGO, changed)

    assert torch.allclose(one[:, :place], other[:, :place], atol=1e-6)
    assert not torch.allclose(one[:, place], other[:, place], atol=1e-5)


def test_the_state_that_foretells_a_step_does_not_hold_that_steps_type(network):
    # Shown one step more, the states so far stay what they were: nothing of the future was in them.
    before = network.states(ITEMS[:, :3], AGO[:, 1:], TYPES[:, :3])[:, -3:]
    after = network.states(ITEMS, AGO, TYPES)
    whole = network.states(ITEMS[:, :3], AGO[:, :3], TYPES[:, :3])

    assert torch.allclose(whole[:, :3], after[:, :3], atol=1e-6)
    assert before.shape == (1, 3, 8)


def test_the_type_of_padding_and_of_unknown_items_changes_nothing(network):
    items, ago = torch.tensor([[0, 2, 0, 4]]), torch.tensor([[0, 3, 2, 1]])
    one = network(items, ago, torch.tensor([[0, 4, 0, 3]]))
    other = network(items, ago, torch.tensor([[3, 4, 2, 3]]))

    assert torch.allclose(one, other, atol=1e-6)


def test_without_types_all_are_unknown(network):
    unknown = torch.zeros_like(ITEMS)

    assert torch.equal(network(ITEMS, AGO), network(ITEMS, AGO, unknown))
    assert torch.equal(network.next_types(ITEMS, AGO), network.next_types(ITEMS, AGO, unknown))
    assert not torch.allclose(network(ITEMS, AGO), network(ITEMS, AGO, TYPES), atol=1e-5)


def test_within_a_basket_each_type_belongs_to_its_item_and_the_order_carries_nothing(network):
    ago = torch.tensor([[2, 2, 1, 1]])
    one = network(ITEMS, ago, TYPES)
    together = network(ITEMS[:, [1, 0, 3, 2]], ago, TYPES[:, [1, 0, 3, 2]])

    assert torch.allclose(one, together, atol=1e-6)


def test_a_network_without_types_refuses_them_and_has_no_tensor_of_them():
    torch.manual_seed(0)
    plain = Transformer(9, **SHAPE).eval()

    assert not plain.takes_event_types
    assert not [name for name in plain.state_dict() if "typed" in name]
    for ask in (plain, plain.next_types):
        with pytest.raises(BadRequestError, match="expected one with event types"):
            ask(ITEMS, AGO, TYPES)


def test_a_blend_gives_the_types_to_its_network():
    torch.manual_seed(0)
    arguments = {
        "markov": {"neighbours": 4, "last_items": 4},
        "transformer": {**SHAPE, "event_types": True},
    }
    blend = build_model("blend", {"num_items": 9, **arguments}).eval()

    assert blend.takes_event_types
    assert not torch.equal(blend(ITEMS, AGO), blend(ITEMS, AGO, TYPES))
    assert torch.equal(
        blend.next_types(ITEMS, AGO, TYPES), blend.transformer.next_types(ITEMS, AGO, TYPES)
    )
