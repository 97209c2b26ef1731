from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tasks.contracts.artifacts import InputReference
from tasks.contracts.errors import BadRequestError, GateRefusedError
from tasks.contracts.gate_reports import (
    Figure,
    GateCheck,
    GateReport,
    Series,
    demand_passing,
)
from tasks.contracts.stages import ArtifactKind

KIND = ArtifactKind.VALIDATED_EVENTS
ADDRESS = "validated_events/" + "a" * 64
CONTENT = "b" * 64
PRICE = GateCheck(
    name="price",
    expected="min 0",
    found="-4.0",
    where="in 118 of 2.1M rows (e.g. item 88121)",
    severity="critical",
    passed=False,
    expectation="expect_column_values_to_be_between",
    limits={"min_value": 0},
    measured={"rows": 2_100_000, "unexpected": 118, "missing": 7},
)
USERS = replace(
    PRICE, name="users", passed=True, measured={"rows": 2_100_000, "unexpected": 0, "missing": 7}
)
QUIET = replace(PRICE, name="quiet day", severity="warning")
FIGURE = Figure(
    title="Difference",
    shape="intervals",
    labels=("all",),
    series=(Series(name="d", values=(0.01,), low=(0.0,), high=(0.02,)),),
    bound=-0.005,
)


def report(*checks: GateCheck, **changes) -> GateReport:
    return GateReport(
        **{
            "artifact": ADDRESS,
            "content": CONTENT,
            "kind": KIND,
            "checks": checks,
            "figures": (FIGURE,),
            "key_figures": {"events": "2.1M"},
            **changes,
        }
    )


def test_a_refusal_is_one_sentence_that_a_person_understands() -> None:
    assert report(PRICE, USERS).sentence == (
        "Gate 'validated_events' refused: 1 of 2 failed - price: min 0 expected, -4.0 found in "
        "118 of 2.1M rows (e.g. item 88121)"
    )


def test_a_warning_passes_and_is_said() -> None:
    found = report(QUIET, USERS)
    assert found.passed
    assert found.sentence.startswith("Gate 'validated_events' passed: 2 checks, 1 warned - quiet")


def test_a_note_is_part_of_the_sentence() -> None:
    assert report(USERS, note="only columns").sentence == (
        "Gate 'validated_events' passed: 1 checks (only columns)"
    )


def test_many_failures_are_bounded_and_counted() -> None:
    many = [replace(PRICE, name=f"column {n}") for n in range(200)]
    sentence = report(*many).sentence
    assert len(sentence) < 1200
    assert "200 of 200 failed" in sentence
    assert sentence.endswith("more, see report.html")


def test_a_report_comes_back_from_its_text_as_it_was() -> None:
    found = report(PRICE, USERS, QUIET)
    assert GateReport.parse(found.to_text(), "report.json") == found


@pytest.mark.parametrize("field", ("limits", "measured"))
@pytest.mark.parametrize("found", ("none", "nothing", "a word"))
def test_a_check_that_keeps_no_numbers_is_refused(field: str, found: str) -> None:
    record = json.loads(report(USERS, PRICE).to_text())
    if found == "nothing":
        del record["checks"][1][field]
    else:
        record["checks"][1][field] = None if found == "none" else "0"
    named = rf"report.json: checks\[1\] \(price\): field {field}: expected the numbers"
    with pytest.raises(BadRequestError, match=named):
        GateReport.parse(json.dumps(record), "report.json")


def test_a_report_of_before_numbers_were_kept_is_read() -> None:
    record = json.loads(report(USERS, PRICE).to_text())
    record["format"] = "gate_report/1"
    for check in record["checks"]:
        del check["limits"], check["measured"]
    read = GateReport.parse(json.dumps(record), "report.json")
    assert [check.recomputed for check in read.checks] == [None, None]
    assert [check.passed for check in read.checks] == [True, False]


def test_a_report_that_looked_at_nothing_is_refused() -> None:
    with pytest.raises(BadRequestError, match="expected at least one check, found none"):
        report()


def test_a_verdict_that_does_not_follow_from_its_checks_is_refused() -> None:
    record = json.loads(report(PRICE).to_text())
    record["passed"] = True
    with pytest.raises(BadRequestError, match="field passed: expected False from the checks"):
        GateReport.parse(json.dumps(record), "report.json")


@pytest.mark.parametrize("field", ("artifact", "content", "kind", "checks", "figures", "note"))
def test_a_report_without_a_field_is_refused_by_name(field) -> None:
    record = json.loads(report(PRICE).to_text())
    del record[field]
    with pytest.raises(BadRequestError, match=f"report.json: expected a complete.*{field}"):
        GateReport.parse(json.dumps(record), "report.json")


def test_an_unknown_severity_is_refused() -> None:
    with pytest.raises(BadRequestError, match="expected severity critical or warning"):
        replace(PRICE, severity="fatal")


def test_a_series_that_does_not_fit_its_labels_is_refused() -> None:
    with pytest.raises(BadRequestError, match=r"expected 2 values, found \[1\]"):
        replace(FIGURE, labels=("all", "tail"))


def reference(content: str = CONTENT) -> InputReference:
    return InputReference(address="validated_events/" + "c" * 64, content=content)


def test_a_passing_report_on_equal_bytes_opens_the_gate_whatever_their_address() -> None:
    demand_passing(report(USERS), reference(), KIND, "build_features: events")


def test_a_refusal_is_raised_with_every_failure() -> None:
    with pytest.raises(GateRefusedError, match="price: min 0 expected, -4.0 found"):
        demand_passing(report(PRICE), reference(), KIND, "build_features: events")


@pytest.mark.parametrize(
    ("content", "kind"),
    (("d" * 64, KIND), (CONTENT, ArtifactKind.FEATURE_SET)),
)
def test_a_report_on_another_artifact_opens_nothing(content, kind) -> None:
    with pytest.raises(BadRequestError, match="run gate_artifact on this input"):
        demand_passing(report(USERS), reference(content), kind, "build_features: events")
