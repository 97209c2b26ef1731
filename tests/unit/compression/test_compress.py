"""Compressing whole models of the registry."""

from __future__ import annotations

import pytest
import torch

from tasks.compression.compress import CODERS, compress
from tasks.contracts.catalogues import COMPRESSIONS
from tasks.contracts.errors import BadRequestError
from tasks.models.registry import build_model

ITEMS = 400


def transformer() -> torch.nn.Module:
    torch.manual_seed(0)
    arguments = {
        "num_items": ITEMS,
        "steps": 8,
        "width": 32,
        "layers": 1,
        "heads": 2,
        "dropout": 0.1,
    }
    return build_model("transformer", arguments).eval()


def requests() -> tuple[torch.Tensor, torch.Tensor]:
    items = torch.randint(1, ITEMS + 1, (6, 12), generator=torch.Generator().manual_seed(2))
    return items, torch.arange(12, 0, -1).expand(6, 12)


def test_the_catalogue_and_the_recipes_have_the_same_names() -> None:
    assert set(CODERS) == set(COMPRESSIONS)


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(BadRequestError, match="expected one of"):
        compress(transformer(), "int3")


def test_none_passes_scores_and_embedding_through_bit_by_bit() -> None:
    model = transformer()
    scores, embedding = compress(model, "none")(*requests())
    assert torch.equal(scores, model(*requests()))
    assert torch.equal(embedding, model.embed(*requests()))  # type: ignore[operator]


def test_int8_moves_scores_a_little_and_is_not_the_same() -> None:
    model = transformer()
    expected = model(*requests())[:, 1:]
    found = compress(model, "int8")(*requests())[0][:, 1:]
    assert not torch.equal(found, expected)
    assert float((found - expected).abs().max()) < 0.05 * float(expected.std())


def test_a_baseline_without_embedding_has_scores_only() -> None:
    model = compress(build_model("popularity", {"num_items": ITEMS}), "int8")
    assert model.names == ("scores",)
    assert len(model(*requests())) == 1
