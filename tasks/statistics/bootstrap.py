"""Paired comparisons of two models over the same users: intervals, tests, Holm, bootstrap.

A user is the unit: pass one value per user. Student's t on the differences is the rule; the
bootstrap is there to check it where differences are few or skewed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.statistics.student_t import quantile, upper_tail

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over users with a two-sided interval."""

    mean: float
    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Candidate minus other over users; the two-sided interval has the confidence asked for."""

    users: int
    mean: float
    standard_error: float
    lower: float
    upper: float

    @property
    def p_superior(self) -> float:
        """Return the one-sided p-value of "no better": small means the candidate is better."""
        return self._p_above(0.0)

    def p_noninferior(self, margin: float) -> float:
        """Return the one-sided p-value of "worse by `margin` or more": small means it is not."""
        if margin <= 0:
            message = f"non-inferiority: expected margin > 0, found {margin}"
            raise ValueError(message)
        return self._p_above(-margin)

    def _p_above(self, bound: float) -> float:
        if self.standard_error == 0:
            return 0.0 if self.mean > bound else 1.0
        return upper_tail((self.mean - bound) / self.standard_error, self.users - 1)


def paired_difference(
    candidate: Values, other: Values, *, confidence: float = 0.95
) -> PairedDifference:
    """Compare two models on the same users, one value [U] each."""
    difference = _differences(candidate, other)
    mean, error = _mean_and_error(difference)
    reach = _reach(error, len(difference), confidence)
    return PairedDifference(
        users=len(difference),
        mean=mean,
        standard_error=error,
        lower=mean - reach,
        upper=mean + reach,
    )


def mean_interval(values: Values, *, confidence: float = 0.95) -> Interval:
    """Return the mean over users with Student's interval."""
    mean, error = _mean_and_error(_checked(values))
    reach = _reach(error, len(values), confidence)
    return Interval(mean=mean, lower=mean - reach, upper=mean + reach)


def paired_bootstrap(
    candidate: Values,
    other: Values,
    *,
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Return the mean difference with a percentile interval over resampled users."""
    difference = _differences(candidate, other)
    generator = np.random.default_rng(seed)
    users = len(difference)
    means = [
        float(difference[generator.integers(0, users, users)].mean()) for _ in range(resamples)
    ]
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(means, [tail, 1 - tail])
    return Interval(mean=float(difference.mean()), lower=float(lower), upper=float(upper))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted for their number (Holm 1979), in order of the names' p-values."""
    ordered = sorted(p_values, key=lambda name: (p_values[name], name))
    adjusted: dict[str, float] = {}
    reached = 0.0
    for place, name in enumerate(ordered):
        reached = max(reached, min(1.0, (len(ordered) - place) * p_values[name]))
        adjusted[name] = reached
    return adjusted


def _checked(values: Values) -> Values:
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        message = (
            "comparison over users: expected at least 2 finite values, one per user, "
            f"found shape {values.shape} with {int(np.isfinite(values).sum())} finite"
        )
        raise ValueError(message)
    return values


def _differences(candidate: Values, other: Values) -> Values:
    if candidate.shape != other.shape:
        message = f"paired: expected the same users, found {candidate.shape} and {other.shape}"
        raise ValueError(message)
    return _checked(np.asarray(candidate, np.float64) - np.asarray(other, np.float64))


def _mean_and_error(values: Values) -> tuple[float, float]:
    # numpy's sums of equal values leave dust: 0.1 three times is not 0.1 on average.
    if (values == values[0]).all():
        return float(values[0]), 0.0
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))


def _reach(error: float, users: int, confidence: float) -> float:
    if not 0 < confidence < 1:
        message = f"interval: expected 0 < confidence < 1, found {confidence}"
        raise ValueError(message)
    return error * quantile((1 + confidence) / 2, users - 1)
