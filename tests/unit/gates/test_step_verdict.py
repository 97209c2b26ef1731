from __future__ import annotations

import json

import pytest

from tasks.contracts.stages import ArtifactKind
from tasks.gates.bounds import StepBounds

KIND = ArtifactKind.STEP_VERDICT
BOUNDS = StepBounds(
    shares=(500, 5000),
    judgements=("guardrails", "ship"),
    min_users=(20, 50),
    max_error_ratio=0.01,
    max_latency_ratio=3.0,
    min_latency_bound_ms=50.0,
    sample_ratio_alpha=0.0005,
    hypothesis="noninferiority",
    margin=0.02,
)
QUICK = {"estimate": 9.0, "low": 8.0, "high": 11.0}
CANDIDATE = {
    "users": 1000,
    "requests": 4000,
    "failed": 0,
    "fell_back": 3,
    "slow": 0,
    "p50_ms": QUICK,
    "p95_ms": QUICK,
    "p99_ms": QUICK,
}
EFFECT = {
    "candidate_mean": 0.31,
    "stable_mean": 0.30,
    "difference": 0.01,
    "lower_bound": -0.01,
    "upper_bound": 0.03,
    "tested_bound": -0.02,
    "p": 0.004,
    "level": 0.05,
}


@pytest.fixture
def verdict(judge, tmp_path):
    def run(candidate=None, stable=None, effect=EFFECT, **changes):
        record = {
            "format": "step_verdict/1",
            "step": 2,
            "share_basis_points": 5000,
            "decision": "ship",
            "effect": effect,
            "variants": {
                "candidate": {**CANDIDATE, **(candidate or {})},
                "stable": {**CANDIDATE, **(stable or {})},
            },
            "sentences": ["Step 2 of 2: the candidate passed the plan's test: promote it."],
            **changes,
        }
        (tmp_path / "verdict.json").write_text(json.dumps(record))
        return judge(KIND, BOUNDS)

    return run


def test_a_candidate_that_may_ship_passes(verdict) -> None:
    report = verdict()
    assert report.passed, report.sentence
    assert report.key_figures["decision"] == "ship"
    assert len(report.figures) == 2


def test_a_step_that_judges_guardrails_only_needs_no_outcome(verdict) -> None:
    report = verdict(
        step=1,
        share_basis_points=500,
        decision="proceed",
        effect=None,
        candidate={"users": 50, "requests": 150, "fell_back": 0},
        stable={"users": 950},
    )
    assert report.passed, report.sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    (
        (
            {"candidate": {"users": 600}},
            "sample ratio: p at least 0.0005 expected, ",
        ),
        (
            {"candidate": {"failed": 80, "fell_back": 20}},
            (
                "errors of the candidate: at most 1.0 % expected, 2.0 % found as lower bound "
                "(80 failed and 20 taken over by stable of 4,000 requests)"
            ),
        ),
        (
            {"candidate": {"p95_ms": {"estimate": 120.0, "low": 100.0, "high": 140.0}}},
            (
                "p95 of the candidate: at most 50.0 ms expected, 100.0 ms found as lower bound "
                "(p95 120.0 ms, stable's 9.0 ms)"
            ),
        ),
        (
            {"candidate": {"users": 10}, "stable": {"users": 12}},
            "users of candidate: at least 50 expected, 10 found",
        ),
        (
            {"decision": "keep_champion", "effect": {**EFFECT, "p": 0.2}},
            "decision: ship expected, keep_champion found (Step 2 of 2: ",
        ),
        (
            {"effect": {**EFFECT, "p": 0.2}},
            (
                "outcome: hit@10 not below stable's by a margin of 0.02, p at most 0.05 expected, "
                "0.2 found (candidate 0.31, stable 0.3, difference 0.01)"
            ),
        ),
        ({"effect": None}, "outcome: hit@10 not below stable's by a margin of 0.02, p at most"),
        (
            {"share_basis_points": 2500},
            "share of users: exactly 50.0 % expected, 25.0 % found with the candidate",
        ),
        ({"step": 3}, "step: a step of the plan, 1 to 2 expected, 3.0 found"),
    ),
)
def test_a_planted_fault_is_refused_and_named(verdict, changes, sentence) -> None:
    report = verdict(**changes)
    assert not report.passed
    assert sentence in report.sentence, report.sentence


def test_errors_that_stable_has_as_often_do_not_close_the_gate(verdict) -> None:
    assert verdict(candidate={"failed": 80}, stable={"failed": 80}).passed
    report = verdict(candidate={"failed": 400}, stable={"failed": 80})
    assert "errors of the candidate: at most 6.0 % expected" in report.sentence


def test_a_kind_judge_does_not_open_the_gate(verdict) -> None:
    """The judge says ship, the counts say otherwise: the gate computes on its own."""
    report = verdict(decision="ship", candidate={"failed": 400})
    assert [check.name for check in report.failures] == ["errors of the candidate"]
