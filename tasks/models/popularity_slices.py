"""Head, mid and tail: items by how often they were taken in the train period."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.models.interactions import Examples, Interactions

SLICES = ("head", "mid", "tail")
HEAD, MID, TAIL = range(3)


def item_slices(interactions: Interactions) -> NDArray[np.int8]:
    """Return [I + 1], places in SLICES.

    The most taken items that make up a third of all train interactions are head, those of the next
    third mid, the rest (and index 0) tail.
    """
    train = interactions.items[interactions.period == 0]
    counts = np.bincount(train, minlength=interactions.num_items + 1)
    order = np.lexsort((np.arange(len(counts)), -counts))
    before = np.cumsum(counts[order]) - counts[order]
    slices = np.full(len(counts), TAIL, np.int8)
    slices[order] = np.minimum(before * 3 // max(int(counts.sum()), 1), TAIL)
    slices[0] = TAIL
    return slices


def user_slices(interactions: Interactions, examples: Examples) -> NDArray[np.int8]:
    """Return [U]: the slice that most of a user's targets are in, the rarer one at a tie.

    Targets outside the vocabulary are tail; -1 for users without examples.
    """
    votes = np.zeros((interactions.num_users, len(SLICES)), np.int64)
    rows = examples.target_rows()
    targets = item_slices(interactions)[examples.targets]
    np.add.at(votes, (examples.user[rows], targets), 1)
    np.add.at(votes[:, TAIL], examples.user, examples.misses)
    best = TAIL - np.argmax(votes[:, ::-1], axis=1)
    asked = np.bincount(examples.user, minlength=interactions.num_users) > 0
    return np.where(asked, best, -1).astype(np.int8)
