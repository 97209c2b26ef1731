"""Training windows: the last S steps before a cut of each user's train period, with next steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.models.event_types import UNKNOWN_TYPE, codes_of
from tasks.models.interactions import Interactions


@dataclass(frozen=True, kw_only=True)
class Windows:
    """W windows of S steps: inputs as in serving, and (window, place, item, type) of what came next."""

    items: NDArray[np.int64]  # [W, L] right-aligned, 0 = padding
    steps_ago: NDArray[np.int64]  # [W, L]
    event_types: NDArray[
        np.int8
    ]  # [W, L] codes of `models.event_types`; 0 = padding, or not asked for
    pair_offsets: NDArray[np.int64]  # [W + 1]
    pair_place: NDArray[np.int64]  # [P] which of the S states predicts the item
    pair_item: NDArray[np.int64]  # [P]
    pair_type: NDArray[np.int8]  # [P] place of its type in EVENT_TYPES; -1 = not asked for

    def __len__(self) -> int:
        """Return W."""
        return len(self.items)


def training_windows(
    interactions: Interactions, steps: int, max_length: int, *, typed: bool = False
) -> Windows:
    """Cut every user's train steps into windows of S, each predicting the step after each of S.

    A window has fewer steps where its items would be more than L: each step but the first is predicted once, from a
    step before it that is there whole (or cut to L items, as in serving, where it alone has more).
    `typed` also puts the type of each event beside its item, in the input and of what came next.
    """
    items, ago, types, offsets = [], [], [], [0]
    places, targets, target_types = [], [], []
    codes = _codes(interactions, typed=typed)
    for user in range(interactions.num_users):
        start, end = interactions.offsets[user], interactions.offsets[user + 1]
        train = interactions.period[start:end] == 0
        known = interactions.items[start:end][train].astype(np.int64)
        known_types = codes[start:end][train]
        ordinals = _dense(interactions.basket[start:end][train])
        for first, cut in _cuts(ordinals, steps, max_length):
            place = steps - cut + ordinals
            inside = (place >= 0) & (ordinals < cut)
            wanted = (ordinals > first) & (ordinals <= cut)
            items.append(_right(known[inside], max_length))
            ago.append(_right(cut - ordinals[inside], max_length))
            types.append(_right(known_types[inside], max_length))
            places.append(place[wanted] - 1)
            targets.append(known[wanted])
            target_types.append(known_types[wanted] - np.int8(1))
            offsets.append(offsets[-1] + int(wanted.sum()))
    empty = [np.zeros(0, np.int64)]
    shape = (len(items), max_length)
    return Windows(
        items=np.array(items, np.int64).reshape(shape),
        steps_ago=np.array(ago, np.int64).reshape(shape),
        event_types=np.array(types, np.int64).astype(np.int8).reshape(shape),
        pair_offsets=np.array(offsets, np.int64),
        pair_place=np.concatenate(places or empty).astype(np.int64),
        pair_item=np.concatenate(targets or empty).astype(np.int64),
        pair_type=np.concatenate(target_types or empty).astype(np.int8),
    )


def _cuts(ordinals: NDArray[np.int64], steps: int, max_length: int) -> Iterator[tuple[int, int]]:
    """Yield (first, cut) of each window, the latest first: it has steps first to cut - 1, predicts up to `cut`."""
    cut = int(ordinals[-1]) if len(ordinals) else 0
    starts = np.searchsorted(ordinals, np.arange(cut + 1))  # the first row of each step
    while cut > 0:
        whole = int(np.searchsorted(starts, starts[cut] - max_length))  # the oldest that fits
        first = max(cut - steps, min(whole, cut - 1), 0)
        yield first, cut
        cut = first


def _codes(interactions: Interactions, *, typed: bool) -> NDArray[np.int8]:
    if typed:
        return codes_of(interactions.event_type).astype(np.int8)
    return np.full(len(interactions.items), UNKNOWN_TYPE, np.int8)


def _dense(ordinals: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return 0, 1, .. for steps with known items; steps of unknown items leave no gap."""
    if len(ordinals) == 0:
        return np.zeros(0, np.int64)
    return np.concatenate([[0], np.cumsum(np.diff(ordinals) > 0)]).astype(np.int64)


def _right(values: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    row = np.zeros(length, np.int64)
    kept = values[-length:]
    if len(kept):
        row[-len(kept) :] = kept
    return row
