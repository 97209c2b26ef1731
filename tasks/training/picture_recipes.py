"""Recipes of classifiers of pictures: a named function per way of making one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Literal

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json
from tasks.training.keras_fit import KerasFitSettings
from tasks.training.picture_fit import PictureFitSettings

PictureArchitecture = Literal[
    "majority_class", "class_means", "picture_net", "keras_two_convolutions"
]


@dataclass(frozen=True, kw_only=True)
class PictureRecipe:
    """Everything that decides how a classifier comes out, but for the pictures and the seed."""

    name: str
    architecture: PictureArchitecture
    widths: tuple[int, ...] = ()  # channels of the network's stages
    blocks: tuple[int, ...] = (0, 1, 1)  # residual blocks of each
    mirrored: bool = False
    fit: PictureFitSettings | None = None
    keras: KerasFitSettings | None = None  # neither: fitted by counting

    @property
    def threads(self) -> int:
        """Return how many threads it is fitted with."""
        fit = self.fit or self.keras
        return 1 if fit is None else fit.threads

    def resolved(self, seed: int) -> dict[str, Json]:
        """Return every setting as JSON: part of the artifact's key."""
        seeded = self if self.fit is None else replace(self, fit=replace(self.fit, seed=seed))
        drawn = seed if self.fit or self.keras else None  # nothing is drawn where one only counts
        lists: dict[str, Json] = {"widths": list(self.widths), "blocks": list(self.blocks)}
        return dict(asdict(seeded)) | lists | {"seed": drawn}


def majority_class() -> PictureRecipe:
    """Answer with the shares of the classes for every picture: what a first release ships."""
    return PictureRecipe(name="majority_class", architecture="majority_class")


def class_means() -> PictureRecipe:
    """Answer with the class whose mean picture is nearest."""
    return PictureRecipe(name="class_means", architecture="class_means")


def residual_picture_net() -> PictureRecipe:
    """Small residual network, 470 k parameters; an hour or two on one core of a CPU."""
    return PictureRecipe(
        name="residual_picture_net",
        architecture="picture_net",
        widths=(32, 64, 128),
        mirrored=True,
        fit=PictureFitSettings(
            epochs=26,
            batch=128,
            learning_rate=0.15,
            warm_up_share=0.25,
            weight_decay=5e-4,
            label_smoothing=0.1,
            max_shift=2,
            cutout=8,
            ema_decay=0.998,
            seed=1,
        ),
    )


def deep_picture_net() -> PictureRecipe:
    """Deeper residual network, 674 k parameters: minutes on a GPU, more than a day on one core of a CPU."""
    return PictureRecipe(
        name="deep_picture_net",
        architecture="picture_net",
        widths=(32, 64, 128),
        blocks=(3, 3, 1),
        mirrored=True,
        fit=PictureFitSettings(
            epochs=150,
            batch=512,
            learning_rate=0.4,
            warm_up_share=0.1,
            weight_decay=5e-4,
            label_smoothing=0.05,
            max_shift=2,
            cutout=8,
            ema_decay=0.998,
            bf16=True,
            seed=1,
        ),
    )


def keras_two_convolutions() -> PictureRecipe:
    """Two convolutions in Keras 3: minutes on one core of a CPU."""
    return PictureRecipe(
        name="keras_two_convolutions",
        architecture="keras_two_convolutions",
        keras=KerasFitSettings(epochs=10, batch=128, learning_rate=1e-3),
    )


PICTURE_RECIPES: MappingProxyType[str, Callable[[], PictureRecipe]] = MappingProxyType(
    {
        recipe.__name__: recipe
        for recipe in (
            majority_class,
            class_means,
            residual_picture_net,
            deep_picture_net,
            keras_two_convolutions,
        )
    }
)


def picture_recipe_named(name: str) -> PictureRecipe:
    """Return a recipe of a classifier."""
    if name not in PICTURE_RECIPES:
        message = f"recipe: expected one of {sorted(PICTURE_RECIPES)}, found {name!r:.80}"
        raise BadRequestError(message)
    return PICTURE_RECIPES[name]()
