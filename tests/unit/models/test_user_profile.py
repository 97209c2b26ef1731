"""Users' profiles: numpy and torch against numbers worked out by hand, and against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.contracts.columns import Period
from tasks.contracts.errors import BadRequestError
from tasks.models.behaviour_chain import count_behaviour
from tasks.models.interactions import EventRows, Interactions
from tasks.models.profile_definition import (
    PROFILE_DEFINITION_FILE,
    Attribute,
    ProfileDefinition,
    ProfileRequests,
    next_types_by_last_two,
    profile_requests,
    profiles,
    request_moments,
    shares_in_train,
)
from tasks.models.transformer import Transformer
from tasks.models.user_profile import ProfileInputs, UserProfile
from tests import golden_profile

VIEW, FAVOURITE, CART, BUY = range(4)
DAY = 86_400


def by_torch(definition: ProfileDefinition, asked: ProfileRequests) -> dict[str, np.ndarray]:
    model = UserProfile(definition)
    inputs = [torch.from_numpy(array) for array in asked.given(definition.inputs).values()]
    return {n: v.numpy() for n, v in zip(model.names, model(*inputs), strict=True)}


@pytest.mark.parametrize("answer", (profiles, by_torch), ids=("numpy", "torch"))
def test_the_golden_profiles_are_as_worked_out_by_hand(answer):
    found = answer(golden_profile.definition(), golden_profile.asked())

    for name in ("events", "steps", "recent_events"):
        assert found[name].tolist() == golden_profile.expected(name)
        assert found[name].dtype == np.int64
    for name in ("category", "brand", "price"):
        np.testing.assert_allclose(
            found[f"{name}_shares"], golden_profile.dense(name), rtol=1e-6, err_msg=name
        )
    for name in ("next_types", "days_since_last"):
        np.testing.assert_allclose(found[name], golden_profile.expected(name), rtol=1e-6)


def test_a_set_has_the_parts_that_its_items_and_events_have():
    bare = golden_profile.definition(timed=False, attributes=("brand",))
    assert bare.outputs == ("events", "steps", "brand_shares", "next_types")
    assert bare.inputs == ("items", "steps_ago", "event_types")
    assert set(by_torch(bare, golden_profile.asked())) == set(bare.outputs)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), length=st.integers(1, 9))
def test_torch_and_numpy_agree_on_any_request(seed, length):
    draw = np.random.default_rng(seed)
    shape = (5, length)
    asked = ProfileRequests(
        items=draw.integers(0, 4, shape),
        steps_ago=draw.integers(0, 9, shape),
        event_types=draw.integers(0, 5, shape),
        days_ago=draw.choice(np.asarray([-1, 0, 0.99, 1, 7, 28, 500], np.float32), shape),
    )
    definition = golden_profile.definition()
    ours, theirs = profiles(definition, asked), by_torch(definition, asked)
    assert list(ours) == list(theirs) == list(definition.outputs)
    for name, value in ours.items():
        np.testing.assert_allclose(theirs[name], value, rtol=1e-6, err_msg=name)


def two_users() -> Interactions:
    """Ann views a, puts b into the cart and buys it, then buys an unknown item; Bob buys a."""
    return Interactions.from_rows(
        EventRows(
            item_ids=np.asarray(["a", "b"]),
            user_ids=np.asarray(["ann", "bob"]),
            user=np.asarray([0, 0, 0, 0, 1, 1]),
            item=np.asarray([1, 2, 2, 0, 1, 2]),
            basket=np.asarray([0, 1, 2, 3, 0, 1]),
            event_type=np.asarray([VIEW, CART, BUY, BUY, BUY, VIEW]),
            time=np.asarray([0, 1, 3, 7, 2, 9]) * DAY,
            period=np.asarray([0, 0, 0, 2, 0, 2]),
            repeats_allowed=True,
            baskets=False,
            order_only=False,
        )
    )


def test_requests_see_what_came_before_the_step_and_when():
    known = two_users()
    examples = known.examples(Period.GATE)
    moments = request_moments(known, examples)
    # What Ann took next is unknown, and with it when: her last event's time stands for it.
    assert moments.tolist() == [3 * DAY, 9 * DAY]
    asked = profile_requests(known, examples, 4, moments)
    assert asked.items.tolist() == [[0, 1, 2, 2], [0, 0, 0, 1]]
    assert asked.steps_ago.tolist() == [[0, 3, 2, 1], [0, 0, 0, 1]]
    assert asked.event_types.tolist() == [[0, 1, 3, 4], [0, 0, 0, 4]]
    assert asked.days_ago.tolist() == [[-1, 3, 2, 0], [-1, -1, -1, 7]]


def test_a_request_after_the_last_event_has_that_events_time():
    known = two_users()
    examples = known.after_all(np.asarray([0, 1]))
    assert request_moments(known, examples).tolist() == [3 * DAY, 9 * DAY]


def test_next_types_are_the_chains_by_as_many_types_as_are_known():
    known = two_users()
    table = next_types_by_last_two(known).reshape(5, 5, 4)

    def chances(order: int, *last: str) -> list[float]:
        return list(count_behaviour(known, order).after(last).values())

    for cell, wanted in (
        (table[0, 0], chances(0)),
        (table[VIEW + 1, 0], chances(0)),
        (table[0, CART + 1], chances(1, "cart")),
        (table[VIEW + 1, CART + 1], chances(2, "view", "cart")),
        (table[CART + 1, VIEW + 1], chances(2, "cart", "view")),
    ):
        assert cell.tolist() == pytest.approx(wanted)
    assert not np.allclose(table[VIEW + 1, CART + 1], table[CART + 1, VIEW + 1])
    np.testing.assert_allclose(table.sum(axis=2), 1, rtol=1e-6)


def test_shares_are_of_the_train_period_only():
    # In train a, b, b, a; b is labelled 1, a not. Bob's later view of b is not counted.
    codes = np.asarray([0, 0, 1], np.int16)
    assert shares_in_train(two_users(), codes, 1).tolist() == [0.5, 0.5]


def test_a_definition_is_read_back_as_written_and_another_file_is_refused(tmp_path):
    path = tmp_path / PROFILE_DEFINITION_FILE
    one = golden_profile.definition()
    one.save(path)
    again = ProfileDefinition.load(path)
    assert again.outputs == one.outputs
    assert again.attributes["category"].labels == one.attributes["category"].labels
    asked = golden_profile.asked()
    for name, value in profiles(one, asked).items():
        np.testing.assert_array_equal(profiles(again, asked)[name], value)
    written = path.read_bytes()
    one.save(path)
    assert path.read_bytes() == written
    two_users().save(path)
    with pytest.raises(BadRequestError, match="expected format profile_definition/1"):
        ProfileDefinition.load(path)


@pytest.mark.parametrize("codes", ([0, 2], [0, -1]))
def test_a_code_without_a_label_is_refused(codes):
    with pytest.raises(BadRequestError, match="codes of 0 to 1 labels"):
        Attribute(
            labels=("only",),
            codes=np.asarray(codes, np.int16),
            shares=np.asarray([0.5, 0.5], np.float32),
        )


LABELS = {"category": 2, "brand": 1, "price": 3}


def inputs_of(width: int = 4) -> ProfileInputs:
    module = ProfileInputs(3, LABELS, 4.0, width)
    module.define(golden_profile.definition())
    return module


def test_what_a_network_is_given_of_a_profile_is_what_is_served_of_it():
    asked = golden_profile.asked()
    items = torch.from_numpy(asked.items)
    network = Transformer(3, steps=5, width=4, layers=1, heads=1, dropout=0.0)
    inside = network.places_of(items, torch.from_numpy(asked.steps_ago))

    served = profiles(golden_profile.definition(), asked)
    for name in LABELS:
        given_at_the_end = inputs_of().shares(name, items, inside)[:, -1]
        np.testing.assert_allclose(given_at_the_end, served[f"{name}_shares"], rtol=1e-6)


def test_a_cold_user_adds_nothing_and_a_step_sees_only_what_came_before_it():
    module = inputs_of()
    torch.nn.init.ones_(module.mix.weight)
    network = Transformer(3, steps=3, width=4, layers=1, heads=1, dropout=0.0)
    items = torch.tensor([[0, 0, 0], [1, 2, 2], [1, 1, 3]])
    ago = torch.tensor([[0, 0, 0], [3, 2, 1], [3, 2, 1]])
    mixed = module(items, network.places_of(items, ago))

    assert torch.equal(mixed[0], torch.zeros(3, 4))
    assert torch.equal(mixed[1, 0], mixed[2, 0])  # both began with the same item
    assert not torch.allclose(mixed[1, 1], mixed[2, 1])


def test_a_network_begins_as_it_would_without_profiles():
    shape = {"steps": 3, "width": 4, "layers": 1, "heads": 1, "dropout": 0.0}
    profile = {"labels": LABELS, "prior_events": 4.0}
    torch.manual_seed(0)
    plain = Transformer(3, **shape).eval()
    torch.manual_seed(0)
    profiled = Transformer(3, **shape, profile=profile).eval()
    assert profiled.profile is not None
    profiled.profile.define(golden_profile.definition())
    items, ago = torch.tensor([[1, 2, 3]]), torch.tensor([[3, 2, 1]])

    assert torch.equal(plain(items, ago), profiled(items, ago))
    torch.nn.init.normal_(profiled.profile.mix.weight)
    assert not torch.allclose(plain(items, ago), profiled(items, ago), atol=1e-3)
