"""Labelled pictures as arrays: what a feature set of pictures holds, and how it is cut in periods."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.columns import Period
from tasks.contracts.errors import BadRequestError
from tasks.models.npz_files import arrays_of

FILE = "pictures.npz"
_FORMAT = "pictures/1"
_ARRAYS = ("images", "labels", "period")


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """N grey pictures with a class each; rows of one period are one after the other."""

    images: NDArray[np.uint8]  # [N, height, width], 0 black to 255 white
    labels: NDArray[np.int64]  # [N] index into class_names
    period: NDArray[np.int8]  # [N] a `Period`
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit each other."""
        rows, classes = len(self.images), len(self.class_names)
        shapes = (self.images.ndim, self.labels.shape, self.period.shape)
        if shapes != (3, (rows,), (rows,)):
            message = f"pictures: expected images [N, height, width] and N labels and periods, found {shapes}"
            raise BadRequestError(message)
        if rows and not (self.labels.min() >= 0 and self.labels.max() < classes):
            message = f"pictures: expected labels 0..{classes - 1}, found {self.labels.min()}..{self.labels.max()}"
            raise BadRequestError(message)

    def rows(self, period: Period) -> NDArray[np.int64]:
        """Return the rows of one period."""
        return np.flatnonzero(self.period == int(period))

    def shown(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return [R, height, width] from 0 to 1: what a model is shown of `rows`."""
        return self.images[rows].astype(np.float32) / np.float32(255)

    def save(self, folder: Path) -> None:
        """Write `pictures.npz`, uncompressed: equal pictures give equal bytes."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays["class_names"] = np.asarray(self.class_names)
        np.savez(folder / FILE, allow_pickle=False, format=np.asarray(_FORMAT), **arrays)

    @classmethod
    def load(cls, folder: Path) -> Pictures:
        """Read what `save` wrote."""
        with arrays_of(folder / FILE, _FORMAT) as found:
            names = tuple(str(name) for name in found["class_names"])
            return cls(**{name: found[name] for name in _ARRAYS}, class_names=names)
