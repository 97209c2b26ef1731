"""Models on disk come back as they were."""

from __future__ import annotations

import pytest
import torch

from tasks.contracts.errors import BadRequestError
from tasks.models.registry import build_model, load_model, save_model

ARGUMENTS = {
    "popularity": {"num_items": 6},
    "personal_frequency": {"num_items": 6},
    "markov": {"num_items": 6, "neighbours": 3, "last_items": 4},
    "ials": {"num_items": 6, "width": 4, "last_items": 5, "iterations": 3},
    "gru": {
        "num_items": 6,
        "steps": 3,
        "width": 4,
        "hidden": 5,
        "layers": 2,
        "dropout": 0.1,
    },
    "transformer": {
        "num_items": 6,
        "steps": 3,
        "width": 4,
        "layers": 1,
        "heads": 2,
        "dropout": 0.1,
    },
}
ARGUMENTS |= dict.fromkeys(("first_order_markov", "ease", "item_knn"), ARGUMENTS["markov"])
ARGUMENTS["blend"] = {
    "num_items": 6,
    "markov": {"neighbours": 3, "last_items": 4},
    "transformer": {k: v for k, v in ARGUMENTS["transformer"].items() if k != "num_items"},
}
ITEMS = torch.tensor([[0, 1, 5, 2], [3, 3, 6, 4]])
AGO = torch.tensor([[0, 2, 1, 1], [4, 3, 2, 1]])


@pytest.mark.parametrize("architecture", sorted(ARGUMENTS))
def test_a_loaded_model_answers_like_the_saved_one(tmp_path, architecture):
    torch.manual_seed(3)
    model = build_model(architecture, ARGUMENTS[architecture]).eval()

    save_model(model, architecture, ARGUMENTS[architecture], tmp_path)

    assert torch.equal(load_model(tmp_path)(ITEMS, AGO), model(ITEMS, AGO))


def test_equal_models_give_equal_bytes(tmp_path):
    for folder in ("one", "two"):
        torch.manual_seed(3)
        model = build_model("blend", ARGUMENTS["blend"])
        save_model(model, "blend", ARGUMENTS["blend"], tmp_path / folder)

    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_unknown_architecture_is_refused_by_name():
    with pytest.raises(BadRequestError, match="found 'oracle'"):
        build_model("oracle", {})


def test_a_later_format_is_refused(tmp_path):
    save_model(
        build_model("popularity", {"num_items": 2}), "popularity", {"num_items": 2}, tmp_path
    )
    record = (tmp_path / "model.json").read_text().replace("model/1", "model/9")
    (tmp_path / "model.json").write_text(record)

    with pytest.raises(BadRequestError, match="model/9"):
        load_model(tmp_path)


@pytest.mark.parametrize("architecture", sorted(ARGUMENTS))
def test_an_exported_model_takes_any_batch_and_any_length(architecture):
    torch.manual_seed(3)
    model = build_model(architecture, ARGUMENTS[architecture]).eval()
    sizes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=1)}

    program = torch.export.export(model, (ITEMS, AGO), dynamic_shapes=(sizes, sizes))
    exported = program.run_decompositions().module()

    for batch, length in ((1, 2), (3, 9)):
        items = torch.randint(0, 7, (batch, length))
        ago = torch.arange(length, 0, -1).expand(batch, length).contiguous()
        found, expected = exported(items, ago), model(items, ago)
        assert torch.allclose(found, expected, atol=1e-5)
