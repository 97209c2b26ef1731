"""How far two rankings, and two distributions of scores, are from each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

PERSISTENCE = 0.9  # of rank-biased overlap: the first ten ranks have 86 % of the weight
LEAST_SHARE = 1e-4  # of a bin, for the population stability index: an empty one is not infinite


def overlap_at(first: Sequence[str], second: Sequence[str], depth: int) -> float:
    """Return the share of the first `depth` items that both rankings have.

    Shorter rankings are compared as deep as the longer one goes: what one lacks is a difference.
    """
    reach = min(depth, max(len(first), len(second)))
    if reach == 0:
        return 1.0  # two empty rankings do not differ
    return len(set(first[:reach]) & set(second[:reach])) / reach


def rank_biased_overlap(
    first: Sequence[str], second: Sequence[str], persistence: float = PERSISTENCE
) -> float:
    """Return extrapolated rank-biased overlap, 0 to 1: RBO_ext of Webber, Moffat and Zobel.

    "A similarity measure for indefinite rankings", ACM TOIS 28(4), 2010, equation 32: rankings may
    be of different length, and hold no item twice.
    """
    short, long = sorted((list(first), list(second)), key=len)
    if not short:
        return 1.0 if not long else 0.0
    p, s, length = persistence, len(short), len(long)
    seen_short: set[str] = set()
    seen_long: set[str] = set()
    common = [0]  # X_d: items that both have among their first d
    for depth in range(length):
        seen_long.add(long[depth])
        seen_short.update(short[depth : depth + 1])
        common.append(len(seen_short & seen_long))
    agreed = sum(common[d] / d * p**d for d in range(1, length + 1))
    missing = sum(common[s] * (d - s) / (s * d) * p**d for d in range(s + 1, length + 1))
    tail = ((common[length] - common[s]) / length + common[s] / s) * p**length
    return (1 - p) / p * (agreed + missing) + tail


def stability_index(expected: Sequence[float], found: Sequence[float], bins: int = 10) -> float:
    """Return the population stability index of `found` against quantile bins of `expected`.

    Below .1 is taken for no change, above .25 for a large one. NaN without any value of either.
    """
    if not len(expected) or not len(found):
        return math.nan
    edges = np.unique(np.quantile(expected, np.linspace(0, 1, bins + 1)[1:-1]))
    before = _shares(expected, edges)
    after = _shares(found, edges)
    return float(np.sum((after - before) * np.log(after / before)))


def _shares(values: Sequence[float], edges: np.typing.NDArray[np.float64]) -> np.ndarray:
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return np.maximum(counts / len(values), LEAST_SHARE)
