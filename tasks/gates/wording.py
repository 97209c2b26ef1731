"""Numbers in the words of a gate report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

from tasks.contracts.errors import bounded

MAX_TEXT = 200  # of a found value; signatures are the longest
Unit = Literal["number", "count", "share", "ms", "bytes", "ratio"]


def in_words(value: object, unit: Unit = "number") -> str:
    """Return 2_100_000 as 2.1M (count), 0.3 as 30.0 % (share), None as nothing."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return bounded(value, MAX_TEXT)
    if isinstance(value, bool):
        return "yes" if value else "no"
    number = float(value)  # type: ignore[arg-type]  # numpy scalars
    if math.isnan(number):
        return "nothing"
    if math.isinf(number):
        return "infinity" if number > 0 else "minus infinity"
    return _WORDS[unit](number)


def left_out_in_words(left_out: Mapping[str, object]) -> dict[str, str]:
    """Return the key figure that says which baselines there are not, and why; none where all are there."""
    by_reason: dict[str, list[str]] = {}
    for name, why in left_out.items():
        by_reason.setdefault(in_words(str(why)), []).append(in_words(name))
    told = [f"{', '.join(names)} ({why})" for why, names in by_reason.items()]
    return {"baselines left out": "; ".join(told)} if told else {}


def _count(number: float) -> str:
    if abs(number) < 10_000:
        return f"{number:,.0f}"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:,.0f}"


def _share(number: float) -> str:
    percent = number * 100
    digits = 1 if percent == 0 or abs(percent) >= 0.1 or abs(percent) < 1e-4 else 3
    text = f"{percent:.{digits}f}"
    return f"{text} %"


def _bytes(number: float) -> str:
    for size, letters in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(number) >= size:
            return f"{number / size:.2f} {letters}"
    return f"{number:.0f} bytes"


def _number(number: float) -> str:
    if number == int(number) and abs(number) < 1e6:
        return f"{number:.1f}" if number != 0 else "0"
    return f"{number:.4g}"


_WORDS: Mapping[Unit, Callable[[float], str]] = {
    "number": _number,
    "count": _count,
    "share": _share,
    "ms": lambda number: f"{number:.1f} ms",
    "bytes": _bytes,
    "ratio": lambda number: f"{number:.2f} x",
}
