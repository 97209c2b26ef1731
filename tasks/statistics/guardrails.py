"""Bounds without assumptions about shape: rates (exact binomial) and quantiles (order statistics)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, binom


def rate_lower_bound(events: int, trials: int, error_rate: float) -> float:
    """Return the one-sided Clopper-Pearson lower bound of a rate."""
    if events == 0:
        return 0.0
    return float(beta.ppf(error_rate, events, trials - events + 1))


@dataclass(frozen=True, kw_only=True)
class Quantile:
    """A quantile with one-sided bounds, each wrong at most at the stated error rate."""

    estimate: float
    low: float
    high: float | None  # None where there are too few values for an upper bound


def quantile(counts: Mapping[float, int], share: float, error_rate: float) -> Quantile | None:
    """Return the quantile at `share` with bounds from order statistics (David & Nagaraja, 7.1).

    `counts` says how often each value was seen.
    """
    if not counts:
        return None
    values = np.sort(np.fromiter(counts, dtype=float, count=len(counts)))
    ends = np.cumsum([counts[value] for value in values.tolist()])
    count = int(ends[-1])

    def at(rank: int) -> float:  # 1 is the smallest
        return float(values[np.searchsorted(ends, rank)])

    low = int(binom.ppf(error_rate, count, share))  # P(rank of the quantile < low) <= error_rate
    high = int(binom.isf(error_rate, count, share)) + 1
    place = (count - 1) * share
    below = int(place)
    around = [at(below + 1), at(min(below + 2, count))]
    return Quantile(
        estimate=float(np.quantile(around, place - below)),
        low=at(low) if low >= 1 else 0.0,
        high=at(high) if high <= count else None,
    )
