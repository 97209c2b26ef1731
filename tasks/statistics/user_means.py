"""Comparing means per user: the user is the unit, so repeated requests do not count twice."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student


@dataclass(frozen=True, kw_only=True)
class UserMeans:
    """One mean per user, summed up: number of users, their mean, their sample variance."""

    users: int
    mean: float
    variance: float


def user_means(outcomes: Iterable[tuple[Hashable, float]]) -> UserMeans:
    """Sum up (user, outcome of one request) pairs: first the mean of each user, then over users."""
    totals: dict[Hashable, tuple[float, int]] = {}
    for user, outcome in outcomes:
        total, count = totals.get(user, (0.0, 0))
        totals[user] = (total + outcome, count + 1)
    means = np.array([total / count for total, count in totals.values()])
    if len(means) == 0:
        return UserMeans(users=0, mean=0.0, variance=0.0)
    variance = float(means.var(ddof=1)) if len(means) > 1 else 0.0
    return UserMeans(users=len(means), mean=float(means.mean()), variance=variance)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Treatment minus control with Welch's standard error (unequal variances)."""

    estimate: float
    standard_error: float
    degrees_of_freedom: float

    def p_not_above(self, threshold: float) -> float:
        """Return the one-sided p-value of `difference <= threshold`; small: it is above."""
        if self.standard_error == 0:
            return 0.0 if self.estimate > threshold else 1.0
        statistic = (self.estimate - threshold) / self.standard_error
        return float(student.sf(statistic, self.degrees_of_freedom))

    def lower_bound(self, level: float) -> float:
        """Return the one-sided lower bound that the true difference is below at rate `level`."""
        return self.estimate - self._reach(level)

    def upper_bound(self, level: float) -> float:
        """Return the one-sided upper bound that the true difference is above at rate `level`."""
        return self.estimate + self._reach(level)

    def _reach(self, level: float) -> float:
        if self.standard_error == 0:
            return 0.0
        return float(student.isf(level, self.degrees_of_freedom)) * self.standard_error


def welch(treatment: UserMeans, control: UserMeans) -> Difference:
    """Return treatment minus control (B. L. Welch, Biometrika 34, 1947)."""
    per_mean = [group.variance / group.users for group in (treatment, control)]
    squared = sum(per_mean)
    freedom = math.inf
    if squared > 0:
        freedom = squared**2 / sum(
            part**2 / (group.users - 1)
            for part, group in zip(per_mean, (treatment, control), strict=True)
            if group.users > 1
        )
    return Difference(
        estimate=treatment.mean - control.mean,
        standard_error=math.sqrt(squared),
        degrees_of_freedom=freedom,
    )
