"""What a served model answers: ids, padding, exclusion, defaults; a model that can be worked out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tasks.bundling.aten_graph import Argument, AtenGraph, Node, Ref, TensorKind
from tasks.bundling.saved_model import identity_of
from tasks.bundling.served_model import LoadedModel
from tasks.bundling.signatures import ServedModel, split_at_load, write_served_model
from tasks.contracts.errors import BadRequestError

IDS = ("ant", "bee", "cat", "dog")
BASE = np.asarray([[9.0, 0.4, 0.3, 0.2, 0.1]], np.float32)


def network() -> AtenGraph:
    """Return scores = base * 1 with, at each item of the history, steps_ago added."""
    kind = TensorKind(dtype="float32", shape=("b", 5))
    pairs = TensorKind(dtype="float32", shape=("b", "l"))
    size: dict[str, Argument] = {"self": Ref("items"), "dim": 0}
    nodes = (
        Node(name="batch", op="aten.sym_size.int", arguments=size),
        Node(
            name="_doubled",
            op="aten.mul.Scalar",
            arguments={"self": Ref("base"), "other": 1},
            kind=TensorKind(dtype="float32", shape=(1, 5)),
        ),
        Node(
            name="all",
            op="aten.expand.default",
            arguments={"self": Ref("_doubled"), "size": (Ref("batch"), 5)},
            kind=kind,
        ),
        Node(
            name="ago",
            op="aten._to_copy.default",
            arguments={"self": Ref("steps_ago")},
            kind=pairs,
        ),
        Node(
            name="scores",
            op="aten.scatter_add.default",
            arguments={"self": Ref("all"), "dim": 1, "index": Ref("items"), "src": Ref("ago")},
            kind=kind,
        ),
    )
    request = TensorKind(dtype="int64", shape=("b", "l"))
    return AtenGraph(
        inputs={"items": request, "steps_ago": request},
        weights={"base": TensorKind(dtype="float32", shape=(1, 5))},
        nodes=nodes,
        outputs={"scores": "scores"},
    )


def served(*, exclude_seen: bool = False, max_length: int = 3) -> ServedModel:
    return ServedModel(
        graph=network(),
        weights={"base": BASE},
        item_ids=IDS,
        k=3,
        max_length=max_length,
        exclude_seen=exclude_seen,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served")
    write_served_model(path, served())
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[LoadedModel]:
    with LoadedModel(folder) as loaded:
        yield loaded


def answer(model: LoadedModel, history: list[list[str]], **more: object) -> list[list[str]]:
    signature = "recommend" if {"k", "exclude_seen"} & set(more) else "serving_default"
    found = model.ask(signature, {"history": history, **more})["items"]
    return [[item.decode() for item in row] for row in found]


def test_steps_ago_is_used_as_given(model: LoadedModel) -> None:
    # dog 0.1 + 7, cat 0.2 + ... : cat is index 3, so 0.2 + 5; then ant with 0.4.
    found = model.ask("serving_default", {"history": [["cat", "dog"]], "steps_ago": [[5, 7]]})
    assert found["items"].tolist() == [[b"dog", b"cat", b"ant"]]
    np.testing.assert_allclose(found["scores"], [[7.1, 5.2, 0.4]], rtol=1e-6)


def test_missing_steps_count_positions_from_the_end(model: LoadedModel) -> None:
    found = model.ask("serving_default", {"history": [["bee", "dog"]]})
    # dog is the latest: 0.1 + 1; bee before it: 0.3 + 2.
    assert found["items"].tolist() == [[b"bee", b"dog", b"ant"]]
    np.testing.assert_allclose(found["scores"], [[2.3, 1.1, 0.4]], rtol=1e-6)


@pytest.mark.parametrize(
    "history",
    (
        pytest.param(["bee", "dog", "", ""], id="padding on the right"),
        pytest.param(["", "", "bee", "dog"], id="padding on the left"),
        pytest.param(["bee", "", "dog"], id="padding in between"),
        pytest.param(["unicorn", "bee", "unicorn", "dog"], id="ids nobody knows"),
    ),
)
def test_padding_and_unknown_ids_change_nothing(model: LoadedModel, history: list[str]) -> None:
    expected = model.ask("serving_default", {"history": [["bee", "dog"]]})
    found = model.ask("serving_default", {"history": [history]})
    assert found["items"].tolist() == expected["items"].tolist()
    np.testing.assert_array_equal(found["scores"], expected["scores"])


def test_only_the_last_known_items_count(model: LoadedModel) -> None:
    # Four known items and max_length 3: the first ant is beyond it and adds nothing.
    long = model.ask("serving_default", {"history": [["ant", "bee", "unicorn", "cat", "dog"]]})
    cut = model.ask("serving_default", {"history": [["bee", "cat", "dog"]]})
    np.testing.assert_array_equal(long["scores"], cut["scores"])


def test_rows_of_one_batch_do_not_touch_each_other(model: LoadedModel) -> None:
    rows = [["bee", "dog"], ["", "cat"], ["unicorn", ""]]
    alone = [answer(model, [row])[0] for row in rows]
    assert answer(model, rows) == alone
    assert alone[2] == ["ant", "bee", "cat"]


def test_padding_is_never_recommended_though_the_network_scores_it_best(
    model: LoadedModel,
) -> None:
    assert answer(model, [[""]]) == [["ant", "bee", "cat"]]


def test_k_and_exclusion_are_the_clients_choice(model: LoadedModel) -> None:
    assert answer(model, [["cat", "dog"]], k=1) == [["cat"]]
    assert answer(model, [["cat", "dog"]], k=2, exclude_seen=True) == [["ant", "bee"]]
    kept = answer(model, [["cat", "dog"]], k=2, exclude_seen=False)
    assert kept == [["cat", "dog"]]


def test_more_than_there_is_ends_in_empty_ids(model: LoadedModel) -> None:
    found = answer(model, [["cat", "dog", "bee"]], k=99, exclude_seen=True)
    assert found == [["ant", "", "", ""]]


def test_a_model_that_excludes_seen_items_does_so_by_default(tmp_path: Path) -> None:
    write_served_model(tmp_path, served(exclude_seen=True))
    with LoadedModel(tmp_path) as model:
        assert answer(model, [["cat", "dog"]]) == [["ant", "bee", ""]]
        assert answer(model, [["cat", "dog"]], exclude_seen=False)[0][:2] == ["cat", "dog"]


def test_unknown_candidates_get_the_lowest_score(model: LoadedModel) -> None:
    inputs = {"history": [["dog"]], "candidates": [["bee", "unicorn", "dog", ""]]}
    lowest = np.finfo(np.float32).min
    found = model.ask("score", inputs)["scores"]
    np.testing.assert_allclose(found, np.asarray([[0.3, lowest, 1.1, lowest]]), rtol=1e-6)


def test_an_embedding_is_offered_only_where_the_network_has_one(model: LoadedModel) -> None:
    assert model.signatures == ("recommend", "score", "serving_default")
    with pytest.raises(BadRequestError, match="expected a signature of"):
        model.ask("embed", {"history": [["dog"]]})


def test_the_eager_loader_answers_the_same_and_two_models_do_not_mix(
    model: LoadedModel, folder: Path, tmp_path: Path
) -> None:
    other = served()
    weights = {"base": BASE[:, ::-1].copy()}
    write_served_model(
        tmp_path,
        ServedModel(**{**vars(other), "weights": weights}),
    )
    first, second = (tf.saved_model.load(str(path)) for path in (folder, tmp_path))
    asked = {"history": tf.constant([[""]]), "steps_ago": tf.constant([[0]], tf.int64)}
    expected = model.ask("serving_default", {"history": [[""]]})["items"]
    for loaded, answered in ((first, expected.tolist()), (second, [[b"dog", b"cat", b"bee"]])):
        found = loaded.signatures["serving_default"](**asked)
        assert found["items"].numpy().tolist() == answered


def test_what_depends_on_weights_alone_is_computed_at_load() -> None:
    early, late = split_at_load(network())
    assert [node.name for node in early] == ["_doubled"]
    assert [node.name for node in late] == ["batch", "all", "ago", "scores"]


def test_written_twice_the_bytes_are_equal(folder: Path, tmp_path: Path) -> None:
    write_served_model(tmp_path, served())
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) == 3
    for name in files:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_network_without_loops_has_no_library_of_functions(folder: Path) -> None:
    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    assert not model.meta_graphs[0].graph_def.HasField("library")  # an empty one has bytes, too


def test_the_identity_tells_dtype_and_place_apart() -> None:
    zeros = np.zeros(4, np.int8)
    assert identity_of({"a": zeros}, "t") != identity_of({"a": zeros.view(np.uint8)}, "t")
    assert identity_of({"a": zeros}, "t") != identity_of({"b": zeros}, "t")


def test_k_beyond_the_catalogue_is_refused() -> None:
    with pytest.raises(BadRequestError, match="1 <= k <= 4"):
        ServedModel(**{**vars(served()), "k": 5})
