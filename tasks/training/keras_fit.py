"""Fit a Keras classifier of pictures on Keras's torch backend; a kill costs at most an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.contracts.columns import Period
from tasks.contracts.stage_io import SayProgress
from tasks.models.keras import use_backend
from tasks.models.keras.two_convolutions import set_weights, two_convolutions, weights_of
from tasks.models.pictures import Pictures
from tasks.training.checkpoints import load_checkpoint, save_checkpoint
from tasks.training.device import training_device
from tasks.training.fit_identity import FitIdentity, data_digest, fit_identity
from tasks.training.picture_fit import PictureEpoch

EVALUATION_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class KerasFitSettings:
    """How long and how fast to train with Adam; the best epoch by the select period is kept."""

    epochs: int
    batch: int
    learning_rate: float
    threads: int = 1


def fit_keras(
    pictures: Pictures,
    settings: KerasFitSettings,
    seed: int,
    checkpoints: Path,
    progress: SayProgress,
) -> tuple[Any, list[PictureEpoch], str | None]:
    """Return the model, its curve, and where a killed fit went on (None: it began anew).

    Raises BadRequestError where `checkpoints` holds one of another fit.
    """
    use_backend("torch")
    import keras  # noqa: PLC0415  its backend is chosen before

    keras.utils.set_random_seed(seed)
    model = two_convolutions(len(pictures.class_names), pictures.images.shape[1])
    optimizer = keras.optimizers.Adam(settings.learning_rate)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss)
    optimizer.build(model.trainable_variables)
    identity = _identity(model, pictures, settings, seed)
    found = load_checkpoint(checkpoints, identity, lambda sentence: progress(sentence, None))
    curve: list[PictureEpoch] = []
    best: dict[str, NDArray[Any]] = {}
    resumed = None
    if found is not None:
        identity = found.identity
        curve, best = _restored(model, found.state)
        resumed = identity.place(f"epoch {len(curve)}")
        progress(f"goes on after {resumed}, from a checkpoint", None)
    train = pictures.rows(Period.TRAIN)
    images, labels = pictures.shown(train), pictures.labels[train]
    for number in range(len(curve) + 1, settings.epochs + 1):
        order = np.random.default_rng([seed, number]).permutation(len(train))
        history = model.fit(
            images[order], labels[order], batch_size=settings.batch, shuffle=False, verbose=0
        )
        accuracy = _select_accuracy(model, pictures)
        if accuracy > max((point.select_accuracy for point in curve), default=-1.0):
            best = weights_of(model)
        lost = float(history.history["loss"][-1])
        curve.append(PictureEpoch(epoch=number, loss=lost, select_accuracy=accuracy))
        _save(model, identity, curve, best, checkpoints)
        sentence = f"epoch {number}: loss {lost:.4f}, select accuracy {accuracy:.4f}"
        progress(sentence, number / settings.epochs)
    set_weights(model, best)
    return model, curve, resumed


def keras_logits(model: Any, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return logits [N, classes] of images [N, side, side]."""
    found = model.predict(images, batch_size=EVALUATION_BATCH, verbose=0)
    return np.asarray(found, np.float32)


def _select_accuracy(model: Any, pictures: Pictures) -> float:
    rows = pictures.rows(Period.SELECT)
    found = keras_logits(model, pictures.shown(rows)).argmax(axis=1)
    return float((found == pictures.labels[rows]).mean())


def _identity(model: Any, pictures: Pictures, settings: KerasFitSettings, seed: int) -> FitIdentity:
    import keras  # noqa: PLC0415  its backend is chosen before

    shapes = {f"network {name}": list(array.shape) for name, array in weights_of(model).items()}
    more = {"seed": seed, "keras": keras.__version__}
    data = data_digest(pictures)
    return fit_identity(settings, training_device(), data=data, network=shapes, **more)


def _save(
    model: Any,
    identity: FitIdentity,
    curve: list[PictureEpoch],
    best: dict[str, NDArray[Any]],
    checkpoints: Path,
) -> None:
    state = {
        "model": _tensors(weights_of(model)),
        "best": _tensors(best),
        "optimizer": [torch.from_numpy(np.array(v)) for v in _optimizer_values(model)],
        "curve": [vars(point) for point in curve],
    }
    save_checkpoint(checkpoints, state, identity)


def _tensors(arrays: dict[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def _optimizer_values(model: Any) -> list[NDArray[Any]]:
    return [variable.numpy() for variable in model.optimizer.variables]


def _restored(
    model: Any, state: dict[str, Any]
) -> tuple[list[PictureEpoch], dict[str, NDArray[Any]]]:
    """Put back what `_save` kept; return the curve and the best weights so far."""
    set_weights(model, {name: tensor.numpy() for name, tensor in state["model"].items()})
    for variable, value in zip(model.optimizer.variables, state["optimizer"], strict=True):
        variable.assign(value.numpy())
    curve = [PictureEpoch(**point) for point in state["curve"]]
    return curve, {name: tensor.numpy() for name, tensor in state["best"].items()}
