from __future__ import annotations

import json

import pytest

from tasks.contracts.stages import ArtifactKind
from tasks.gates.bounds import SlotBounds

KIND = ArtifactKind.STAGED_SLOT
BOUNDS = SlotBounds(max_latency_ratio=3.0, min_latency_bound_ms=50.0)
RIGHT = {"n": 500, "wrong": 0, "failed": 0, "worst_score_difference": 0.0, "examples": []}
FAST = {"requests": 300, "p50": 3.0, "p95": 6.0, "p99": 9.0}
STABLE = {"requests": 300, "p50": 2.0, "p95": 5.0, "p99": 20.0}


@pytest.fixture
def verdict(judge, tmp_path):
    def run(grpc=None, rest=None, candidate=FAST, stable=STABLE, candidate_rest=FAST):
        slot = {
            "format": "staged_slot/1",
            "model": "recommender",
            "release_number": 7,
            "colour": "green",
        }
        infra = {
            "format": "infra_check/1",
            "n": 1000,
            "wrong": 0,
            "grpc": {**RIGHT, **(grpc or {})},
            "rest": {**RIGHT, **(rest or {})},
            "latency_ms": {"candidate": candidate, "stable": stable},
            "latency_ms_rest": {"candidate": candidate_rest, "stable": stable},
        }
        (tmp_path / "slot.json").write_text(json.dumps(slot))
        (tmp_path / "infra.json").write_text(json.dumps(infra))
        return judge(KIND, BOUNDS)

    return run


def test_a_slot_that_answers_right_and_fast_passes(verdict) -> None:
    report = verdict()
    assert report.passed, report.sentence
    assert report.key_figures["slot"] == "green"
    assert len(report.figures) == 2


@pytest.mark.parametrize("protocol", ("grpc", "rest"))
def test_a_slot_that_answers_wrong_for_one_percent_is_refused(verdict, protocol) -> None:
    wrong = {"wrong": 5, "examples": ["user u1 place 1: expected i4 (0.5), found i9 (0.4)"]}
    report = verdict(**{protocol: wrong})
    assert (
        f"wrong answers by {protocol}: at most 1 expected, 5 found of 500 golden requests "
        "(e.g. user u1 place 1: expected i4 (0.5), found i9 (0.4))"
    ) in report.sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    (
        (
            {"grpc": {"failed": 1}},
            "requests without answer by grpc: at most 0 expected, 1 found of 500 golden requests",
        ),
        (
            {"candidate": {**FAST, "p99": 90.0}},
            "p99 by grpc: at most 60.0 ms expected, 90.0 ms found (stable's 20.0 ms in the same",
        ),
        (
            {"candidate": {**FAST, "p99": 700.0}, "stable": None},
            "p99 by grpc: at most 500.0 ms expected, 700.0 ms found (no stable release",
        ),
        ({"candidate": None}, "p99 by grpc: at most 60.0 ms expected, nothing found"),
        ({"rest": {"n": 20}}, "golden requests by rest: at least 100 expected, 20 found"),
    ),
)
def test_a_planted_fault_is_refused_and_named(verdict, changes, sentence) -> None:
    report = verdict(**changes)
    assert not report.passed
    assert sentence in report.sentence, report.sentence


def test_a_fast_stable_release_does_not_make_fifty_milliseconds_slow(verdict) -> None:
    assert verdict(candidate={**FAST, "p99": 49.0}, stable={**STABLE, "p99": 1.0}).passed


def test_slow_answers_by_rest_only_warn(verdict) -> None:
    report = verdict(candidate_rest={**FAST, "p99": 90.0})
    assert report.passed, report.sentence
    assert [check.name for check in report.warnings] == ["p99 by rest"]
