"""Every architecture, compressed and lowered to TensorFlow, against torch at other sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch

from tasks.bundling.aten_export import export_module
from tasks.bundling.torch_to_tf import lower_graph
from tasks.compression.compress import CompressedModel, compress
from tasks.models.registry import BUILDERS, build_model
from tasks.models.transformer import BLOCKS

ITEMS, STEPS = 300, 6
SIZES = ((3, 7), (1, 1), (5, 12))  # exported at the first, checked at all
NEIGHBOURS = {"neighbours": 8, "last_items": 5}
NETWORK = {"steps": STEPS, "width": 8, "layers": 2, "dropout": 0.1}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "popularity": {},
    "personal_frequency": {},
    **dict.fromkeys(("markov", "first_order_markov", "ease", "item_knn"), NEIGHBOURS),
    "ials": {"width": 8, "last_items": 5, "iterations": 4},
    "gru": {**NETWORK, "hidden": 12},
    "transformer": {**NETWORK, "heads": 2},
    **{
        f"transformer {block}": {**NETWORK, "heads": 2, "block": block, "temperature": 0.1}
        for block in BLOCKS
    },
    "blend": {"markov": NEIGHBOURS, "transformer": {**NETWORK, "heads": 2}},
}

# Architecture and arguments of those that are tried in more forms than one.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "transformer with a profile": (
        "transformer",
        {
            **ARGUMENTS["transformer"],
            "profile": {"labels": {"category": 9, "price": 5}, "prior_events": 20.0},
        },
    ),
}

# Of pictures: tests/integration/bundling/test_small_classifier.py certifies them.
CLASSIFIERS = {"majority_class", "class_means", "picture_net"}


def asked(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return items and steps ago; the first place of every row but the shortest is padding."""
    generator = torch.Generator().manual_seed(batch * 100 + length)
    items = torch.randint(1, ITEMS + 1, (batch, length), generator=generator)
    ago = torch.arange(length, 0, -1).expand(batch, length).contiguous()
    if length > 1:
        items[:, 0], ago[:, 0] = 0, 0
    return items, ago


def filled(architecture: str) -> CompressedModel:
    """Return the model in int8 with weights drawn, signs and ties among them."""
    torch.manual_seed(4)
    name, arguments = VARIANTS.get(architecture) or (
        architecture.partition(" ")[0],
        ARGUMENTS[architecture],
    )
    model = build_model(name, {"num_items": ITEMS, **arguments})
    for name, tensor in model.state_dict().items():
        if name.endswith("neighbours"):
            tensor.copy_(torch.randint(0, ITEMS + 1, tensor.shape))
        elif name.endswith(("weights", "factors", "log_counts", "popularity", "tie_break")):
            tensor.copy_(torch.randn(tensor.shape).abs())
        elif name.startswith("profile"):
            codes = torch.randint(0, 6, tensor.shape)
            tensor.copy_(codes if name.endswith("codes") else torch.rand(tensor.shape))
    return compress(model, "int8")


def test_every_architecture_is_tried():
    assert {name.partition(" ")[0] for name in ARGUMENTS} | CLASSIFIERS == set(BUILDERS)


@pytest.mark.parametrize("architecture", (*sorted(ARGUMENTS), *VARIANTS))
def test_tensorflow_answers_as_torch_does(architecture):
    model = filled(architecture)
    items, ago = asked(*SIZES[0])
    export = export_module(model, {"items": items, "steps_ago": ago}, model.names)
    weights = {name: tf.constant(value.numpy()) for name, value in export.weights.items()}

    for size in SIZES:
        items, ago = asked(*size)
        with torch.no_grad():
            expected = dict(zip(model.names, model(items, ago), strict=True))
        given = {"items": tf.constant(items.numpy()), "steps_ago": tf.constant(ago.numpy())}
        found = lower_graph(export.graph, {**weights, **given})

        assert set(found) == set(expected)
        for name, value in expected.items():
            assert found[name].numpy() == pytest.approx(value.numpy(), rel=1e-4, abs=1e-4)
            assert len(np.unique(value.numpy())) > 2
