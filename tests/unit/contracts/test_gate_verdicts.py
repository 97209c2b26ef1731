"""A verdict recomputed from a report's numbers is the one that Great Expectations gave."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from tasks.contracts.errors import BadRequestError
from tasks.contracts.gate_verdicts import verdict_of
from tasks.gates.checks import (
    Batch,
    Measurement,
    Suite,
    between,
    measured,
    not_null,
    one_of,
    unique,
)
from tasks.gates.expectations import validate

NAN = float("nan")
ROWS = pd.DataFrame(
    {
        "price": [1.0, 2.0, -4.0, NAN],
        "fine": [1.0, 2.0, 3.0, 4.0],
        "void": [NAN, NAN, NAN, NAN],
        "kind": ["view", "sale", "gift", None],
        "user": ["a", "b", "b", None],
        "mostly": ["a", "b", "c", None],
    }
)
CHECKS = (
    between("price", minimum=0),
    between("price", maximum=2),
    between("fine", minimum=1, maximum=4),
    between("void", minimum=0),
    one_of("kind", ["view", "sale"]),
    one_of("kind", ["view", "sale", "gift"]),
    unique("user"),
    unique("fine"),
    not_null("fine"),
    not_null("user"),
    not_null("mostly", at_least=0.75),
    replace(not_null("mostly", at_least=0.76), name="mostly, stricter"),
)
MEASUREMENTS = (
    Measurement(name="enough", value=30, minimum=30),
    Measurement(name="too few", value=29, minimum=30),
    Measurement(name="at the bound", value=0.5, above=0.5),
    Measurement(name="above the bound", value=0.500001, above=0.5),
    Measurement(name="too much", value=3.1, maximum=3.0),
    Measurement(name="infinite", value=float("inf"), maximum=3.0),
    Measurement(name="infinite, and may be", value=float("inf"), minimum=3.0),
    Measurement(name="missing", value=None, minimum=0.0),
    Measurement(name="the word", value="ship", equals="ship"),
    Measurement(name="another word", value="proceed", equals="ship"),
    Measurement(name="no word", value=None, equals="ship"),
)


def test_every_verdict_of_great_expectations_is_recomputed_from_its_numbers() -> None:
    rows = Batch(name="rows", frame=ROWS, checks=CHECKS)
    nothing = Batch(name="nothing", frame=ROWS.iloc[:0], checks=CHECKS)
    absent = Batch(name="absent", frame=ROWS[["fine"]], checks=(between("price", minimum=0),))
    found = validate(Suite(batches=(rows, nothing, absent, measured("m", MEASUREMENTS))))
    assert len(found) == 2 * len(CHECKS) + 1 + len(MEASUREMENTS)
    assert [(one.name, one.recomputed) for one in found] == [
        (one.name, one.passed) for one in found
    ]
    assert {one.passed for one in found} == {True, False}


@pytest.mark.parametrize(
    ("expectation", "limits", "numbers", "passed"),
    (
        pytest.param(
            "expect_column_values_to_be_between",
            {"min_value": 0},
            {"rows": 10, "unexpected": 1, "missing": 0},
            False,
            id="one bad row of ten is one too many",
        ),
        pytest.param(
            "expect_column_values_to_not_be_null",
            {"mostly": 0.9},
            {"rows": 10, "unexpected": 1, "missing": 0},
            True,
            id="nine of ten are enough where nine tenths are asked",
        ),
        pytest.param(
            "expect_column_max_to_be_between",
            {"min_value": 0.5, "strict_min": True},
            {"value": 0.5},
            False,
            id="a strict bound excludes itself",
        ),
        pytest.param(
            "expect_column_max_to_be_between",
            {"min_value": 0},
            {"error": "no such column"},
            False,
            id="what could not be measured did not pass",
        ),
    ),
)
def test_verdicts_worked_out_by_hand(expectation, limits, numbers, passed) -> None:
    assert verdict_of(expectation, limits, numbers) is passed


@pytest.mark.parametrize(
    ("expectation", "limits", "numbers", "said"),
    (
        pytest.param("expect_magic", {}, {"value": 1}, "expect_magic", id="unknown words"),
        pytest.param(
            "expect_column_max_to_be_between", {}, {"value": "many"}, "a number", id="no number"
        ),
        pytest.param(
            "expect_column_values_to_be_unique", {}, {"rows": -1}, "a count", id="no count"
        ),
    ),
)
def test_what_cannot_be_recomputed_is_refused(expectation, limits, numbers, said) -> None:
    with pytest.raises(BadRequestError, match=said):
        verdict_of(expectation, limits, numbers)
