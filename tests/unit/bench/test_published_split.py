"""The papers' split, and what of a blend is counted again for the test."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.pictures import with_settings as with_picture_settings
from bench.published_split import (
    SELECT,
    TEST,
    beauty,
    blend_parts,
    refit,
    trained,
    with_select,
    with_settings,
)
from tasks.contracts.errors import BadRequestError
from tasks.models.blend import BlendedRecommender
from tasks.models.interactions import Interactions
from tasks.training.make_model import Workshop, make_model
from tasks.training.picture_recipes import picture_recipe_named
from tasks.training.recipes import Recipe, TransformerSettings, recipe_named

LINES = "2 30 10 20 40 50\n1 20 10 40 30\n3 10 20 30 40\n"


@pytest.fixture
def three_users(tmp_path: Path) -> Interactions:
    folder = tmp_path / "amazon-2014-5core"
    folder.mkdir()
    with gzip.open(folder / "Beauty.txt.gz", "wt") as lines:
        lines.write(LINES)
    return beauty(tmp_path)


def tiny_recipe() -> Recipe:
    recipe = recipe_named("blended_short_transformer", baskets=False)
    tiny = TransformerSettings(
        steps=4, width=8, layers=1, max_epochs=1, batch_windows=2, negatives=4
    )
    return replace(recipe, transformer=tiny)


def test_the_last_item_is_the_test_and_the_one_before_it_chooses(three_users):
    names = three_users.item_ids

    assert three_users.user_ids.tolist() == ["00001", "00002", "00003"]
    assert names[three_users.examples(TEST).targets - 1].tolist() == ["00030", "00050", "00040"]
    assert names[three_users.examples(SELECT).targets - 1].tolist() == ["00040", "00040", "00030"]
    assert three_users.period.tolist() == [0, 0, 1, 3, 0, 0, 0, 1, 3, 0, 0, 1, 3]


def test_a_blend_is_counted_again_with_the_choosing_items_and_learns_nothing_more(
    three_users, tmp_path
):
    recipe, known = tiny_recipe(), with_select(three_users)
    shop = Workshop(
        interactions=three_users,
        recipe=recipe,
        seed=1,
        checkpoints=tmp_path / "checkpoints",
        progress=lambda _sentence, _fraction: None,
    )
    made, _ = make_model(shop, blend_parts(recipe, three_users))
    model = made.model
    assert isinstance(model, BlendedRecommender)
    network = {name: value.clone() for name, value in model.transformer.state_dict().items()}
    weights, counted = model.weights.clone(), model.markov.weights.clone()

    refit(model, recipe, known)

    expected = blend_parts(recipe, known)["markov"].model
    assert torch.equal(model.markov.weights, expected.get_buffer("weights"))
    assert not torch.equal(model.markov.weights, counted)
    assert torch.equal(model.weights, weights)
    for name, value in model.transformer.state_dict().items():
        assert torch.equal(value, network[name])
    taken = np.bincount(three_users.items[three_users.period != TEST], minlength=6)
    assert model.popularity.numpy() == pytest.approx(taken / taken.sum())


def test_a_folder_of_another_seed_is_refused_and_that_of_the_same_says_where_it_goes_on(
    three_users, tmp_path, capsys
):
    _, first = trained(tiny_recipe(), three_users, 1, tmp_path / "one")
    assert "resumed from: nothing; " in first

    with pytest.raises(BadRequestError, match="seed: 2 expected, 1 found; next step: take another"):
        trained(tiny_recipe(), three_users, 2, tmp_path / "one")
    _, again = trained(tiny_recipe(), three_users, 1, tmp_path / "one")

    assert "seed 1; epoch 1 of 1 chosen" in again
    assert "resumed from: epoch 1; " in again
    assert "goes on after epoch 1, from a checkpoint" in capsys.readouterr().out


def test_settings_of_the_network_are_changed_by_name():
    changed = with_settings(
        tiny_recipe(), ["block=hstu", "temperature=0.1", "bf16=true"]
    ).transformer

    assert (changed.block, changed.temperature, changed.bf16, changed.width) == (
        "hstu",
        0.1,
        True,
        8,
    )
    with pytest.raises(SystemExit, match="expected a setting of TransformerSettings, found 'blok'"):
        with_settings(tiny_recipe(), ["blok=hstu"])


def test_settings_of_a_classifiers_fit_and_its_widths_are_changed_by_name():
    recipe = picture_recipe_named("residual_picture_net")

    changed = with_picture_settings(recipe, ["widths=[8, 16, 24]", "epochs=2"])

    assert changed.widths == (8, 16, 24)
    assert (changed.fit.epochs, changed.fit.batch) == (2, recipe.fit.batch)
    with pytest.raises(SystemExit, match="expected a setting of PictureFitSettings, found 'epoch'"):
        with_picture_settings(recipe, ["epoch=2"])
