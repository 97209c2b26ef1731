"""Fixed looks at accumulating data: how much of the error rate each look may use."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from scipy.stats import norm

from tasks.contracts.errors import BadRequestError


def obrien_fleming_spent(error_rate: float, information: float) -> float:
    """Return the one-sided error spent up to a share of the data (Lan & DeMets, 1983).

    2 (1 - Phi(z[error_rate / 2] / sqrt(information))): almost nothing early, all of it at 1.
    """
    return float(2 * norm.sf(norm.isf(error_rate / 2) / information**0.5))


def look_levels(error_rate: float, information: Sequence[float]) -> list[float]:
    """Return the level of each look; together they never exceed `error_rate`.

    The levels are the increments of the O'Brien-Fleming spending function, added by the union
    bound: valid whatever the looks' dependence, at a price in power (five looks use 3.1 % of 5 %).
    """
    growing = all(early < late for early, late in pairwise(information))
    if not information or not growing or information[0] <= 0 or information[-1] != 1:
        message = f"looks: expected growing shares of the data up to 1, found {list(information)}"
        raise BadRequestError(message)
    spent = [obrien_fleming_spent(error_rate, share) for share in information]
    return [late - early for early, late in pairwise([0.0, *spent])]
