"""Compressed classifiers of pictures, and the golden pictures that they answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.func import functional_call

from tasks.compression.compress import CODERS
from tasks.contracts.columns import Period
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import check_format, parse_object
from tasks.models.keras import use_backend
from tasks.models.keras.two_convolutions import ARCHITECTURE as KERAS
from tasks.models.keras.two_convolutions import set_weights, two_convolutions
from tasks.models.picture_net import folded
from tasks.models.pictures import Pictures

BATCH = 100
EDGE = "edge"


class CompressedClassifier(nn.Module):
    """Logits computed with decoded weights: the reference of every later comparison."""

    def __init__(self, model: nn.Module, recipe: str) -> None:
        super().__init__()
        if recipe not in CODERS:
            message = f"compression: expected one of {sorted(CODERS)}, found {recipe!r:.80}"
            raise BadRequestError(message)
        self.network = folded(model)
        tensors = self.network.state_dict()
        found = {name: CODERS[recipe](tensor) for name, tensor in tensors.items()}
        self.places = {
            name: f"coded_{place}"
            for place, name in enumerate(sorted(found))
            if found[name] is not None
        }
        for name, place in self.places.items():
            self.add_module(place, cast("nn.Module", found[name]))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Return logits [B, classes] of images [B, side, side] from 0 to 1."""
        decoded = {name: self.get_submodule(place)() for name, place in self.places.items()}
        return (cast("Tensor", functional_call(self.network, decoded, (images,))),)


class KerasClassifier:
    """A trained Keras model on Keras's torch backend; its weights stay as they were trained."""

    def __init__(self, folder: Path, name: str, recipe: str) -> None:
        if recipe != "none":
            message = (
                f"compression {recipe}: expected 'none' for a Keras model, which is exported "
                "natively with its weights as trained; next step: release it with 'none'"
            )
            raise BadRequestError(message)
        use_backend("torch")
        record = parse_object((folder / f"{name}.json").read_bytes(), f"{name}.json")
        self.model = two_convolutions(**cast("dict[str, Any]", record["arguments"]))
        self.weights = load_file(folder / f"{name}.safetensors")
        set_weights(self.model, self.weights)

    def __call__(self, images: Tensor) -> tuple[Tensor]:
        """Return logits [B, classes] of images [B, side, side] from 0 to 1."""
        return (self.model(images, training=False),)


def is_keras(folder: Path, name: str) -> bool:
    """Say whether the model `name` of a trained model's folder is one of Keras."""
    record = parse_object((folder / f"{name}.json").read_bytes(), f"{name}.json")
    check_format(record, "model", 1, f"{name}.json")
    return record.get("architecture") == KERAS


def picture_arrays(pictures: Pictures, wanted: int, seed: int) -> dict[str, NDArray[Any]]:
    """Return images, picture and target of up to `wanted` pictures of the gate period.

    Four follow that nobody took: black, white, a ramp, a chequerboard.
    """
    rows = pictures.rows(Period.GATE)
    picked = np.sort(np.random.default_rng(seed).permutation(rows)[:wanted])
    shape = pictures.images.shape[1:]
    ramp = np.arange(shape[0] * shape[1]).reshape(shape) % 256
    chequers = np.indices(shape).sum(axis=0) % 2 * 255
    edges = np.stack([np.zeros(shape), np.full(shape, 255), ramp, chequers]).astype(np.uint8)
    names = [f"picture-{row:05d}" for row in picked] + [""] * len(edges)
    targets = np.asarray([*pictures.class_names, EDGE])
    labels = np.concatenate([pictures.labels[picked], np.full(len(edges), len(targets) - 1)])
    return {
        "images": np.concatenate([pictures.images[picked], edges]),
        "picture": np.asarray(names),
        "target": targets[labels],
    }


def classified(
    model: CompressedClassifier | KerasClassifier, images: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return all classes [R, C] for images [R, side, side], best first, and their probabilities."""
    with torch.no_grad():
        parts = torch.from_numpy(images).split(BATCH)
        scores = torch.softmax(torch.cat([model(part)[0] for part in parts]), dim=1)
    best = torch.sort(scores, dim=1, descending=True, stable=True)
    return best.indices.numpy(), best.values.numpy()


def by_class(items: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities [R, C] in order of the classes."""
    found = np.zeros_like(scores)
    np.put_along_axis(found, items, scores, axis=1)
    return found
