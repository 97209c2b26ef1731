"""How many users a test needs, and what it can see with the users it has."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import norm

from tasks.contracts.errors import BadRequestError


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How finely a difference was measured, and how finely a verdict needs it.

    An equal model passes the test against `margin` at one-sided 5 % in 95 cases of 100 if the
    standard error is at most margin / (1.645 + 1.645) = margin / 3.3: above it there is no verdict.
    """

    users: int
    standard_error: float
    limit: float

    @property
    def refused(self) -> bool:
        """Say whether an equal model would be refused too often; an unknown error is refused."""
        return not self.standard_error <= self.limit

    @property
    def users_that_would_do(self) -> int:
        """Return how many such users bring the standard error down to the limit."""
        return math.ceil(self.users * (self.standard_error / self.limit) ** 2)


def plan_precision(
    *, users: int, standard_error: float, margin: float, largest_share: float
) -> Precision:
    """Hold a standard error against the largest one, `largest_share` of `margin`."""
    if margin <= 0 or not 0 < largest_share < 1:
        message = (
            f"planner: expected margin > 0 and 0 < largest_share < 1, found {margin} and "
            f"{largest_share}"
        )
        raise BadRequestError(message)
    return Precision(users=users, standard_error=standard_error, limit=margin * largest_share)


def users_needed(
    *, standard_deviation: float, effect: float, share: float, error_rate: float, power: float
) -> int:
    """Return the users of both variants for a one-sided test to see `effect` with `power`.

    `effect` is the distance between the true difference and the tested bound: the gain for
    superiority, the margin for non-inferiority at true parity. `share` is the treatment's.
    """
    if effect <= 0 or not 0 < share < 1:
        message = f"planner: expected effect > 0 and 0 < share < 1, found {effect} and {share}"
        raise BadRequestError(message)
    reach = float(norm.isf(error_rate) + norm.isf(1 - power))
    variance_per_user = standard_deviation**2 * (1 / share + 1 / (1 - share))
    return math.ceil(variance_per_user * (reach / effect) ** 2)


def visible_effect(*, standard_error: float, error_rate: float, power: float) -> float:
    """Return the smallest effect that a one-sided test with this standard error would see."""
    return standard_error * float(norm.isf(error_rate) + norm.isf(1 - power))
