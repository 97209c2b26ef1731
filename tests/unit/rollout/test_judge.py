from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import PLANS, TrafficPlan
from tasks.rollout.assignment import bucket_of
from tasks.rollout.judge import judge, measure_effect, verify_verdict
from tasks.rollout.observation import (
    ApartSeen,
    CutSeen,
    HotfixSeen,
    StepFacts,
    StepObservation,
    observe,
)
from tasks.rollout.phases import Decision
from tasks.rollout.step_sums import is_failure

PLAN = PLANS["replay"]  # 5 % and 25 % guardrails, 50 % ship: not worse by .02 at 5 %
SUPERIOR = replace(PLAN, hypothesis="superiority", margin=0.0)


def facts(step: int, plan: TrafficPlan = PLAN) -> StepFacts:
    return StepFacts(
        model="shop",
        release_id="second",
        rollout="r2",
        salt="salt",
        step=step,
        candidate_colour="green",
        per_try_timeout_ms=50.0,
        plan=plan,
    )


@cache
def bucket(user: str) -> int:
    return bucket_of("salt", user)


def exposure(user: str, number: int, step: int, share: int, **others: Any) -> dict[str, Any]:
    candidate = bucket(user) < share
    return {
        "time": 1_700_000_000.0 + number,
        "request_id": f"{step}-{user}-{number}",
        "user": user,
        "variant": "candidate" if candidate else "stable",
        "bucket": bucket(user),
        "step": step,
        "slot": "green" if candidate else "blue",
        "code": 200,
        "grpc_status": None,
        "flags": "-",
        "attempts": 1,
        "ms": 5.0,
        **others,
    }


