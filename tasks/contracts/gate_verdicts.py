"""Whether a check passed, recomputed from the numbers and limits that its report keeps.

The gate asks Great Expectations; this is the same arithmetic on what was found, so that a verdict
can be proved years later, offline and without the data. A test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json

Numbers = Mapping[str, Json]
NOT_NULL = "expect_column_values_to_not_be_null"
IN_SET = "expect_column_values_to_be_in_set"
MAX_BETWEEN = "expect_column_max_to_be_between"
# Row by row: of the rows with a value, at least the share `mostly` meets it.
ROW_WISE = frozenset(
    {IN_SET, "expect_column_values_to_be_between", "expect_column_values_to_be_unique"}
)


def verdict_of(expectation: str, limits: Numbers, measured: Numbers) -> bool:
    """Return whether what was measured lies within the limits; unknown words are refused."""
    if "error" in measured:
        return False
    if expectation == MAX_BETWEEN:
        return _within(_number(measured, "value"), limits)
    if expectation == IN_SET and "value" in measured:
        return measured["value"] in _values(limits)
    if expectation == NOT_NULL:
        rows = _count(measured, "rows")
        return rows == 0 or (rows - _count(measured, "unexpected")) / rows >= _mostly(limits)
    if expectation in ROW_WISE:
        rows = _count(measured, "rows") - _count(measured, "missing")
        return rows == 0 or (rows - _count(measured, "unexpected")) / rows >= _mostly(limits)
    message = f"expectation: expected one whose verdict can be recomputed, found {expectation!r}"
    raise BadRequestError(message)


def _within(value: float | None, limits: Numbers) -> bool:
    if value is None:
        return False
    low, high = _number(limits, "min_value"), _number(limits, "max_value")
    above = low is None or (value > low if limits.get("strict_min") else value >= low)
    below = high is None or (value < high if limits.get("strict_max") else value <= high)
    return above and below


def _mostly(limits: Numbers) -> float:
    share = _number(limits, "mostly")
    return 1.0 if share is None else share


def _values(limits: Numbers) -> list[Json]:
    values = limits.get("value_set")
    if not isinstance(values, list):
        message = f"limits: expected a list value_set, found {values!r:.80}"
        raise BadRequestError(message)
    return values


def _number(record: Numbers, name: str) -> float | None:
    value = record.get(name)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    if value in {"inf", "-inf"}:  # JSON has no word for them
        return float(str(value))
    message = f"{name}: expected a number, found {value!r:.80}"
    raise BadRequestError(message)


def _count(record: Numbers, name: str) -> int:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        message = f"{name}: expected a count, found {value!r:.80}"
        raise BadRequestError(message)
    return value
