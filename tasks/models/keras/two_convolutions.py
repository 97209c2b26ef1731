"""Two convolutions, then a dense layer: the network that Keras's introductions begin with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.errors import BadRequestError

ARCHITECTURE = "keras_two_convolutions"


def two_convolutions(classes: int, side: int) -> Any:
    """Return a Keras model: images float32 [B, side, side] of 0 to 1 -> logits [B, classes]."""
    import keras  # noqa: PLC0415  its backend is chosen before (`tasks.models.keras`)

    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((side, side)),
            layers.Reshape((side, side, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(classes),
        ],
        name=ARCHITECTURE,
    )


def weights_of(model: Any) -> dict[str, NDArray[Any]]:
    """Return the model's weights by place and name, in order: `01_kernel`, `02_bias`, .."""
    return {
        f"{place:02d}_{variable.name}": np.asarray(value)
        for place, (variable, value) in enumerate(
            zip(model.weights, model.get_weights(), strict=True), start=1
        )
    }


def set_weights(model: Any, weights: Mapping[str, NDArray[Any]]) -> None:
    """Give the model what `weights_of` returned of its like."""
    wanted = {name: array.shape for name, array in weights_of(model).items()}
    found = {name: array.shape for name, array in weights.items()}
    if wanted != found:
        message = f"keras weights: expected {wanted}, found {found}"
        raise BadRequestError(message[:1000])
    model.set_weights([weights[name] for name in sorted(weights)])
