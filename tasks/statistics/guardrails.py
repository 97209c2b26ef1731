"""Bounds without assumptions about shape: rates (exact binomial) and quantiles (order statistics)."""

from __future__ import annotations

from collections.abc import Sequence
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


def quantile(values: Sequence[float], share: float, error_rate: float) -> Quantile | None:
    """Return the quantile at `share` with bounds from order statistics (David & Nagaraja, 7.1)."""
    if not values:
        return None
    ordered = np.sort(np.asarray(values, dtype=float))
    count = len(ordered)
    low = int(binom.ppf(error_rate, count, share))  # P(rank of the quantile < low) <= error_rate
    high = int(binom.isf(error_rate, count, share)) + 1
    return Quantile(
        estimate=float(np.quantile(ordered, share)),
        low=float(ordered[low - 1]) if low >= 1 else 0.0,
        high=float(ordered[high - 1]) if high <= count else None,
    )
