"""Models on disk: `model.json` says how to build one, `model.safetensors` holds its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import nn

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import check_format, parse_object, pretty_json
from tasks.models.blend import BlendedRecommender
from tasks.models.gru import Gru
from tasks.models.ials import Ials
from tasks.models.item_neighbours import ItemNeighbours
from tasks.models.personal_frequency import PersonalFrequency
from tasks.models.picture_baselines import ClassMeans, MajorityClass
from tasks.models.picture_net import PictureNet
from tasks.models.popularity import Popularity
from tasks.models.transformer import Transformer

Arguments = Mapping[str, Any]


def _blend(num_items: int, markov: Arguments, transformer: Arguments) -> BlendedRecommender:
    return BlendedRecommender(
        num_items,
        PersonalFrequency(num_items),
        ItemNeighbours(num_items, **markov),
        Transformer(num_items, **transformer),
    )


BUILDERS: MappingProxyType[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "popularity": Popularity,
        "personal_frequency": PersonalFrequency,
        "markov": ItemNeighbours,
        "first_order_markov": ItemNeighbours,
        "ease": ItemNeighbours,
        "item_knn": ItemNeighbours,
        "ials": Ials,
        "gru": Gru,
        "transformer": Transformer,
        "blend": _blend,
        "majority_class": MajorityClass,
        "class_means": ClassMeans,
        "picture_net": PictureNet,
    }
)


def build_model(architecture: str, arguments: Arguments) -> nn.Module:
    """Return a model with untrained tensors."""
    if architecture not in BUILDERS:
        message = f"model: expected an architecture of {sorted(BUILDERS)}, found {architecture!r}"
        raise BadRequestError(message)
    return BUILDERS[architecture](**arguments)


def save_model(
    model: nn.Module, architecture: str, arguments: Arguments, folder: Path, name: str = "model"
) -> None:
    """Write `<name>.json` and `<name>.safetensors`; equal models give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
    (folder / f"{name}.safetensors").write_bytes(save(dict(sorted(tensors.items()))))
    record = {"format": "model/1", "architecture": architecture, "arguments": dict(arguments)}
    (folder / f"{name}.json").write_text(pretty_json(record), encoding="utf-8")


def load_model(folder: Path, name: str = "model") -> nn.Module:
    """Return the model that `save_model` wrote, in evaluation mode."""
    where = f"{name}.json"
    record = parse_object((folder / where).read_bytes(), where)
    check_format(record, "model", 1, where)
    arguments = record["arguments"]
    if not isinstance(arguments, dict):
        message = f"{where}: expected arguments as an object, found {arguments!r:.80}"
        raise BadRequestError(message)
    model = build_model(str(record["architecture"]), arguments)
    tensors: dict[str, torch.Tensor] = load_file(folder / f"{name}.safetensors")
    model.load_state_dict(tensors)
    return model.eval()
