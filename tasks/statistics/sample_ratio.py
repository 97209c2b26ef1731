"""Sample-ratio check: whether users are split as the router was told to split them."""

from __future__ import annotations

from scipy.stats import binomtest, chisquare

MIN_EXPECTED = 10.0  # below it the chi-square approximation is too coarse for p < .001


def sample_ratio_p(first_users: int, second_users: int, first_share: float) -> float:
    """Return the two-sided p-value of the split, given the share that `first` should have.

    Chi-square (the usual check); the exact binomial test where an expected count is small.
    """
    users = first_users + second_users
    if users == 0:
        return 1.0
    expected = (users * first_share, users * (1 - first_share))
    if min(expected) < MIN_EXPECTED:
        return float(binomtest(first_users, users, first_share).pvalue)
    return float(chisquare([first_users, second_users], expected).pvalue)
