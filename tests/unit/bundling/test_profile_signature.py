"""The signature `profile` of a SavedModel: the golden profiles, and what a client may leave out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.bundling.aten_export import export_module
from tasks.bundling.aten_graph import Array, AtenGraph
from tasks.bundling.golden_profiles import GoldenProfiles
from tasks.bundling.profile_parity import certify_profiles
from tasks.bundling.profile_signature import ServedProfile
from tasks.bundling.served_model import LoadedModel
from tasks.bundling.signatures import ServedModel, write_served_model
from tasks.compression.compress import compress
from tasks.compression.user_profile import profile_answers, shown_inputs
from tasks.models.profile_definition import ProfileDefinition
from tasks.models.registry import build_model
from tasks.models.user_profile import UserProfile
from tests import golden_profile

HISTORY = {"history": [["milk", "bread", "milk"]]}


def exported(
    module: torch.nn.Module, inputs: Any, names: Any
) -> tuple[AtenGraph, dict[str, Array]]:
    export = export_module(module, inputs, names)
    return export.graph, {name: value.numpy() for name, value in export.weights.items()}


def write(folder: Path, definition: ProfileDefinition) -> None:
    """Write popularity of three items with profiles beside it."""
    model = compress(build_model("popularity", {"num_items": 3}), "none")
    items = torch.ones((3, 7), dtype=torch.int64)
    graph, weights = exported(model, {"items": items, "steps_ago": items.clone()}, model.names)
    profile = UserProfile(definition)
    of_profile = exported(profile, shown_inputs(definition), profile.names)
    served = ServedModel(
        graph=graph,
        weights=weights,
        item_ids=golden_profile.IDS,
        k=2,
        max_length=3,
        exclude_seen=False,
        profile=ServedProfile(graph=of_profile[0], weights=of_profile[1], definition=definition),
    )
    write_served_model(folder, served)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    folder = tmp_path_factory.mktemp("profiles")
    write(folder, golden_profile.definition())
    with LoadedModel(folder) as loaded:
        yield loaded


def check(found: dict[str, Any]) -> None:
    """Compare an answer to the golden requests with what was worked out by hand."""
    for name in ("events", "steps", "unknown_items", "recent_events"):
        assert found[name].tolist() == golden_profile.expected(name), name
    for name in ("categories", "brands"):
        names = [[label.decode() for label in row] for row in found[name]]
        assert names == golden_profile.expected(name)
    for name in ("category_shares", "brand_shares", "price_shares", "next_types"):
        np.testing.assert_allclose(found[name], golden_profile.expected(name), rtol=1e-6)
    assert found["days_since_last"].tolist() == golden_profile.expected("days_since_last")


def test_the_golden_profiles_are_served_as_worked_out_by_hand(model):
    check(model.ask("profile", golden_profile.sent()))


def test_each_alone_is_as_in_a_batch(model):
    sent = golden_profile.sent()
    answers = [
        model.ask("profile", {name: [rows[place]] for name, rows in sent.items()})
        for place in range(len(golden_profile.ANSWERS))
    ]
    check({name: np.concatenate([one[name] for one in answers]) for name in answers[0]})


def test_padding_on_the_other_side_changes_nothing(model):
    nothing = {"history": "", "steps_ago": 0, "event_types": "", "days_ago": -1}
    check(
        model.ask(
            "profile",
            {
                name: [[*row, nothing[name]] for row in rows]
                for name, rows in golden_profile.sent().items()
            },
        )
    )


def test_only_the_last_events_that_the_model_is_shown_count(model):
    # max_length is 3: the soap before them is beyond it.
    longer = {"history": [["soap", *HISTORY["history"][0]]]}
    found, wanted = model.ask("profile", longer), model.ask("profile", HISTORY)
    assert {n: v.tolist() for n, v in found.items()} == {n: v.tolist() for n, v in wanted.items()}


def test_what_a_client_leaves_out_is_said_to_be_unknown(model):
    found = model.ask("profile", HISTORY)
    assert found["steps"].tolist() == [3]  # positions, as in serving_default
    cold = model.ask("profile", {"history": [[""]]})
    assert found["next_types"].tolist() == cold["next_types"].tolist()
    assert found["days_since_last"].tolist() == [-1]
    assert found["recent_events"].tolist() == [[-1, -1, -1]]
    assert cold["recent_events"].tolist() == [[0, 0, 0]]


def test_a_type_outside_the_contract_is_an_unknown_one(model):
    strange = model.ask("profile", {**HISTORY, "event_types": [["stare"] * 3]})
    assert strange["next_types"].tolist() == model.ask("profile", HISTORY)["next_types"].tolist()


def test_a_set_without_times_and_brands_has_no_such_parts(tmp_path):
    write(tmp_path, golden_profile.definition(timed=False, attributes=("category",)))
    with LoadedModel(tmp_path) as model:
        described = model.describe()["profile"]
        assert set(described["inputs"]) == {"history", "steps_ago", "event_types"}
        assert described["defaults"] == {"steps_ago": [[0]], "event_types": [[""]]}
        assert set(described["outputs"]) == {
            "categories",
            "category_shares",
            "events",
            "next_types",
            "steps",
            "unknown_items",
        }
        assert model.ask("profile", HISTORY)["categories"].tolist() == [
            [b"dairy > milk", b"bakery > bread"]
        ]


def golden() -> GoldenProfiles:
    definition, asked = golden_profile.definition(), golden_profile.asked()
    answers = profile_answers(UserProfile(definition), definition, asked)
    return GoldenProfiles(requests=asked, answers=answers)


def test_the_certificate_says_that_all_three_agree(model):
    record = certify_profiles(model, golden_profile.definition(), golden(), golden_profile.IDS)
    assert record["requests"] == 4
    assert record["worst_difference_from_torch"] < 1e-6
    assert record["worst_difference_from_numpy"] < 1e-6
    assert record["miscounted_unknown_items"] == 0


def test_the_certificate_tells_another_prior_and_other_labels(model):
    definition = golden_profile.definition()
    stronger = replace(definition, prior_events=8.0)
    record = certify_profiles(model, stronger, golden(), golden_profile.IDS)
    assert record["worst_difference_from_torch"] < 1e-6
    # Three events: (2 + 8/2) / 11 of the first category in place of (2 + 4/2) / 7, and soap's.
    assert record["worst_difference_from_numpy"] > 0.02

    category = definition.attributes["category"]
    for labels, difference in (
        (category.labels[::-1], pytest.approx(2 / 7)),  # 4/7 dairy where 2/7 is promised
        (("one", "other"), None),  # labels that the certificate does not know
    ):
        renamed = {**definition.attributes, "category": replace(category, labels=labels)}
        other = replace(definition, attributes=renamed)
        record = certify_profiles(model, other, golden(), golden_profile.IDS)
        assert record["worst_difference_from_torch"] == difference
