from __future__ import annotations

from typing import Any

import pytest

from tasks.contracts.catalogues import Material, datasets_of, recipes_of
from tasks.contracts.stages import STAGE_FACTS, Stage

STAGES = [
    Stage.REQUEST_RELEASE,
    Stage.INGEST_EVENTS,
    Stage.BUILD_FEATURES,
    Stage.TRAIN_MODEL,
    Stage.COMPRESS_MODEL,
    Stage.BUNDLE_MODEL,
    Stage.EVALUATE_MODEL,
]


@pytest.fixture
def classifier(dags: dict[str, Any]) -> Any:
    return dags["release_classifier"]


def test_a_classifier_goes_through_the_stages_of_every_release_up_to_its_evaluation(
    classifier: Any,
) -> None:
    ordered = [task.call.stage for task in classifier.topological_sort()]
    assert [stage for stage in ordered if stage is not Stage.GATE_ARTIFACT] == STAGES


def test_whatever_a_gated_stage_makes_waits_for_its_gate(classifier: Any) -> None:
    for stage in STAGES[1:]:
        assert STAGE_FACTS[stage].gated
        (gate,) = classifier.get_task(stage.value).downstream_task_ids
        assert classifier.get_task(gate).call.reads == {"artifact": (stage.value,)}


def test_every_input_is_read_with_the_report_of_its_gate(classifier: Any) -> None:
    for task in classifier.tasks:
        if task.call.stage is not Stage.GATE_ARTIFACT:
            assert set(task.call.gates) == set(task.call.reads), task.task_id


def test_its_form_offers_pictures_and_their_recipes(classifier: Any) -> None:
    form = {name: classifier.params.get_param(name).schema for name in ("dataset", "recipe")}
    assert form["dataset"]["enum"] == list(datasets_of(Material.PICTURES))
    assert form["recipe"]["enum"] == list(recipes_of(Material.PICTURES))
