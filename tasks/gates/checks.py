"""What a suite is made of: batches (pandas frames) that carry their expectations.

A suite is data. Row-level expectations look at the payload's own rows; what Great Expectations
lacks (paired statistics, sample ratios) is computed by pure code into a batch of one row, of which
every column is a measurement, and expected upon there. One mechanism on every hop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from tasks.contracts.gate_reports import Figure, Severity
from tasks.contracts.json_types import Json
from tasks.gates.wording import Unit, in_words

ABSENT = "absent"
Argument: TypeAlias = Json


@dataclass(frozen=True, kw_only=True)
class Check:
    """One expectation of Great Expectations with the words for people."""

    name: str  # what it is about, unique within the suite
    expectation: str  # type in Great Expectations' registry
    arguments: Mapping[str, Argument]
    expected: str
    severity: Severity = "critical"
    unit: Unit = "number"
    where: str = ""  # details of the finding that the suite knows and Great Expectations does not
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A frame and what is expected of it; `example` is the column that names a row to people."""

    name: str
    frame: pd.DataFrame
    checks: tuple[Check, ...]
    row_noun: str = "rows"
    example: str | None = None


@dataclass(frozen=True, kw_only=True)
class Suite:
    """All that is expected of one artifact, and what to show of it."""

    batches: tuple[Batch, ...]
    figures: tuple[Figure, ...] = ()
    key_figures: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Payload:
    """The artifact's files, and those of others that it is compared with, by role."""

    path: Path
    compared: Mapping[str, Path] = field(default_factory=dict)


def joined(*suites: Suite) -> Suite:
    """Return one suite of several parts, in order."""
    return Suite(
        batches=tuple(batch for suite in suites for batch in suite.batches),
        figures=tuple(figure for suite in suites for figure in suite.figures),
        key_figures={key: text for suite in suites for key, text in suite.key_figures.items()},
        note=" ".join(suite.note for suite in suites if suite.note),
    )


def not_null(
    column: str, *, severity: Severity = "critical", at_least: float = 1.0, why: str = ""
) -> Check:
    """Expect values in `column`, in a share of at least `at_least` of the rows."""
    share = "" if at_least == 1 else f" in at least {in_words(at_least, 'share')} of rows"
    return Check(
        name=column,
        expectation="expect_column_values_to_not_be_null",
        arguments={"column": column, "mostly": at_least},
        expected=f"a value{share}",
        severity=severity,
        why=why,
    )


def one_of(column: str, values: Sequence[str], *, severity: Severity = "critical") -> Check:
    """Expect only `values` in `column`."""
    return Check(
        name=column,
        expectation="expect_column_values_to_be_in_set",
        arguments={"column": column, "value_set": list(values)},
        expected=f"one of {', '.join(values)}",
        severity=severity,
    )


def between(
    column: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    severity: Severity = "critical",
    unit: Unit = "number",
    why: str = "",
) -> Check:
    """Expect every value of `column` within the ends."""
    return Check(
        name=column,
        expectation="expect_column_values_to_be_between",
        arguments={"column": column, "min_value": minimum, "max_value": maximum},
        expected=_range_in_words(minimum, maximum, unit, ("min", "max")),
        severity=severity,
        unit=unit,
        why=why,
    )


def unique(column: str, *, severity: Severity = "critical") -> Check:
    """Expect no value of `column` twice."""
    return Check(
        name=column,
        expectation="expect_column_values_to_be_unique",
        arguments={"column": column},
        expected="unique values",
        severity=severity,
    )


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number (or word) of the artifact with its bounds; a missing one fails."""

    name: str
    value: float | str | None
    minimum: float | None = None
    maximum: float | None = None
    equals: str | None = None
    above: float | None = None  # strictly
    unit: Unit = "number"
    severity: Severity = "critical"
    expected: str = ""  # words where those of the bounds do not say it well
    where: str = ""
    why: str = ""

    def check(self) -> Check:
        """Return the expectation on this measurement's column."""
        arguments: dict[str, Argument]
        if self.equals is not None:
            kind, words = _EQUALS, self.equals
            arguments = {"value_set": [self.equals]}
        else:
            least = self.minimum if self.above is None else self.above
            strict: dict[str, Argument] = {"strict_min": True} if self.above is not None else {}
            kind, arguments = _WITHIN, {"min_value": least, "max_value": self.maximum, **strict}
            few = "more than" if self.above is not None else "at least"
            words = _range_in_words(least, self.maximum, self.unit, (few, "at most"))
        return Check(
            name=self.name,
            expectation=kind,
            arguments={"column": self.name, **arguments},
            expected=self.expected or words,
            severity=self.severity,
            unit=self.unit,
            where=self.where,
            why=self.why,
        )


_EQUALS = "expect_column_values_to_be_in_set"
_WITHIN = "expect_column_max_to_be_between"  # of one row; unlike "values between" it fails on null


def measured(name: str, measurements: Sequence[Measurement]) -> Batch:
    """Return a batch of one row: a column per measurement, each with its expectation."""
    columns = {item.name: [_cell(item)] for item in measurements}
    if len(columns) != len(measurements):
        twice = sorted(m.name for m in measurements)
        message = f"batch {name}: expected measurements of different names, found {twice}"
        raise ValueError(message)
    return Batch(
        name=name,
        frame=pd.DataFrame(columns),
        checks=tuple(item.check() for item in measurements),
    )


def _cell(item: Measurement) -> float | str:
    if item.equals is not None:
        return ABSENT if item.value is None else str(item.value)
    return float("nan") if item.value is None else float(item.value)


def _range_in_words(
    minimum: float | None, maximum: float | None, unit: Unit, words: tuple[str, str]
) -> str:
    if minimum is not None and minimum == maximum:
        return f"exactly {in_words(minimum, unit)}"
    low = "" if minimum is None else f"{words[0]} {in_words(minimum, unit)}"
    high = "" if maximum is None else f"{words[1]} {in_words(maximum, unit)}"
    return " and ".join(part for part in (low, high) if part)
