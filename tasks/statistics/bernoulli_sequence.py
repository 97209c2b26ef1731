"""Bounds of a rate that hold at every look at once: a confidence sequence for Bernoulli trials.

The one-sided beta-binomial mixture of S. R. Howard, A. Ramdas, J. McAuliffe and J. Sekhon,
"Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49(2), 2021
(proposition 7 and appendix A of "Time-uniform Chernoff bounds via nonnegative supermartingales").
If the rate is at most `rate` at every trial, given those before, the evidence that it is above is
a nonnegative supermartingale: the chance that it ever reaches 1 / error_rate is error_rate (Ville).
"""

from __future__ import annotations

import math

from scipy.special import betainc, betaln

TUNED_FOR = 10.0  # trials after which the bound is tightest: harm shows within few requests
TUNED_ERROR_RATE = 0.05
_HALVINGS = 50


def log_evidence_above(
    events: float, trials: float, rate: float, *, tuned_for: float = TUNED_FOR
) -> float:
    """Return the log of the evidence that the rate of `events` in `trials` is above `rate`.

    A likelihood ratio against `rate`, averaged over larger rates by Beta(r / (1 - rate), r / rate)
    cut off below `rate`; r is tuned as for the normal mixture of the same paper (section 3.5).
    """
    if not 0 <= events <= trials or not 0 < rate < 1:
        message = (
            f"Bernoulli sequence: expected 0 <= events <= trials and 0 < rate < 1, found "
            f"{events}, {trials}, {rate}"
        )
        raise ValueError(message)
    r = _tuning(rate * (1 - rate), tuned_for)
    more, fewer = r / (1 - rate), r / rate
    return (
        _log_beta_below(fewer + trials - events, more + events, 1 - rate)
        - _log_beta_below(fewer, more, 1 - rate)
        - events * math.log(rate)
        - (trials - events) * math.log1p(-rate)
    )


def lower_bound(
    events: float, trials: float, error_rate: float, *, tuned_for: float = TUNED_FOR
) -> float:
    """Return what the rate is above at all looks at once, but for a chance of `error_rate`."""
    if events == 0:
        return 0.0
    low, high = 0.0, events / trials
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        told = log_evidence_above(events, trials, middle, tuned_for=tuned_for)
        low, high = (middle, high) if told >= -math.log(error_rate) else (low, middle)
    return low


def upper_bound(
    events: float, trials: float, error_rate: float, *, tuned_for: float = TUNED_FOR
) -> float:
    """Return what the rate is below at all looks at once, but for a chance of `error_rate`."""
    if trials == 0:
        return 1.0
    return 1 - lower_bound(trials - events, trials, error_rate, tuned_for=tuned_for)


def start_weight(start: int) -> float:
    """Return the share of the error rate for the sequence that starts at moment 0, 1, 2 ...

    A sequence that starts late sees a change that one from the beginning would take long to see.
    1 / ((s + 1) (s + 2)) sums to 1, so all sequences together keep the error rate (union bound).
    """
    return 1 / ((start + 1) * (start + 2))


def _tuning(variance: float, tuned_for: float) -> float:
    reach = -2 * math.log(2 * TUNED_ERROR_RATE)
    best = tuned_for / (reach + math.log1p(reach)) - 1
    return variance * max(best, 1e-3)


def _log_beta_below(a: float, b: float, x: float) -> float:
    """Return the log of the incomplete beta function, not regularised."""
    share = float(betainc(a, b, x))
    return -math.inf if share == 0 else math.log(share) + float(betaln(a, b))
