"""Golden pictures, and the compressed model's answers to them: `golden.npz`, `golden_pictures/1`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.bundling.golden import GOLDEN_FILE, Answers, Strings
from tasks.models.npz_files import arrays_of

_FORMAT = "golden_pictures/1"


@dataclass(frozen=True, kw_only=True)
class PictureRequests:
    """R pictures as clients send them."""

    images: NDArray[np.uint8]  # [R, side, side]
    picture: Strings  # [R] "" for a picture that nobody took
    target: Strings  # [R] the name of its class; "edge" if made up

    @property
    def real(self) -> NDArray[np.bool_]:
        """Return [R]: whether it is a picture of the set."""
        return self.target != "edge"

    def shown(self) -> NDArray[np.float32]:
        """Return [R, side, side] from 0 to 1, as a network sees them."""
        return self.images.astype(np.float32) / np.float32(255)


@dataclass(frozen=True, kw_only=True)
class GoldenPictures:
    """Requests and each model's answers: `model`, and every baseline by name."""

    requests: PictureRequests
    answers: Mapping[str, Answers]  # items are indices of classes, all of them, best first

    def save(self, folder: Path) -> None:
        """Write an uncompressed npz: equal golden pictures give equal bytes."""
        arrays: dict[str, Any] = {"format": np.asarray(_FORMAT), **vars(self.requests)}
        arrays["models"] = np.asarray(sorted(self.answers))
        for name, answers in self.answers.items():
            arrays[f"{name}__items"] = answers.items
            arrays[f"{name}__scores"] = answers.scores
        np.savez(folder / GOLDEN_FILE, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, folder: Path) -> GoldenPictures:
        """Read what `save` wrote."""
        with arrays_of(folder / GOLDEN_FILE, _FORMAT) as arrays:
            names = ("images", "picture", "target")
            requests = PictureRequests(**{name: arrays[name] for name in names})
            answers = {
                str(name): Answers(items=arrays[f"{name}__items"], scores=arrays[f"{name}__scores"])
                for name in arrays["models"]
            }
        return cls(requests=requests, answers=answers)
