"""Types of events as networks are given them: a view, a favourite, a cart or a purchase, or unknown.

Code 0 is an unknown type and padding; code t + 1 is `EVENT_TYPES[t]`, as in users' profiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.columns import EVENT_TYPES
from tasks.contracts.errors import BadRequestError
from tasks.models.interactions import Examples, Int64s, Interactions, history_rows

TYPES = len(EVENT_TYPES)
UNKNOWN_TYPE = 0


def takes_event_types(model: object) -> bool:
    """Say whether a model can be given the types of the events of a history."""
    return bool(getattr(model, "takes_event_types", False))


def codes_of(types: NDArray[np.integer]) -> Int64s:
    """Return the codes of places in EVENT_TYPES, of any shape; refuse other numbers."""
    outside = (types < 0) | (types >= TYPES)
    if outside.any():
        message = (
            f"event types: expected places 0 to {TYPES - 1} of {list(EVENT_TYPES)}, found "
            f"{int(outside.sum())} others, such as {int(types[outside].flat[0])}"
        )
        raise BadRequestError(message)
    return types.astype(np.int64) + 1


def history_types(interactions: Interactions, examples: Examples, max_length: int) -> Int64s:
    """Return the codes of the events of `history_batch`, int64 [B, L], each in the place of its item."""
    rows, inside = history_rows(interactions, examples, max_length)
    if len(interactions.items) == 0:
        return np.zeros_like(rows)
    found: Int64s = np.where(inside, codes_of(interactions.event_type[rows]), UNKNOWN_TYPE)
    return found


@dataclass(frozen=True, kw_only=True)
class NextTypes:
    """What came next: N events on known items of the steps to foretell."""

    example: Int64s  # [N] the example that each belongs to
    place: Int64s  # [N] place in EVENT_TYPES

    def __len__(self) -> int:
        """Return N."""
        return len(self.place)


def next_types(interactions: Interactions, examples: Examples) -> NextTypes:
    """Return the types of the events in each example's step; events on unknown items have none."""
    steps = interactions.step_offsets[examples.user] + examples.step
    counts = interactions.step_ends[steps] - examples.end
    example = np.repeat(np.arange(len(examples), dtype=np.int64), counts)
    started = np.repeat(np.cumsum(counts) - counts, counts)
    rows = examples.end[example] + np.arange(len(example), dtype=np.int64) - started
    return NextTypes(example=example, place=codes_of(interactions.event_type[rows]) - 1)


def types_in_train(interactions: Interactions) -> Int64s:
    """Return [T]: how many events of each type the train period has, on known items."""
    train = interactions.event_type[interactions.period == 0]
    return np.bincount(codes_of(train) - 1, minlength=TYPES).astype(np.int64)
