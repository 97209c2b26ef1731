"""The signature `next_event`: torch's answers with types, and everybody else's without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tasks.bundling.aten_export import export_module
from tasks.bundling.golden import Answers, Golden, Requests, TypedAnswers
from tasks.bundling.parity import certify, certify_typed, served_inputs
from tasks.bundling.profile_signature import ServedProfile
from tasks.bundling.served_model import LoadedModel
from tasks.bundling.signatures import ServedModel, write_served_model
from tasks.compression.compress import CompressedModel, compress
from tasks.compression.golden_requests import answer, next_type_answer
from tasks.compression.user_profile import shown_inputs
from tasks.contracts.columns import EVENT_TYPES
from tasks.contracts.errors import BadRequestError
from tasks.models.registry import build_model
from tasks.models.user_profile import UserProfile
from tests import golden_profile

ITEMS, LENGTH, K = 30, 8, 12
IDS = tuple(f"item-{place:02d}" for place in range(1, ITEMS + 1))
NETWORK = {"steps": 6, "width": 16, "layers": 2, "heads": 2, "dropout": 0.1, "event_types": True}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "transformer": NETWORK,
    "blend": {"markov": {"neighbours": 4, "last_items": 5}, "transformer": NETWORK},
}


def compressed(architecture: str) -> CompressedModel:
    torch.manual_seed(3)
    model = build_model(architecture, {"num_items": ITEMS, **ARGUMENTS[architecture]})
    for name, tensor in model.state_dict().items():
        if "typed" in name:  # large enough for types to be seen in every answer
            tensor.copy_(torch.randn(tensor.shape))
        if name.endswith(("markov.weights", "popularity")):
            tensor.copy_(torch.rand(tensor.shape))
    return compress(model, "int8")


def requests() -> tuple[Requests, np.ndarray]:
    """Twenty users with histories of all lengths, and one with nothing; their types, some unknown.

    Every other basket was of items that nobody knows, the latest too.
    """
    generator = np.random.default_rng(5)
    lengths = np.append(1 + np.arange(20) % LENGTH, 0)
    inside = np.arange(LENGTH)[None, :] >= LENGTH - lengths[:, None]
    items = np.where(inside, generator.integers(1, ITEMS + 1, inside.shape), 0)
    ago = np.where(inside, 2 * np.arange(LENGTH, 0, -1)[None, :], 0)
    types = np.where(inside, generator.integers(0, len(EVENT_TYPES) + 1, inside.shape), 0)
    kind = np.where(lengths > 4, "long", np.where(lengths > 0, "short", "edge"))
    return Requests(
        items=items, steps_ago=ago, user=kind, target=np.where(kind == "edge", kind, "head"),
        history=kind,
    ), types  # fmt: skip


def typed_answers(model: CompressedModel) -> TypedAnswers:
    asked, types = requests()
    given = asked.items, asked.steps_ago, types
    items, scores = answer(model, *given, k=K, exclude=False)
    return TypedAnswers(
        event_types=types,
        ranked=Answers(items=items, scores=scores),
        next_types=next_type_answer(model, *given),
    )


def plain_answers(model: CompressedModel) -> Answers:
    asked, _ = requests()
    items, scores = answer(model, asked.items, asked.steps_ago, k=K, exclude=False)
    return Answers(items=items, scores=scores)


def exported(model: CompressedModel) -> Any:
    shown = {name: torch.ones((3, 7), dtype=torch.int64) for name in model.inputs}
    return export_module(model, shown, model.names)


def served(model: CompressedModel, **changes: Any) -> ServedModel:
    export = exported(model)
    weights = {name: value.numpy() for name, value in export.weights.items()}
    whole = ServedModel(
        graph=export.graph, weights=weights, item_ids=IDS, k=K, max_length=LENGTH,
        exclude_seen=False,
    )  # fmt: skip
    return replace(whole, **changes)


@pytest.fixture(scope="module", params=sorted(ARGUMENTS))
def torchs(request: pytest.FixtureRequest) -> CompressedModel:
    return compressed(request.param)


@pytest.fixture(scope="module")
def model(
    torchs: CompressedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoadedModel]:
    folder = tmp_path_factory.mktemp("typed")
    write_served_model(folder, served(torchs))
    with LoadedModel(folder) as loaded:
        yield loaded


def test_every_golden_request_gets_torchs_items_and_chances(torchs, model):
    asked, _ = requests()
    record = certify_typed(model, asked, IDS, typed_answers(torchs))

    assert record["requests"] == record["agreeing"] == 20
    assert record["made_up"]["agreeing"] == 1
    assert record["worst_score_difference"] < 1e-5
    assert record["worst_next_type_difference"] < 1e-6


def test_clients_without_types_are_served_as_torch_serves_unknown_ones(torchs, model):
    asked, _ = requests()
    record = certify(model, asked, IDS, plain_answers(torchs))
    assert record["requests"] == record["agreeing"] == 20

    plain = model.ask("serving_default", {"history": [["item-01", "item-02"]]})
    left_out = model.ask("next_event", {"history": [["item-01", "item-02"]]})
    strange = model.ask("next_event", {
        "history": [["item-01", "item-02"]], "event_types": [["stare", ""]],
    })  # fmt: skip
    assert set(plain) == {"items", "scores"}
    for one in (left_out, strange):
        assert one["items"].tolist() == plain["items"].tolist()
        assert one["scores"].tolist() == plain["scores"].tolist()


def test_the_certificate_tells_a_wrong_chance_and_types_in_other_places(torchs, model):
    asked, types = requests()
    right = typed_answers(torchs)
    off = right.next_types.copy()
    off[3, 1] += 0.01
    record = certify_typed(model, asked, IDS, replace(right, next_types=off))
    assert record["worst_next_type_difference"] == pytest.approx(0.01, abs=1e-5)

    shifted = replace(right, event_types=np.where(asked.items > 0, np.roll(types, 1, axis=1), 0))
    assert certify_typed(model, asked, IDS, shifted)["worst_next_type_difference"] > 1e-3


def test_types_move_with_their_items_past_unknown_ids_and_beyond_the_longest_history(model):
    history = [f"item-{place:02d}" for place in range(1, LENGTH + 1)]
    kinds = [EVENT_TYPES[place % 4] for place in range(LENGTH)]
    wanted = model.ask("next_event", {"history": [history], "event_types": [kinds]})
    found = model.ask(
        "next_event",
        {
            "history": [["item-20", history[0], "nobody's", *history[1:], ""]],
            "event_types": [["purchase", kinds[0], "cart", *kinds[1:], "view"]],
        },
    )
    assert found["items"].tolist() == wanted["items"].tolist()
    np.testing.assert_allclose(found["next_types"], wanted["next_types"], atol=1e-6)
    assert found["next_types"].sum() == pytest.approx(1.0)


def test_another_number_of_types_than_items_is_refused(model):
    with pytest.raises(Exception, match=r"ncompatible shapes|broadcast"):
        model.ask("next_event", {"history": [["item-01"] * 3], "event_types": [["view"] * 2]})


def test_the_profile_shares_the_types_that_a_client_sends(tmp_path):
    definition = golden_profile.definition()
    profile = UserProfile(definition)
    of_profile = export_module(profile, shown_inputs(definition), profile.names)
    arguments = {"num_items": 3, **NETWORK}
    small = compress(build_model("transformer", arguments), "none")
    both = served(
        small,
        item_ids=golden_profile.IDS,
        k=2,
        max_length=3,
        profile=ServedProfile(
            graph=of_profile.graph,
            weights={name: value.numpy() for name, value in of_profile.weights.items()},
            definition=definition,
        ),
    )
    write_served_model(tmp_path, both)
    with LoadedModel(tmp_path) as model:
        found = model.ask("profile", golden_profile.sent())
        np.testing.assert_allclose(
            found["next_types"], golden_profile.expected("next_types"), rtol=1e-6
        )
        assert found["steps"].tolist() == golden_profile.expected("steps")  # unknown baskets too
        described = model.describe()
        assert described["profile"]["defaults"]["event_types"] == [[""]]
        assert described["next_event"] == {
            "inputs": {
                "event_types": "string[None, None]",
                "history": "string[None, None]",
                "steps_ago": "int64[None, None]",
            },
            "outputs": {
                "items": "string[None, 2]",
                "next_types": "float32[None, 4]",
                "scores": "float32[None, 2]",
            },
            "defaults": {"event_types": [[""]], "steps_ago": [[0]]},
        }
        assert set(described["serving_default"]["inputs"]) == {"history", "steps_ago"}


def test_a_network_with_types_and_no_chances_is_refused(torchs):
    whole = served(torchs)
    outputs = {name: node for name, node in whole.graph.outputs.items() if name != "next_types"}
    with pytest.raises(BadRequestError, match="expected inputs items, steps_ago and an output"):
        replace(whole, graph=replace(whole.graph, outputs=outputs))


def test_golden_requests_with_types_survive_their_file_and_older_ones_are_read(torchs, tmp_path):
    asked, types = requests()
    plain = Golden(requests=asked, answers={"model": plain_answers(torchs)})
    plain.save(tmp_path / "golden.npz")
    with np.load(tmp_path / "golden.npz") as arrays:
        assert str(arrays["format"]) == "golden_requests/1"
        assert not [name for name in arrays if name.startswith("typed")]
    assert Golden.load(tmp_path / "golden.npz").typed is None

    replace(plain, typed=typed_answers(torchs)).save(tmp_path / "golden.npz")
    with np.load(tmp_path / "golden.npz") as arrays:
        assert str(arrays["format"]) == "golden_requests/2"
    read = Golden.load(tmp_path / "golden.npz")
    assert read.typed is not None
    np.testing.assert_array_equal(read.typed.event_types, types)
    np.testing.assert_array_equal(read.typed.next_types, typed_answers(torchs).next_types)
    sent = served_inputs(read.requests, IDS, read.typed.event_types).one(0)
    assert set(sent) == {"history", "steps_ago", "event_types"}
