"""Where state records lie: one text a model, changed by compare-and-swap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

# What a change makes of the newest text (None: there is none yet); None changes nothing.
TextChange = Callable[[bytes | None], str | None]


class RecordStore(Protocol):
    """The state records of one deployment."""

    def models(self) -> list[str]:
        """Return the models that have a record, sorted."""
        ...

    def read(self, model: str) -> bytes | None:
        """Return a model's record, None where there is none yet."""
        ...

    def update(self, model: str, change: TextChange) -> None:
        """Replace the record by what `change` makes of the newest one, and of no other.

        `change` may be called more than once; only what its last call gave was written. What it
        raises ends the update, and nothing was written.
        """
        ...

    def where(self, model: str) -> str:
        """Return the place of a model's record, for messages."""
        ...
