"""How well the type of the next event is foretold: by a model, by the chain of types, by their shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.json_types import Json
from tasks.models.event_types import TYPES, history_types, next_types
from tasks.models.interactions import Examples, Interactions
from tasks.models.profile_definition import next_types_by_last_two

Floats = NDArray[np.float64]
LEAST = 1e-12  # of a chance: a network's is never 0, a table's may be


@dataclass(frozen=True, kw_only=True)
class TypeScores:
    """Over N events: how surprising their types were, and how often the likeliest was right."""

    events: int
    bits: float  # the mean of -log2 of the chance of what came
    accuracy: float

    def record(self) -> dict[str, Json]:
        """Return the numbers as JSON."""
        return {
            "events": self.events,
            "bits": round(self.bits, 6),
            "accuracy": round(self.accuracy, 6),
        }


def score_types(
    chances: Floats, interactions: Interactions, examples: Examples
) -> TypeScores | None:
    """Return how well `chances` [E, T] foretell each event of the examples' steps; None without any."""
    came = next_types(interactions, examples)
    if len(came) == 0:
        return None
    given = chances[came.example]
    own = given[np.arange(len(came)), came.place]
    return TypeScores(
        events=len(came),
        bits=float(-np.log2(np.maximum(own, LEAST)).mean()),
        accuracy=float((given.argmax(axis=1) == came.place).mean()),
    )


def chain_chances(interactions: Interactions, examples: Examples, max_length: int) -> Floats:
    """Return [E, T]: the Markov chain over the last two types, counted on the train period."""
    types = history_types(interactions, examples, max_length)
    before = types[:, -2] if max_length > 1 else np.zeros(len(types), np.int64)
    table: Floats = next_types_by_last_two(interactions).astype(np.float64)
    return table[before * (TYPES + 1) + types[:, -1]]


def share_chances(interactions: Interactions, examples: Examples) -> Floats:
    """Return [E, T]: the shares of the types in the train period, the same for every example."""
    shares = next_types_by_last_two(interactions)[0].astype(np.float64)
    return np.broadcast_to(shares, (len(examples), TYPES))
