"""Student's t without scipy, which the TensorFlow image does not carry."""

from __future__ import annotations

import math

_STEPS = 300
_TINY = 1e-300
_CLOSE = 1e-15
_NEAR_HALF = 0.1


def upper_tail(t: float, degrees: float) -> float:
    """Return P(T > t) with `degrees` of freedom."""
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    if abs(t) < _NEAR_HALF:  # then degrees / (degrees + t^2) may round to 1
        beyond = _incomplete_beta(t * t / (degrees + t * t), 0.5, degrees / 2)
        return 0.5 - math.copysign(beyond, t) / 2
    share = _incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5)
    return share / 2 if t > 0 else 1 - share / 2


def quantile(p: float, degrees: float) -> float:
    """Return t with P(T <= t) = p, 0 < p < 1."""
    if p < 0.5:
        return -quantile(1 - p, degrees)
    low, high = 0.0, 1.0
    while upper_tail(high, degrees) > 1 - p:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in {low, high}:
            break
        low, high = (middle, high) if upper_tail(middle, degrees) > 1 - p else (low, middle)
    return (low + high) / 2


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Return I_x(a, b), regularised (Numerical Recipes 6.4, continued fraction)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(log_front + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """Return the continued fraction by the modified Lentz method."""
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    result = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        change = 1.0
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            change = c * d
            result *= change
        if abs(change - 1) < _CLOSE:
            break
    return result


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
