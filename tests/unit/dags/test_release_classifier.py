from __future__ import annotations

from typing import Any

import pytest

from tasks.contracts.catalogues import Material, datasets_of, recipes_of
from tasks.contracts.requests import DEFAULT_PLANS


@pytest.fixture
def classifier(dags: dict[str, Any]) -> Any:
    return dags["release_classifier"]


def test_a_classifier_goes_through_every_task_of_a_recommender(
    classifier: Any, dags: dict[str, Any]
) -> None:
    recommender = dags["release_recommender"]
    assert set(classifier.task_ids) == set(recommender.task_ids)
    for task in classifier.tasks:
        other = recommender.get_task(task.task_id)
        assert task.downstream_task_ids == other.downstream_task_ids
        assert task.trigger_rule == other.trigger_rule
        if hasattr(task, "call"):
            assert task.call == other.call


def test_its_form_offers_pictures_and_their_recipes(classifier: Any) -> None:
    form = {name: classifier.params.get_param(name).schema for name in ("dataset", "recipe")}
    assert form["dataset"]["enum"] == list(datasets_of(Material.PICTURES))
    assert form["recipe"]["enum"] == list(recipes_of(Material.PICTURES))
    assert classifier.params["plan"] == DEFAULT_PLANS[Material.PICTURES]
