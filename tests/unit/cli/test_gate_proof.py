"""A gate's report counts where it holds what the release's own request demands, with its numbers."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace

import pytest

from tasks.cli.ledgers import named, readable_entries
from tasks.cli.verify import GATED_KINDS, verify_release
from tasks.contracts.code_digest import code_digest
from tasks.contracts.gate_reports import GateReport
from tasks.contracts.requests import PLANS, Champion
from tasks.contracts.stages import ArtifactKind, Stage
from tasks.gates.bounds import bounds_for, pinned_by_request
from tests.unit.cli.conftest import MODEL

RELEASE = "first"


def verdict(tiny, name: str = RELEASE):
    release = named(readable_entries(tiny.state), name, MODEL)
    return verify_release(tiny.store, tiny.state, release)


def without_report(tiny, stage: Stage = Stage.EVALUATE_MODEL):
    """Promote, and take the report on one artifact away."""
    tiny.promote(RELEASE)
    artifact = tiny.made[RELEASE][stage]
    for report in tiny.reports_on(artifact):
        shutil.rmtree(tiny.folder_of(report))
    return artifact


def of_format_1(report: GateReport) -> str:
    record = json.loads(report.to_text())
    record["format"] = "gate_report/1"
    for check in record["checks"]:
        del check["limits"], check["measured"]
    return json.dumps(record)


def without_numbers(report: GateReport) -> str:
    return json.dumps({**json.loads(of_format_1(report)), "format": "gate_report/2"})


def test_a_passing_report_under_laxer_bounds_is_none_of_this_release(tiny) -> None:
    evaluation = without_report(tiny)
    lenient = tiny.gate(evaluation, bounds={"margin": 0.05})
    (problem,) = verdict(tiny).problems
    assert problem == (
        f"{evaluation.address}: expected a gate report under the bounds of this release, found "
        f"{lenient.address}: manifest.json: field config.bounds.margin: expected 0.005, found 0.05"
    )


def test_a_refusal_is_named_though_a_laxer_report_passes(tiny) -> None:
    evaluation = without_report(tiny)
    refusing = tiny.gate(evaluation, passed=False)
    tiny.gate(evaluation, bounds={"margin": 0.05})
    (problem,) = verdict(tiny).problems
    assert problem == (
        f"{evaluation.address}: expected a passing gate report, found {refusing.address}: "
        "price: min 0 expected, -4.0 found in 118 of 2.1M rows"
    )


def test_a_laxer_report_beside_that_of_the_release_is_no_harm(tiny) -> None:
    """Another release may have asked for less of the same bytes."""
    tiny.promote(RELEASE)
    tiny.gate(tiny.made[RELEASE][Stage.EVALUATE_MODEL], bounds={"margin": 0.05})
    tiny.gate(tiny.made[RELEASE][Stage.EVALUATE_MODEL], bounds={"margin": 0.001}, passed=False)
    assert verdict(tiny).problems == []


def test_a_refusal_by_the_gate_as_it_is_now_is_a_problem_beside_a_pass_by_other_code(tiny) -> None:
    tiny.promote(RELEASE)
    evaluation = tiny.made[RELEASE][Stage.EVALUATE_MODEL]
    ours = code_digest(Stage.GATE_ARTIFACT)
    refusing = tiny.gate(evaluation, passed=False, code=ours)
    (problem,) = verdict(tiny).problems
    assert f"expected a passing gate report, found {refusing.address}: price: min 0" in problem


def test_a_refusal_by_other_code_is_noted_beside_a_pass(tiny) -> None:
    tiny.promote(RELEASE)
    evaluation = tiny.made[RELEASE][Stage.EVALUATE_MODEL]
    refusing = tiny.gate(evaluation, passed=False, code="a gate since mended")
    found = verdict(tiny)
    assert found.problems == []
    (note,) = found.notes
    assert f"a refusal by other code of the gate: {refusing.address}: price: min 0" in note


@pytest.mark.parametrize("ours", (True, False))
def test_bounds_that_belong_to_the_code_are_compared_where_the_code_is_ours(tiny, ours) -> None:
    model = without_report(tiny, Stage.TRAIN_MODEL)
    code = {"code": code_digest(Stage.GATE_ARTIFACT)} if ours else {}
    tiny.gate(model, bounds={"max_loss_rebound": 9.0}, **code)
    found = verdict(tiny).problems
    assert (
        any("config.bounds.max_loss_rebound: expected 1.2, found 9.0" in p for p in found) is ours
    )
    assert bool(found) is ours


@pytest.mark.parametrize("ours", (True, False))
def test_older_code_of_the_gate_did_not_write_down_what_it_compared_with(tiny, ours) -> None:
    tiny.promote(RELEASE)
    tiny.promote("second")
    events = tiny.made["second"][Stage.INGEST_EVENTS]
    for report in tiny.reports_on(events):
        shutil.rmtree(tiny.folder_of(report))
    code = {"code": code_digest(Stage.GATE_ARTIFACT)} if ours else {}
    tiny.gate(events, without="last_run", **code)
    champions = tiny.made[RELEASE][Stage.INGEST_EVENTS].address
    found = verdict(tiny, "second").problems
    assert bool(found) is ours
    assert all(f"config.last_run: expected '{champions}', found None" in one for one in found)


def test_a_verdict_without_its_numbers_is_named(tiny) -> None:
    model = without_report(tiny, Stage.TRAIN_MODEL)
    bare = tiny.gate(model, text=without_numbers)
    found = verdict(tiny).problems
    assert f"{model.address}: expected a gate report on its content, found none" in found
    assert any(
        f"{bare.address}: checks[0] (price): field limits: expected the numbers" in problem
        for problem in found
    )


def test_a_report_of_an_older_format_is_read_with_a_note(tiny) -> None:
    model = without_report(tiny, Stage.TRAIN_MODEL)
    old = tiny.gate(model, text=of_format_1)
    found = verdict(tiny)
    assert found.problems == []
    (note,) = found.notes
    assert note == (
        f"{old.address}: 1 verdicts of an older format, which keeps no numbers: they are read, "
        "not recomputed"
    )


def test_the_champions_artifacts_are_held_to_what_its_own_release_demanded(tiny) -> None:
    tiny.promote(RELEASE)
    tiny.requests["second"] = replace(
        tiny.request("second"), as_of="2018-02-03T00:00:00Z", recipe="markov"
    )
    tiny.promote("second")
    assert verdict(tiny, "second").problems == []
    assert verdict(tiny).problems == []


def test_the_request_pins_exactly_the_bounds_without_a_default(tiny) -> None:
    one = tiny.request(RELEASE)
    fortnight = PLANS["fortnight"]
    other = replace(
        one,
        as_of="2019-01-01T00:00:00Z",
        recipe="markov",
        compression="none",
        champion=Champion(release_number=1, release_id="x", bundle="serving_bundle/" + "a" * 64),
        plan=replace(
            fortnight,
            max_error_ratio=0.5,
            max_latency_ratio=9.0,
            min_latency_bound_ms=7.0,
            sample_ratio_alpha=0.1,
            margin=0.3,
        ),
        evaluation=replace(
            one.evaluation,
            margin=0.2,
            slice_margin=0.3,
            alpha=0.1,
            max_standard_error_share=0.2,
        ),
    )
    kinds = [kind for kind in ArtifactKind if kind in GATED_KINDS]
    assert len(kinds) == 8
    for kind in kinds:
        first, second = asdict(bounds_for(kind, one)), asdict(bounds_for(kind, other))
        differing = {name for name in first if first[name] != second[name]}
        assert differing == pinned_by_request(kind, one), kind
