"""The trigger form that `headrace release` makes of its options."""

from __future__ import annotations

import pytest

from tasks.cli.options import build_parser
from tasks.cli.release import form_of
from tasks.cli.release_flow import Form
from tasks.contracts.errors import BadRequestError


def form(*words: str) -> Form:
    return form_of(build_parser().parse_args(["release", *words]))


def test_what_is_not_said_comes_from_the_data_set() -> None:
    events, pictures = form(), form("--dataset", "fashion-mnist")
    assert (events.dag, events.model, events.recipe, events.plan) == (
        "release_recommender",
        "recommender",
        "blended_transformer",
        "replay",
    )
    assert (pictures.dag, pictures.model, pictures.recipe, pictures.plan) == (
        "release_classifier",
        "classifier",
        "residual_picture_net",
        "replay-pictures",
    )


@pytest.mark.parametrize(
    ("words", "recipe"),
    ((("--approval",), "popularity"), (("--dataset", "fashion-mnist"), "majority_class")),
)
def test_the_opponent_is_the_simplest_of_its_kind_and_asks_nobody(
    words: tuple[str, ...], recipe: str
) -> None:
    first = form(*words).first()
    assert (first.recipe, first.approval) == (recipe, False)


@pytest.mark.parametrize(
    ("dataset", "recipe"),
    (("fashion-mnist", "popularity"), ("complete-journey", "residual_picture_net")),
)
def test_a_recipe_of_the_other_material_is_refused(dataset: str, recipe: str) -> None:
    with pytest.raises(BadRequestError, match=f"for --dataset {dataset}, found {recipe}"):
        form("--dataset", dataset, "--recipe", recipe)