def world(
    step: int, *, users: int = 2000, requests: int = 3, plan: TrafficPlan = PLAN, **hit: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return exposures and outcomes; `candidate` and `stable` are the chances of a hit."""
    draw = np.random.default_rng(step)
    share = plan.steps[step - 1].share_basis_points
    lines = [
        exposure(f"u{user}", number, step, share)
        for user in range(users)
        for number in range(requests)
    ]
    outcomes = [
        {"request_id": line["request_id"], "hit": int(draw.random() < hit[line["variant"]])}
        for line in lines
    ]
    return lines, outcomes


def seen(step: int, plan: TrafficPlan = PLAN, **others: Any) -> StepObservation:
    lines, outcomes = world(step, plan=plan, **{"candidate": 0.3, "stable": 0.3, **others})
    return observe(facts(step, plan), lines, outcomes)


def changed(step: int, change: dict[str, Any], every: int, variant: str) -> StepObservation:
    """Return what is seen when one in `every` requests of a variant is different."""
    lines, outcomes = world(step, candidate=0.3, stable=0.3)
    mine = (line for line in lines if line["variant"] == variant)
    for place, line in enumerate(mine):
        if place % every == 0:
            line.update(change)
    return observe(facts(step), lines, outcomes)


@pytest.mark.parametrize(
    ("observation", "decision"),
    (
        pytest.param(seen(1), Decision.PROCEED, id="a healthy ramp step proceeds"),
        pytest.param(
            seen(1, candidate=0.0), Decision.PROCEED, id="a ramp step does not look at outcomes"
        ),
        pytest.param(seen(1, users=300), Decision.KEEP_CHAMPION, id="too few users are no verdict"),
        pytest.param(
            changed(1, {"code": 503}, 10, "candidate"),
            Decision.ROLL_BACK,
            id="one candidate request in ten failing is harm",
        ),
        pytest.param(
            changed(1, {"slot": "blue", "attempts": 2}, 10, "candidate"),
            Decision.ROLL_BACK,
            id="one candidate request in ten answered by stable is harm, though no user saw it",
        ),
        pytest.param(
            changed(1, {"code": 503}, 200, "candidate"),
            Decision.PROCEED,
            id="a failure now and then, below the plan's limit, is none",
        ),
        pytest.param(
            changed(1, {"code": 503}, 10, "stable"),
            Decision.PROCEED,
            id="a failing stable is not held against the candidate",
        ),
        pytest.param(
            changed(1, {"slot": "blue", "attempts": 4, "code": 404}, 10, "candidate"),
            Decision.PROCEED,
            id="what stable refuses as well is the client's own fault",
        ),
        pytest.param(
            changed(1, {"slot": "blue", "attempts": 4, "grpc_status": 12}, 10, "candidate"),
            Decision.PROCEED,
            id="what stable fails as well is not held against the candidate",
        ),
        pytest.param(
            changed(1, {"slot": "blue", "attempts": 4, "grpc_status": 9, "ms": 45.0}, 5, "stable"),
            Decision.PROCEED,
            id="a refusal by stable alone is no error of the candidate",
        ),
        pytest.param(
            changed(1, {"slot": "blue", "attempts": 2, "grpc_status": 0}, 10, "candidate"),
            Decision.ROLL_BACK,
            id="what the candidate alone refuses is harm, though no user saw it",
        ),
        pytest.param(
            changed(3, {"slot": "blue", "attempts": 4, "code": 400}, 5, "candidate"),
            Decision.SHIP,
            id="a ship step is tested though clients err in a fifth of the requests",
        ),
        pytest.param(
            changed(1, {"ms": 400.0}, 5, "candidate"),
            Decision.ROLL_BACK,
            id="a p95 far above stable's is harm",
        ),
        pytest.param(
            changed(1, {"ms": 45.0}, 5, "candidate"),
            Decision.PROCEED,
            id="a p95 of nine times stable's is accepted below the plan's floor",
        ),
        pytest.param(
            changed(1, {"slot": "blue", "attempts": 1}, 3, "candidate"),
            Decision.PROCEED,
            id="what an ejection kept from the candidate is no error of its",
        ),
        pytest.param(
            changed(3, {"slot": "blue", "attempts": 1}, 3, "candidate"),
            Decision.KEEP_CHAMPION,
            id="nothing is shipped when stable gave a third of the answers",
        ),
        pytest.param(
            changed(1, {"slot": "blue", "attempts": 2, "ms": 55.0}, 5, "candidate"),
            Decision.ROLL_BACK,
            id="one candidate request in five over the time limit is harm",
        ),
        pytest.param(
            changed(1, {"ms": 400.0}, 50, "candidate"),
            Decision.PROCEED,
            id="two slow requests in a hundred leave the p95 alone",
        ),
        pytest.param(
            seen(3, candidate=0.95, stable=0.95),
            Decision.SHIP,
            id="parity passes a non-inferiority test",
        ),
        pytest.param(
            seen(3, users=1000),
            Decision.KEEP_CHAMPION,
            id="parity with few users is no verdict",
        ),
        pytest.param(seen(3, candidate=0.4), Decision.SHIP, id="a better candidate passes"),
        pytest.param(
            seen(3, candidate=0.27), Decision.KEEP_CHAMPION, id="a little worse is no verdict"
        ),
        pytest.param(seen(3, candidate=0.1), Decision.ROLL_BACK, id="much worse is harm"),
        pytest.param(
            seen(3, SUPERIOR), Decision.KEEP_CHAMPION, id="parity does not pass superiority"
        ),
        pytest.param(
            seen(3, SUPERIOR, candidate=0.4), Decision.SHIP, id="a better one passes superiority"
        ),
    ),
)
def test_the_judge_says(observation: StepObservation, decision: Decision) -> None:
    verdict = judge(observation)
    assert verdict.decision is decision, verdict.sentences


def test_users_who_vanish_from_one_side_are_an_alarm() -> None:
    lines, outcomes = world(3, candidate=0.3, stable=0.3)
    kept = [line for line in lines if line["variant"] == "stable" or line["user"][-1] not in "379"]
    verdict = judge(observe(facts(3), kept, outcomes))
    assert verdict.decision is Decision.ROLL_BACK
    assert [check.name for check in verdict.checks if check.passed is False] == ["sample ratio"]


def test_outcomes_are_of_users_who_meet_the_candidate_for_the_first_time() -> None:
    observation = seen(3)
    buckets = [bucket(f"u{user}") for user in range(2000)]
    new = sum(2500 <= place < 5000 for place in buckets)
    assert observation.candidate_outcome.users == new
    assert observation.candidate.users == sum(place < 5000 for place in buckets)
    assert observation.stable_outcome.users == sum(place >= 5000 for place in buckets)


def test_exposures_of_other_steps_do_not_count() -> None:
    lines, outcomes = world(3, candidate=0.3, stable=0.3)
    others = [{**line, "step": 2, "request_id": "2" + line["request_id"]} for line in lines]
    assert observe(facts(3), lines + others, outcomes) == observe(facts(3), lines, outcomes)


def test_a_request_without_an_outcome_is_counted_and_left_out() -> None:
    lines, outcomes = world(3, candidate=1.0, stable=1.0)
    observation = observe(facts(3), lines, outcomes[10:])
    assert observation.requests_without_outcome == 10
    assert observation.stable_outcome.mean == 1.0


def test_an_id_that_a_client_gives_several_requests_hides_no_failure() -> None:
    """A page asks again under the same id: the first try fails, the second is well."""
    lines, outcomes = world(1, candidate=0.3, stable=0.3)
    again = []
    for line in lines:
        fails = line["variant"] == "candidate"
        again += [{**line, "code": 500} if fails else line, {**line, "time": line["time"] + 1}]
    found, once = observe(facts(1), again, outcomes), observe(facts(1), lines, outcomes)
    assert found.candidate.requests == 2 * once.candidate.requests
    assert found.candidate.failed == once.candidate.requests
    assert judge(found).decision is Decision.ROLL_BACK
    # An id's outcome counts once: it joins a request and what a shop saw of its answer.
    assert found.candidate_outcome == once.candidate_outcome
    assert found.stable_outcome == once.stable_outcome
    assert observe(facts(1), again, outcomes[10:]).requests_without_outcome == 20


def chunked(line: dict[str, Any]) -> dict[str, Any]:
    return {**line, "variant": "neither", "slot": "blue"}


def test_users_who_could_not_have_met_the_candidate_are_in_no_arm_and_are_counted() -> None:
    lines, outcomes = world(1, candidate=0.3, stable=0.3)
    some = {f"u{number}" for number in range(0, 2000, 2)}
    mixed = [chunked(line) if line["user"] in some else line for line in lines]
    seen_mixed = observe(facts(1), mixed, outcomes)
    assert (seen_mixed.apart.users, seen_mixed.apart.requests) == (1000, 3000)
    assert seen_mixed.candidate.users + seen_mixed.stable.users == 1000
    others = [line for line in lines if line["user"] not in some]
    assert replace(seen_mixed, apart=ApartSeen()) == observe(facts(1), others, outcomes)
    assert StepObservation.parse(seen_mixed.to_text(), "here") == seen_mixed


def test_many_chunked_clients_do_not_take_out_a_healthy_candidate() -> None:
    lines, outcomes = world(2, candidate=0.3, stable=0.3)
    some = {f"u{number}" for number in range(0, 2000, 2)}
    mixed = [chunked(line) if line["user"] in some else line for line in lines]
    # As they were logged before: by who answered.
    answered = [
        {**line, "variant": "stable"} if line["variant"] == "neither" else line for line in mixed
    ]
    wrong = judge(observe(facts(2), answered, outcomes))
    assert wrong.decision is Decision.ROLL_BACK
    assert [one.name for one in wrong.checks if one.passed is False] == ["sample ratio"]
    verdict = judge(observe(facts(2), mixed, outcomes))
    assert verdict.decision is Decision.PROCEED
    assert "3000 requests of 1000 users are in neither variant" in verdict.sentences[-1]
    assert json.loads(verdict.to_text())["apart"] == {"users": 1000, "requests": 3000}
    assert "apart" not in json.loads(judge(seen(2)).to_text())


def test_slow_failing_and_ejected_takeovers_are_told_apart() -> None:
    away = {"slot": "blue", "attempts": 2}
    slow = changed(1, {**away, "ms": 60.0}, 20, "candidate").candidate
    quick = changed(1, {**away, "ms": 8.0}, 20, "candidate").candidate
    ejected = changed(1, {**away, "attempts": 1}, 20, "candidate").candidate
    found = [(seen.slow, seen.fell_back, seen.not_asked) for seen in (slow, quick, ejected)]
    number = slow.slow
    assert number > 0
    assert found == [(number, 0, 0), (0, number, 0), (0, 0, number)]
    assert {seen.answered for seen in (slow, quick, ejected)} == {slow.requests - number}


def test_a_machine_that_is_slow_for_everybody_is_not_held_against_the_candidate() -> None:
    lines, outcomes = world(1, candidate=0.3, stable=0.3)
    for line in lines[::5]:
        line["ms"] = 80.0
    assert judge(observe(facts(1), lines, outcomes)).decision is Decision.PROCEED


def test_errors_that_stable_has_as_often_are_not_held_against_the_candidate() -> None:
    lines, outcomes = world(1, candidate=0.3, stable=0.3)
    for line in lines[::10]:
        line |= {"code": 503}
    assert judge(observe(facts(1), lines, outcomes)).decision is Decision.PROCEED
    alone = [line | ({"code": 200} if line["variant"] == "stable" else {}) for line in lines]
    assert judge(observe(facts(1), alone, outcomes)).decision is Decision.ROLL_BACK


def test_what_stable_refuses_too_counts_neither_as_time_nor_as_an_answer() -> None:
    refused = {"slot": "blue", "attempts": 4, "code": 400, "ms": 900.0}
    found = changed(3, refused, 5, "candidate")
    candidate = found.candidate
    assert candidate.stable_too == len(range(0, candidate.requests, 5))
    assert (candidate.failed, candidate.fell_back) == (0, 0)
    assert candidate.answered == candidate.requests - candidate.stable_too
    assert candidate.p99_ms is not None
    assert candidate.p99_ms.estimate == 5.0
    checks = {check.name: check for check in judge(found).checks}
    assert checks["answered by the candidate"].passed
    assert f"{candidate.stable_too} of them stable refused" in checks["errors"].found


def test_a_verdict_without_shared_faults_reads_as_before_they_were_counted() -> None:
    observation = seen(1, users=300)
    record = json.loads(observation.to_text())
    for variant in ("candidate", "stable"):
        assert record[variant].pop("stable_too") == 0
    before = StepObservation.parse(json.dumps(record | {"format": "step_observation/2"}), "here")
    assert before == observation
    assert "stable_too" not in judge(before).to_text()


def test_a_hanging_candidate_is_seen_though_it_is_ejected_most_of_the_time() -> None:
    lines, outcomes = world(1, candidate=0.3, stable=0.3)
    mine = [line for line in lines if line["variant"] == "candidate"]
    for place, line in enumerate(mine):  # five that hang, then forty while it is ejected
        hangs = place % 45 < 5
        line |= {"slot": "blue", "attempts": 2 if hangs else 1, "ms": 56.0 if hangs else 5.0}
    verdict = judge(observe(facts(1), lines, outcomes))
    assert verdict.decision is Decision.ROLL_BACK
    assert "time limit" in [check.name for check in verdict.checks if check.passed is False]


@pytest.mark.parametrize(
    ("code", "grpc_status", "fails"),
    (
        pytest.param(200, None, False, id="an answer"),
        pytest.param(400, None, False, id="a client's mistake"),
        pytest.param(503, None, True, id="a server's error"),
        pytest.param(200, 0, False, id="a gRPC answer"),
        pytest.param(200, 3, False, id="gRPC: an invalid argument"),
        pytest.param(200, 14, True, id="gRPC: unavailable, though HTTP says 200"),
        pytest.param(200, 2, True, id="gRPC: an exception in the server"),
        pytest.param(200, 10, True, id="gRPC: aborted by the server"),
        pytest.param(200, 5, False, id="gRPC: not found"),
        pytest.param(200, 99, True, id="gRPC: a status that it does not know"),
    ),
)
def test_what_counts_as_a_failure(code: int, grpc_status: int | None, fails: bool) -> None:
    assert is_failure({"code": code, "grpc_status": grpc_status}) is fails


def test_a_candidate_at_the_margin_is_shipped_no_more_often_than_stated() -> None:
    def shipped() -> Iterator[bool]:
        draw = np.random.default_rng(1)
        template = seen(3, users=100)
        for _ in range(1000):
            groups = []
            for mean in (0.28, 0.30):  # the true difference is the margin, -.02
                values = draw.normal(mean, 0.25, 400)
                groups.append((float(values.mean()), float(values.var(ddof=1))))
            outcomes = [
                replace(template.stable_outcome, users=400, mean=mean, variance=variance)
                for mean, variance in groups
            ]
            effect = measure_effect(
                replace(template, candidate_outcome=outcomes[0], stable_outcome=outcomes[1])
            )
            yield effect.p <= effect.level

    rate = sum(shipped()) / 1000
    assert 0.03 < rate < 0.07  # 5 % stated; standard error .007


def test_an_observation_survives_its_file() -> None:
    for observation in (seen(1, users=5), seen(3)):
        assert StepObservation.parse(observation.to_text(), "here") == observation


def test_an_observation_of_the_format_before_cuts_were_judged_is_read() -> None:
    record = json.loads(seen(1, users=5).to_text())
    assert record.pop("cut") is None
    assert record.pop("apart") == {"users": 0, "requests": 0}  # since format 3
    older = json.dumps(record | {"format": "step_observation/1"})
    assert StepObservation.parse(older, "here") == seen(1, users=5)


def test_a_cut_is_judged_as_harm_however_well_the_rest_looks() -> None:
    cut = CutSeen(sequence=7, at="2026-01-01T00:00:00.000Z", who="keeper", why="errors: 9 of 10")
    observation = replace(seen(3, candidate=0.4), cut=cut)
    assert judge(replace(observation, cut=None)).decision is Decision.SHIP
    verdict = judge(observation)
    assert verdict.decision is Decision.ROLL_BACK
    assert [check.name for check in verdict.checks if check.passed is False] == ["not cut"]
    assert "(ledger entry 7): errors: 9 of 10" in verdict.sentences[1]
    assert StepObservation.parse(observation.to_text(), "here") == observation


def test_what_came_before_a_hotfix_of_stable_is_left_out_and_the_verdict_says_so() -> None:
    """Until then the candidate looked better, against a stable that was broken."""
    lines, outcomes = world(3, candidate=0.3, stable=0.0)
    new_lines, new_outcomes = world(3, candidate=0.3, stable=0.31)
    later = [
        {**line, "time": line["time"] + 100, "request_id": f"new-{line['request_id']}"}
        for line in new_lines
    ]
    later_outcomes = [{**one, "request_id": f"new-{one['request_id']}"} for one in new_outcomes]
    fix = HotfixSeen(sequence=9, at="2023-11-14T22:14:58Z", instead_of=1, now=3)  # 98 s later
    found = observe(facts(3), [*lines, *later], [*outcomes, *later_outcomes], fix)
    assert found.hotfix == replace(fix, left_out=len(lines))
    assert found.candidate.requests + found.stable.requests == len(later)
    assert found.stable_outcome.mean == pytest.approx(0.31, abs=0.02)
    verdict = judge(found)
    assert verdict.effect is not None
    assert verdict.effect.stable_mean == pytest.approx(0.31, abs=0.02)
    assert any(
        "release 3 instead of 1 since 2023-11-14T22:14:58Z" in sentence
        for sentence in verdict.sentences
    )
    assert StepObservation.parse(found.to_text(), "here") == found
    mixed = observe(facts(3), [*lines, *later], [*outcomes, *later_outcomes])
    assert mixed.stable_outcome.mean < 0.2  # what it would have been judged against


def test_a_torn_observation_is_refused() -> None:
    with pytest.raises(BadRequestError, match="complete step_observation/1"):
        StepObservation.parse('{"format": "step_observation/1"}', "here")


def test_the_verdict_is_sentences_with_numbers() -> None:
    verdict = judge(seen(3, candidate=0.4))
    record = json.loads(verdict.to_text())
    assert record["decision"] == "ship"
    assert record["favourable"] is True
    assert record["sentences"][0] == (
        "Step 3 of 3 of shop (r2, 50% of users): the candidate passed the plan's test: promote it."
    )
    assert any("p = " in sentence and "users)" in sentence for sentence in record["sentences"])
    assert {check["name"] for check in record["checks"]} == {
        "enough users",
        "sample ratio",
        "errors",
        "time limit",
        "latency",
        "answered by the candidate",
        "noninferiority",
    }


def test_a_verdict_can_be_recomputed_and_a_forged_one_is_found(tmp_path: Path) -> None:
    observation = seen(3, candidate=0.1)
    (tmp_path / "observation.json").write_text(observation.to_text())
    (tmp_path / "verdict.json").write_text(judge(observation).to_text())
    assert verify_verdict(tmp_path) == []
    forged = (tmp_path / "verdict.json").read_text().replace("roll_back", "ship")
    (tmp_path / "verdict.json").write_text(forged)
    assert len(verify_verdict(tmp_path)) == 1


def test_a_step_without_any_request_is_no_verdict() -> None:
    verdict = judge(observe(facts(1), [], []))
    assert verdict.decision is Decision.KEEP_CHAMPION


def test_a_step_is_summed_up_and_never_in_memory() -> None:
    """40,000 requests of 200 users, as a list, took 25 MB."""
    users = [exposure(f"u{number}", 0, 1, 500) for number in range(200)]

    def lines() -> Iterator[dict[str, Any]]:
        for number in range(40_000):
            ms = 1 + number % 1000 / 1000
            yield {**users[number % 200], "request_id": f"request-{number}", "ms": ms}

    outcomes = ({"request_id": f"request-{number}", "hit": 1} for number in range(40_000))
    tracemalloc.start()
    try:
        found = observe(facts(1), lines(), outcomes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.candidate.requests + found.stable.requests == 40_000
    assert (found.stable_outcome.mean, found.requests_without_outcome) == (1.0, 0)
    assert peak < 4_000_000


def test_of_several_outcomes_of_one_request_the_last_one_counts() -> None:
    lines, outcomes = world(1, users=200, candidate=0.0, stable=0.0)
    later = [{**one, "hit": 1} for one in outcomes]
    assert observe(facts(1), lines, [*outcomes, *later]).stable_outcome.mean == 1.0
    assert observe(facts(1), lines, [*later, *outcomes]).stable_outcome.mean == 0.0
