"""Make the classifier of a recipe, and the baselines that every evaluation compares it with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tasks.contracts.columns import Period
from tasks.contracts.stage_io import CHECKPOINT_SECONDS, SayProgress
from tasks.models.keras.two_convolutions import ARCHITECTURE as KERAS
from tasks.models.keras.two_convolutions import weights_of
from tasks.models.picture_baselines import ClassMeans, MajorityClass
from tasks.models.picture_net import PictureNet
from tasks.models.pictures import Pictures
from tasks.models.registry import Arguments
from tasks.training.keras_fit import fit_keras, keras_logits
from tasks.training.picture_fit import PictureEpoch, PictureFit, predicted
from tasks.training.picture_recipes import PictureRecipe


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A fitted classifier with what is needed to build it again."""

    architecture: str
    arguments: Arguments
    model: Any  # a torch module, or a Keras model
    curve: tuple[PictureEpoch, ...] = ()
    resumed_from: str | None = None

    @property
    def is_keras(self) -> bool:
        """Say whether it is a Keras model."""
        return self.architecture == KERAS

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return everything fitted, by name."""
        if self.is_keras:
            return weights_of(self.model)
        return {name: tensor.numpy() for name, tensor in self.model.state_dict().items()}

    def select_accuracy(self, pictures: Pictures) -> float:
        """Return the share of the select period's pictures that get their class."""
        rows = pictures.rows(Period.SELECT)
        shown = pictures.shown(rows)
        found = (
            keras_logits(self.model, shown).argmax(axis=1)
            if self.is_keras
            else predicted(self.model, shown)
        )
        return float((found == pictures.labels[rows]).mean())


def make_baselines(pictures: Pictures) -> dict[str, Classifier]:
    """Fit the majority class and the class means on the train period."""
    classes, side = len(pictures.class_names), pictures.images.shape[1]
    rows = pictures.rows(Period.TRAIN)
    labels, flat = pictures.labels[rows], pictures.shown(rows).reshape(len(rows), -1)
    counts = np.bincount(labels, minlength=classes)
    majority = MajorityClass(classes)
    majority.log_shares.copy_(torch.from_numpy(np.log((counts + 1.0) / (len(labels) + classes))))
    sums = np.stack([flat[labels == c].sum(axis=0, dtype=np.float64) for c in range(classes)])
    means = sums / np.maximum(counts, 1)[:, None]
    nearest = ClassMeans(classes, side=side)
    nearest.means.copy_(torch.from_numpy(means))
    squares = float((flat.astype(np.float64) ** 2).sum() - (counts[:, None] * means**2).sum())
    nearest.variance.fill_(max(squares / len(labels), 1e-6))  # summed over the pixels
    return {
        "majority_class": Classifier(
            architecture="majority_class", arguments={"classes": classes}, model=majority.eval()
        ),
        "class_means": Classifier(
            architecture="class_means",
            arguments={"classes": classes, "side": side},
            model=nearest.eval(),
        ),
    }


def make_classifier(
    pictures: Pictures,
    recipe: PictureRecipe,
    baselines: Mapping[str, Classifier],
    *,
    seed: int,
    checkpoints: Path,
    progress: SayProgress,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Classifier:
    """Return the recipe's classifier, fitted; Keras writes a checkpoint after each epoch only."""
    if recipe.architecture in baselines:
        return baselines[recipe.architecture]
    arguments = {"classes": len(pictures.class_names), "side": pictures.images.shape[1]}
    if recipe.keras is not None:
        fitted, curve, resumed = fit_keras(pictures, recipe.keras, seed, checkpoints, progress)
        return Classifier(
            architecture=recipe.architecture,
            arguments=arguments,
            model=fitted,
            curve=tuple(curve),
            resumed_from=resumed,
        )
    arguments |= {
        "widths": list(recipe.widths),
        "blocks": list(recipe.blocks),
        "mirrored": recipe.mirrored,
    }
    fit = picture_fit(pictures, recipe, seed, checkpoint_seconds)
    found = fit.run(checkpoints, progress)
    return Classifier(
        architecture=recipe.architecture,
        arguments=arguments,
        model=fit.model,
        curve=tuple(found),
        resumed_from=fit.resumed_from,
    )


def picture_fit(
    pictures: Pictures,
    recipe: PictureRecipe,
    seed: int,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> PictureFit:
    """Return the fit of a recipe's network, not yet begun."""
    if recipe.fit is None:
        message = f"recipe {recipe.name}: expected settings of a fit, found none"
        raise ValueError(message)
    torch.manual_seed(seed)
    model = PictureNet(
        len(pictures.class_names),
        side=pictures.images.shape[1],
        widths=recipe.widths,
        blocks=recipe.blocks,
        mirrored=recipe.mirrored,
    )
    shown = pictures.shown(pictures.rows(Period.TRAIN))
    with torch.no_grad():
        model.shift.fill_(float(shown.mean()))
        model.scale.fill_(float(shown.std()))
    settings = replace(recipe.fit, seed=seed)
    return PictureFit(model, pictures, settings, checkpoint_seconds=checkpoint_seconds)


def parameters_of(classifier: Classifier) -> int:
    """Return how many numbers training chose; running means of a normalisation are none."""
    if isinstance(classifier.model, nn.Module) and not classifier.is_keras:
        return sum(tensor.numel() for tensor in classifier.model.parameters())
    return sum(array.size for array in classifier.tensors().values())
