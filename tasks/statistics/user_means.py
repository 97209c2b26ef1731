"""Comparing means per user: the user is the unit, so repeated requests do not count twice."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import t as student


@dataclass(frozen=True, kw_only=True)
class UserMeans:
    """One mean per user, summed up: number of users, their mean, their sample variance."""

    users: int
    mean: float
    variance: float


@dataclass(kw_only=True)
class UserSums:
    """Requests summed up per user as they come: of each user its name and two numbers are kept."""

    places: dict[str, int] = field(default_factory=dict)  # user -> place in both arrays
    totals: array[float] = field(default_factory=lambda: array("d"))
    counts: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, user: str, outcome: float | None) -> None:
        """Count a request of a user; None: it has no outcome, or one that does not count."""
        place = self.places.setdefault(user, len(self.places))
        if place == len(self.totals):
            self.totals.append(0.0)
            self.counts.append(0)
        if outcome is not None:
            self.totals[place] += outcome
            self.counts[place] += 1

    def means(self) -> UserMeans:
        """Return first the mean of each user who has an outcome, then over users."""
        counts = np.array(self.counts)
        some = counts > 0
        means = np.array(self.totals)[some] / counts[some]
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
