"""The promise on bytes: a realistic int8 SavedModel is at most 30 % of the fp32 one on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tasks.bundling.aten_export import export_module
from tasks.bundling.aten_graph import read_graph
from tasks.bundling.bundle import saved_model_bytes
from tasks.bundling.signatures import ServedModel, write_served_model
from tasks.compression.compress import compress
from tasks.models.gru import Gru
from tasks.models.item_neighbours import ItemNeighbours
from tasks.models.registry import build_model
from tasks.training.make_model import untrained_network
from tasks.training.recipes import recipe_named

ITEMS, MOVIES = 20_000, 3_416
IDS = tuple(str(800_000 + 37 * place) for place in range(ITEMS))


def markov() -> torch.nn.Module:
    model = ItemNeighbours(ITEMS, neighbours=32, last_items=64)
    generator = torch.Generator().manual_seed(0)
    model.neighbours.copy_(torch.randint(1, ITEMS + 1, (ITEMS + 1, 32), generator=generator))
    model.weights.copy_(torch.rand((ITEMS + 1, 32), generator=generator))
    return model.eval()


def transformer() -> torch.nn.Module:
    torch.manual_seed(0)
    arguments = {
        "num_items": ITEMS,
        "steps": 50,
        "width": 64,
        "layers": 2,
        "heads": 2,
        "dropout": 0.0,
    }
    model = build_model("transformer", arguments)
    torch.nn.init.normal_(model.bias)  # type: ignore[arg-type]
    return model.eval()


def gru() -> torch.nn.Module:
    """Return the network of the recipe `gru` at MovieLens-1M's size."""
    return untrained_network(recipe_named("gru", baskets=False), MOVIES, 0).model.eval()


def written_bytes(model: torch.nn.Module, recipe: str, folder: Path) -> int:
    ids = IDS[:MOVIES] if isinstance(model, Gru) else IDS
    small = compress(model, recipe)
    inputs = {name: torch.ones((3, 7), dtype=torch.int64) for name in small.inputs}
    export_module(small, inputs, small.names).save(folder / recipe)
    graph, weights = read_graph(folder / recipe)
    served = ServedModel(
        graph=graph, weights=weights, item_ids=ids, k=20, max_length=384, exclude_seen=False
    )
    write_served_model(folder / f"{recipe}-saved", served)
    return saved_model_bytes(folder / f"{recipe}-saved")


@pytest.mark.parametrize("make", (markov, transformer, gru))
def test_int8_takes_at_most_thirty_percent(
    make: Callable[[], torch.nn.Module], tmp_path: Path
) -> None:
    model = make()
    assert written_bytes(model, "int8", tmp_path) <= 0.3 * written_bytes(model, "none", tmp_path)
