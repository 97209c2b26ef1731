"""The requests of a replay, whatever the model answers: split between the steps, kept in one file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tasks.models.npz_files import arrays_of


@dataclass(frozen=True, kw_only=True)
class StepRequests(ABC):
    """E requests in the order in which they are asked, and what each hopes for."""

    FORMAT: ClassVar[str]

    step_ends: NDArray[np.int64]  # [steps] request after the last one of each step

    @abstractmethod
    def __len__(self) -> int:
        """Return E."""

    @abstractmethod
    def user_of(self, request: int) -> str:
        """Return the id by which who asks is assigned to a variant."""

    @abstractmethod
    def body_of(self, request: int) -> bytes:
        """Return the JSON body of the predict request."""

    @abstractmethod
    def is_hit(self, request: int, body: Any) -> bool:
        """Say whether the JSON answer of `:predict` has what was hoped for."""

    def of_step(self, step: int) -> range:
        """Return the requests of a step, 1 being the first."""
        start = 0 if step == 1 else int(self.step_ends[step - 2])
        return range(start, int(self.step_ends[step - 1]))

    def save(self, path: Path) -> None:
        """Write an npz in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {
            one.name: np.asarray(getattr(self, one.name)) for one in fields(self)
        }
        scratch = path.with_suffix(".writing.npz")
        np.savez(scratch, allow_pickle=False, format=np.asarray(self.FORMAT), **arrays)
        scratch.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with arrays_of(path, cls.FORMAT) as arrays:
            values: dict[str, Any] = {one.name: arrays[one.name] for one in fields(cls)}
        return cls(**values)


def step_ends(shares: Any, requests: int) -> NDArray[np.int64]:
    """Return where each step ends: disjoint parts one after the other, so no outcome is used twice."""
    ends = np.floor(np.cumsum(np.asarray(shares, dtype=float)) * requests + 1e-9)
    return ends.astype(np.int64)
