"""A recurrent network is served by a loop: one step in the graph, the same bytes in every process."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import torch

from tasks.bundling.aten_export import Export, export_module
from tasks.bundling.served_model import LoadedModel
from tasks.bundling.signatures import ServedModel, write_served_model
from tasks.bundling.torch_to_tf import lower_graph
from tasks.compression.compress import CompressedModel, compress
from tasks.contracts.errors import BadRequestError
from tasks.models.gru import Gru

ITEMS = 40
IDS = tuple(f"item-{place:02d}" for place in range(1, ITEMS + 1))


@cache
def network(steps: int) -> CompressedModel:
    torch.manual_seed(3)
    made = Gru(ITEMS, steps=steps, width=8, hidden=12, layers=2, dropout=0.1)
    torch.nn.init.normal_(made.bias)
    return compress(made, "none")


@cache  # an export takes longer than all checks of it
def exported(steps: int) -> Export:
    model = network(steps)
    inputs = {name: torch.ones((3, 7), dtype=torch.int64) for name in model.inputs}
    return export_module(model, inputs, model.names)


def write(export: Export, folder: Path) -> None:
    weights = {name: value.numpy() for name, value in export.weights.items()}
    served = ServedModel(
        graph=export.graph, weights=weights, item_ids=IDS, k=10, max_length=30, exclude_seen=False
    )
    write_served_model(folder, served)


def test_a_graph_has_as_many_nodes_for_sixty_steps_as_for_six():
    short, long = (exported(steps).graph for steps in (6, 60))

    assert [node.op for node in long.nodes] == [node.op for node in short.nodes]
    assert [node.op for node in long.nodes].count("aten.gru.input") == 1


def test_whatever_the_process_made_before_the_bytes_are_equal(tmp_path):
    export = exported(6)
    write(export, tmp_path / "first")
    tf.function(lambda x: tf.while_loop(lambda y: y < 9, lambda y: (y + 1,), (x,)))(tf.constant(1))
    write(export, tmp_path / "again")

    names = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*"))
    assert Path("saved_model.pb") in names
    for name in names:
        path = tmp_path / "first" / name
        assert path.is_dir() or path.read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize("length", (1, 4, 30))
@pytest.mark.parametrize("batch", (1, 5))
def test_session_and_eager_loader_answer_as_torch_does(tmp_path, batch, length):
    model = network(6)
    write(exported(6), tmp_path)
    items = np.random.default_rng(length).integers(1, ITEMS + 1, (batch, length))
    ago = np.broadcast_to(np.arange(length, 0, -1), items.shape).copy()
    with torch.no_grad():
        scores = model(torch.from_numpy(items), torch.from_numpy(ago))[0][:, 1:]
    best = torch.topk(scores, 10)
    expected = [[IDS[item] for item in row] for row in best.indices.tolist()]
    asked = {"history": np.asarray(IDS, object)[items - 1], "steps_ago": ago}

    with LoadedModel(tmp_path) as loaded:
        found = loaded.ask("serving_default", asked)
    eager = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    answers = eager(**{name: tf.constant(value) for name, value in asked.items()})

    assert [[item.decode() for item in row] for row in found["items"]] == expected
    assert answers["items"].numpy().tolist() == found["items"].tolist()
    assert found["scores"] == pytest.approx(best.values.numpy(), abs=1e-5)


def test_a_gru_in_both_directions_is_refused_by_its_name():
    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = torch.nn.GRU(1, 2, batch_first=True, bidirectional=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            four_steps = x[:, :1].unsqueeze(-1).expand(-1, 4, -1)
            return self.recurrent(four_steps)[0]

    export = export_module(Both(), {"x": torch.ones((3, 7))}, ("y",))
    weights = {name: tf.constant(value.numpy()) for name, value in export.weights.items()}
    with pytest.raises(BadRequestError, match=r"node gru \(aten.gru.input\).*only GRUs in one"):
        lower_graph(export.graph, {**weights, "x": tf.ones((3, 7))})
