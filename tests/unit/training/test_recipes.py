"""Recipes are named functions; the trigger form shows the same names."""

from __future__ import annotations

import json

import pytest

from tasks.contracts import catalogues
from tasks.contracts.errors import BadRequestError
from tasks.training.picture_recipes import PICTURE_RECIPES, picture_recipe_named
from tasks.training.recipes import RECIPES, recipe_named


def test_the_trigger_form_offers_exactly_the_recipes_that_exist():
    assert set(RECIPES) == set(catalogues.RECIPES)
    assert set(PICTURE_RECIPES) == set(catalogues.PICTURE_RECIPES)


@pytest.mark.parametrize("name", sorted(PICTURE_RECIPES))
def test_the_seed_is_part_of_the_key_where_something_is_drawn(name):
    recipe = picture_recipe_named(name)
    resolved = recipe.resolved(7)

    assert json.loads(json.dumps(resolved)) == resolved
    assert resolved["name"] == name
    assert (resolved != recipe.resolved(8)) is not name.endswith(("_class", "_means"))


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("baskets", (True, False), ids=["baskets", "plain sequences"])
def test_every_setting_of_a_recipe_is_part_of_the_key(name, baskets):
    resolved = recipe_named(name, baskets=baskets).resolved()

    assert json.loads(json.dumps(resolved)) == resolved
    assert resolved["name"] == name
    assert resolved["threads"] >= 1


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(BadRequestError, match=r"blended_transformer.*found 'magic'"):
        recipe_named("magic", baskets=True)
