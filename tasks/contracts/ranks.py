"""The processes that run one stage together, as one of them sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """One process that works alone; `tasks.training.ranks` has those that work together.

    Every method but `is_first` is called by all ranks, in the same order.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Say whether this is the rank that writes, seals and speaks for all."""
        return self.rank == 0

    def share(self, rows: Any) -> Any:
        """Return every `size`-th of `rows` (an array), beginning with this rank's."""
        return rows[self.rank :: self.size]

    def from_first(self, value: _T) -> _T:
        """Return the first rank's value on every rank."""
        return value

    def gathered(self, value: _T) -> list[_T]:
        """Return the values of all ranks, by rank, on every rank."""
        return [value]

    def total(self, values: Sequence[float]) -> list[float]:
        """Return the sums over the ranks of each of `values`, the same bits on every rank."""
        return list(values)


ALONE = Ranks()
