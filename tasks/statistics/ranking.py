"""NDCG and hit rate of ranked lists against unordered sets of targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What was really taken after each of E requests: a set of known items, and a number of others."""

    row: Int64s  # [T] request of each target, any order
    item: Int64s  # [T] >= 0
    count: Int64s  # [E] targets of each request, those outside the vocabulary included


@dataclass(frozen=True, kw_only=True)
class Gains:
    """Metrics of E requests."""

    ndcg: Floats  # [E]
    hit: Floats  # [E]


def gains(top: Int64s, targets: Targets) -> Gains:
    """Return the metrics of `top` [E, K], best first; a negative item is never a target.

    NDCG (Jarvelin and Kekalainen, 2002) with gain 1: the ideal has min(K, targets) hits.
    """
    requests, depth = top.shape
    span = int(max(top.max(initial=0), targets.item.max(initial=0))) + 1
    wanted = targets.row * span + targets.item
    asked = np.arange(requests, dtype=np.int64)[:, None] * span + top
    hits = np.isin(asked, wanted) & (top >= 0)
    discounts = 1 / np.log2(np.arange(2, depth + 2))
    ideal: Floats = np.asarray(np.cumsum(discounts)[np.clip(targets.count, 1, depth) - 1])
    hit: Floats = np.asarray(hits.any(axis=1), np.float64)
    gain: Floats = np.asarray((hits * discounts).sum(axis=1), np.float64)
    return Gains(ndcg=gain / ideal, hit=hit)


def mean_by_user(values: Floats, user: NDArray[np.int32], users: int) -> Floats:
    """Return [U]: the mean of each user's requests, NaN for users without any."""
    counts = np.bincount(user, minlength=users)
    sums = np.bincount(user, values, minlength=users)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
