"""A network that reads profiles: trained, blended, kept; and refused where there is nothing to read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.contracts.errors import BadRequestError
from tasks.models.interactions import Interactions, history_batch
from tasks.models.profile_definition import (
    Attribute,
    ProfileDefinition,
    next_types_by_last_two,
    shares_in_train,
)
from tasks.models.registry import load_model, save_model
from tasks.training.make_model import Workshop, make_baselines, make_model
from tasks.training.recipes import Recipe, TransformerSettings, recipe_named

TINY = TransformerSettings(
    steps=4, width=8, layers=1, max_epochs=2, batch_windows=32, negatives=8, profile=True
)


def definition(known: Interactions, *labels: str) -> ProfileDefinition:
    """As many items in a row for each label; a set without labels has no attribute."""
    places = np.arange(known.num_items)
    codes = np.asarray([0, *(1 + places * len(labels) // known.num_items)], np.int16)
    found = {}
    if labels:
        shares = shares_in_train(known, codes, len(labels))
        found["category"] = Attribute(labels=labels, codes=codes, shares=shares)
    return ProfileDefinition(
        attributes=found,
        next_types=next_types_by_last_two(known),
        price_bounds=np.zeros(0),
        prior_events=5.0,
        timed=True,
    )


def workshop(
    known: Interactions, recipe: Recipe, folder: Path, profiles: ProfileDefinition | None
) -> Workshop:
    return Workshop(
        interactions=known,
        recipe=recipe,
        seed=1,
        checkpoints=folder,
        progress=lambda _sentence, _fraction: None,
        profiles=profiles,
    )


@pytest.mark.parametrize("name", ("profiled_transformer", "blended_transformer"))
def test_a_trained_network_uses_the_profile_and_is_read_back_as_it_was(small_shop, tmp_path, name):
    recipe = replace(recipe_named(name, baskets=True), transformer=TINY)
    shop = workshop(small_shop, recipe, tmp_path / "ck", definition(small_shop, "left", "right"))
    made, _ = make_model(shop, make_baselines(shop))
    save_model(made.model, made.architecture, made.arguments, tmp_path)
    again = load_model(tmp_path)
    state = again.state_dict()
    (mix,) = [value for key, value in state.items() if key.endswith("profile.mix.weight")]
    assert float(mix.abs().max()) > 0
    (codes,) = [value for key, value in state.items() if key.endswith("profile.category_codes")]
    assert codes.tolist() == [0] + [1] * 6 + [2] * 6

    asked = [torch.from_numpy(one) for one in history_batch(small_shop, small_shop.examples(2), 8)]
    with torch.no_grad():
        assert torch.equal(again(*asked), made.model(*asked))


@pytest.mark.parametrize("without", ("definition", "labels"))
def test_nothing_to_read_is_refused_before_training(small_shop, tmp_path, without):
    profiles = None if without == "definition" else definition(small_shop)
    recipe = recipe_named("profiled_transformer", baskets=True)
    shop = workshop(small_shop, recipe, tmp_path, profiles)
    with pytest.raises(BadRequestError, match="expected categories, brands or prices of items"):
        make_model(shop, {})


def test_other_recipes_are_built_as_before(small_shop, tmp_path):
    recipe = replace(
        recipe_named("transformer", baskets=True), transformer=replace(TINY, profile=False)
    )
    shop = workshop(small_shop, recipe, tmp_path, definition(small_shop, "left", "right"))
    made, _ = make_model(shop, {})
    assert "profile" not in made.arguments
    assert not [name for name in made.model.state_dict() if "profile" in name]
