"""Golden requests: histories of real users, and the compressed torch model's answers to them.

`golden.npz` (format `golden_requests/1`) passes from the torch image to the TensorFlow image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tasks.models.npz_files import arrays_of

GOLDEN_FILE = "golden.npz"
_FORMAT = "golden_requests/1"

Int64s: TypeAlias = NDArray[np.int64]
Strings: TypeAlias = NDArray[np.str_]


@dataclass(frozen=True, kw_only=True)
class Requests:
    """R requests as the network sees them; right-aligned, 0 where there is no history."""

    items: Int64s  # [R, L]
    steps_ago: Int64s  # [R, L]
    user: Strings  # [R] "" for a request that no user made
    target: Strings  # [R] head, mid or tail by the items that came next; "edge" if made up
    history: Strings  # [R] short or long against the median; "edge" if made up

    def __len__(self) -> int:
        """Return R."""
        return len(self.items)

    @property
    def real(self) -> NDArray[np.bool_]:
        """Return [R]: whether a user made the request."""
        return self.history != "edge"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The best items of R requests, best first, and their scores."""

    items: Int64s  # [R, k]
    scores: NDArray[np.float32]  # [R, k]


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Requests and each model's answers: `model`, and every baseline by name."""

    requests: Requests
    answers: Mapping[str, Answers]

    def save(self, path: Path) -> None:
        """Write an uncompressed npz: equal golden requests give equal bytes."""
        arrays: dict[str, Any] = {"format": np.asarray(_FORMAT), **vars(self.requests)}
        arrays["models"] = np.asarray(sorted(self.answers))
        for name, answers in self.answers.items():
            arrays[f"{name}__items"] = answers.items
            arrays[f"{name}__scores"] = answers.scores
        np.savez(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Golden:
        """Read what `save` wrote."""
        with arrays_of(path, _FORMAT) as arrays:
            names = ("items", "steps_ago", "user", "target", "history")
            requests = Requests(**{name: arrays[name] for name in names})
            answers = {
                str(name): Answers(items=arrays[f"{name}__items"], scores=arrays[f"{name}__scores"])
                for name in arrays["models"]
            }
        return cls(requests=requests, answers=answers)
