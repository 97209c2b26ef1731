from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tasks.contracts.stages import ArtifactKind
from tasks.gates.bounds import bounds_for
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
from tasks.gates.run_gate import SUITES

ROOT = Path(__file__).resolve().parents[3]


def found_in(*checks, **columns):
    frame = pd.DataFrame(columns)
    batch = Batch(name="rows", frame=frame, checks=checks, example="item_id")
    return validate(Suite(batches=(batch,)))


def measure(**bounds):
    (check,) = validate(Suite(batches=(measured("one", [Measurement(name="m", **bounds)]),)))
    return check


def test_findings_come_in_the_order_of_the_suite() -> None:
    found = found_in(
        between("price", minimum=0),
        not_null("item_id"),
        one_of("kind", ("a", "b")),
        unique("item_id"),
        item_id=["i1", "i2", None, "i2"],
        price=[1.0, -2.5, 3.0, -4.0],
        kind=["a", "c", "b", "a"],
    )
    assert [check.sentence for check in found] == [
        "price: min 0 expected, -4.0 found in 2 of 4 rows (e.g. item i2)",
        "item_id: a value expected, none found in 1 of 4 rows (e.g. item nothing)",
        "kind: one of a, b expected, c found in 1 of 4 rows (e.g. item i2)",
        "item_id: unique values expected, i2 found in 2 of 4 rows (e.g. item i2)",
    ]


def test_a_column_that_is_not_there_fails_and_does_not_crash() -> None:
    (check,) = found_in(between("price", minimum=0), item_id=["i1"])
    assert not check.passed
    assert check.sentence == "price: min 0 expected, no such column found"


@pytest.mark.parametrize("value", (None, float("nan")))
def test_a_missing_measurement_fails_whatever_its_bounds(value) -> None:
    check = measure(value=value, minimum=0)
    assert not check.passed
    assert check.found == "nothing"


@pytest.mark.parametrize(
    ("bounds", "passed"),
    (
        ({"value": 0.0, "above": 0.0}, False),
        ({"value": 0.1, "above": 0.0}, True),
        ({"value": 0.0, "minimum": 0.0}, True),
        ({"value": 2.0, "maximum": 1.0}, False),
        ({"value": float("inf"), "maximum": 1.0}, False),
        ({"value": "int8", "equals": "int8"}, True),
        ({"value": "none", "equals": "int8"}, False),
        ({"value": None, "equals": "int8"}, False),
    ),
)
def test_a_measurement_is_held_against_its_bounds(bounds, passed) -> None:
    assert measure(**bounds).passed is passed


def test_a_share_of_missing_values_may_be_allowed() -> None:
    (check,) = found_in(not_null("title", at_least=0.5), title=["a", None], item_id=["i1", "i2"])
    assert check.passed
    assert check.expected == "a value in at least 50.0 % of rows"


def test_two_measurements_of_one_name_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="expected measurements of different names"):
        measured("one", [Measurement(name="m", value=1.0), Measurement(name="m", value=2.0)])


def test_every_kind_that_has_bounds_has_a_suite(release) -> None:
    for kind in ArtifactKind:
        if kind in SUITES:
            assert bounds_for(kind, release) is not None
    assert len(SUITES) == 8


def test_a_gate_writes_nothing_into_the_home_folder(tmp_path) -> None:
    code = """
from tasks.gates.checks import Measurement, Suite, measured
from tasks.gates.expectations import validate
batch = measured("one", [Measurement(name="m", value=1.0, minimum=2.0)])
assert not validate(Suite(batches=(batch,)))[0].passed
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""
    assert list(home.rglob("*")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
