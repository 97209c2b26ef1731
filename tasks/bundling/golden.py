"""Golden requests: histories of real users, and the compressed torch model's answers to them.

`golden.npz` passes from the torch image to the TensorFlow image: format `golden_requests/1`, and `/2` where the
model takes the types of events.
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
_UNTYPED, _TYPED = "golden_requests/1", "golden_requests/2"

Int64s: TypeAlias = NDArray[np.int64]
Strings: TypeAlias = NDArray[np.str_]


@dataclass(frozen=True, kw_only=True)
class Requests:
    """R requests as users make them, of known items; right-aligned, 0 where there is no history."""

    items: Int64s  # [R, L]
    steps_ago: Int64s  # [R, L] counting steps of unknown items
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
class TypedAnswers:
    """The types of the requests' events, and what `model` answers to who sends them too."""

    event_types: Int64s  # [R, L] codes of `models.event_types`, each in the place of its item
    ranked: Answers
    next_types: NDArray[np.float32]  # [R, T] chances of the next event's type

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by their names in the file."""
        return {
            "typed__event_types": self.event_types,
            "typed__items": self.ranked.items,
            "typed__scores": self.ranked.scores,
            "typed__next_types": self.next_types,
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Any]) -> TypedAnswers:
        """Read what `arrays` gave."""
        ranked = Answers(items=arrays["typed__items"], scores=arrays["typed__scores"])
        return cls(
            event_types=arrays["typed__event_types"],
            ranked=ranked,
            next_types=arrays["typed__next_types"],
        )


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Requests and each model's answers: `model`, and every baseline by name.

    `answers` are those to clients that send no types; `typed` is there where the model takes them.
    """

    requests: Requests
    answers: Mapping[str, Answers]
    typed: TypedAnswers | None = None

    def save(self, path: Path) -> None:
        """Write an uncompressed npz: equal golden requests give equal bytes."""
        written_as = _UNTYPED if self.typed is None else _TYPED
        arrays: dict[str, Any] = {"format": np.asarray(written_as), **vars(self.requests)}
        arrays["models"] = np.asarray(sorted(self.answers))
        for name, answers in self.answers.items():
            arrays[f"{name}__items"] = answers.items
            arrays[f"{name}__scores"] = answers.scores
        if self.typed is not None:
            arrays |= self.typed.arrays()
        np.savez(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Golden:
        """Read what `save` wrote."""
        with arrays_of(path, _UNTYPED, _TYPED) as arrays:
            names = ("items", "steps_ago", "user", "target", "history")
            requests = Requests(**{name: arrays[name] for name in names})
            answers = {
                str(name): Answers(items=arrays[f"{name}__items"], scores=arrays[f"{name}__scores"])
                for name in arrays["models"]
            }
            is_typed = str(arrays["format"]) == _TYPED
            typed = TypedAnswers.of_arrays(arrays) if is_typed else None
        return cls(requests=requests, answers=answers, typed=typed)
