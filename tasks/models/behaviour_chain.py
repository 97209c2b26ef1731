"""Markov chain over behaviour types: P(next type | last types) of views, carts, purchases.

P_k, given the last k types, is (count + smoothing * P_(k-1)) / (total + smoothing), down to P_0, the
shares of the types, and 1 / number of types before that (MacKay and Peto, 1995): where the last k
types were never seen together, fewer of them speak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.columns import EVENT_TYPES
from tasks.contracts.errors import BadRequestError
from tasks.models.interactions import Interactions

TYPES = len(EVENT_TYPES)
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class BehaviourChain:
    """Counts of what came after the last 0, 1, .. types; a context is a number in base TYPES.

    The latest type is the lowest digit: (view, cart) is place(view) * TYPES + place(cart).
    """

    counts: tuple[NDArray[np.int64], ...]  # of order k: [TYPES^k, TYPES]
    smoothing: float

    @property
    def order(self) -> int:
        """Return how many of the last types are looked at."""
        return len(self.counts) - 1

    def table(self) -> Floats:
        """Return P(next type | last types) of every context: [TYPES^order, TYPES]."""
        found = np.full((1, TYPES), 1 / TYPES)  # before anything was counted
        for order, counts in enumerate(self.counts):
            shorter = np.tile(found, (len(counts) // len(found), 1)) if order else found
            totals = counts.sum(axis=1, keepdims=True).astype(np.float64)
            weight = np.where(totals + self.smoothing > 0, self.smoothing, 1.0)
            found = (counts + weight * shorter) / (totals + weight)
        return found

    def after(self, last: Sequence[str]) -> dict[str, float]:
        """Return P(next type) after `last`, oldest first; there must be at least `order` of them."""
        unknown = sorted(set(last) - set(EVENT_TYPES))
        if unknown or len(last) < self.order:
            message = (
                f"behaviour: expected at least {self.order} types of {list(EVENT_TYPES)}, "
                f"found {list(last)!r:.200}"
            )
            raise BadRequestError(message)
        context = 0
        for kind in last[len(last) - self.order :]:
            context = context * TYPES + EVENT_TYPES.index(kind)
        return dict(zip(EVENT_TYPES, self.table()[context].tolist(), strict=True))


def count_behaviour(
    interactions: Interactions, order: int, smoothing: float = 1.0
) -> BehaviourChain:
    """Return the chain of the train period, over events on items of the vocabulary."""
    counts = []
    for length in range(order + 1):
        context, following = _pairs(interactions, length, period=0)
        codes = np.bincount(context * TYPES + following, minlength=TYPES ** (length + 1))
        counts.append(codes.reshape(TYPES**length, TYPES).astype(np.int64))
    return BehaviourChain(counts=tuple(counts), smoothing=smoothing)


def bits_per_event(chain: BehaviourChain, interactions: Interactions, period: int) -> float | None:
    """Return the mean of -log2 P(type) over the events of `period`; None where there are none.

    Events with fewer than `order` events of the user before them are left out.
    """
    context, following = _pairs(interactions, chain.order, period)
    if len(context) == 0:
        return None
    with np.errstate(divide="ignore"):  # never seen and not smoothed: infinitely many
        return float(np.log2(1 / chain.table()[context, following]).mean())


def _pairs(
    interactions: Interactions, length: int, period: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each event of `period` with `length` before it, their context and its type."""
    kinds = interactions.event_type.astype(np.int64)
    user = np.repeat(np.arange(interactions.num_users), np.diff(interactions.offsets))
    place = np.arange(len(kinds), dtype=np.int64) - interactions.offsets[user]
    chosen = np.flatnonzero((interactions.period == period) & (place >= length))
    context: NDArray[Any] = np.zeros(len(chosen), np.int64)
    for back in range(1, length + 1):
        context += kinds[chosen - back] * TYPES ** (back - 1)
    return context, kinds[chosen]
