"""How many users a test needs, and what it can see with the users it has."""

from __future__ import annotations

import math

from scipy.stats import norm

from tasks.contracts.errors import BadRequestError


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
