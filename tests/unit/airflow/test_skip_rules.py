from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from headrace_airflow.skip_rules import (
    NothingStarted,
    StepNotPlanned,
    already_serving,
    no_release,
    reason_without_step,
    why_rolled_back,
)
from headrace_airflow.stage_call import Situation

from tasks.contracts.requests import Champion, ReleaseRequest, plan_named
from tasks.contracts.stage_io import StageRequest
from tasks.contracts.stages import Stage

CHAMPION = Champion(release_number=3, release_id="r3", bundle=f"serving_bundle/{'c' * 64}")
FIRST = ReleaseRequest(
    release_id="r1",
    model="recommender",
    dataset="ml-1m",
    as_of="2026-01-31T00:00:00Z",
    recipe="markov",
    compression="int8",
    plan=plan_named("replay"),
)
LATER = replace(FIRST, champion=CHAMPION)


@pytest.mark.parametrize(
    ("release", "step", "reason"),
    (
        pytest.param(FIRST, 1, "no champion", id="a first release takes no step"),
        pytest.param(LATER, 1, None, id="the first step of the plan is taken"),
        pytest.param(LATER, 3, None, id="the last step of the plan is taken"),
        pytest.param(LATER, 4, "has 3 steps", id="a step beyond the plan is not"),
    ),
)
def test_steps_are_skipped_by_the_pinned_plan(
    release: ReleaseRequest, step: int, reason: str | None
) -> None:
    found = reason_without_step(release, step)
    assert found is None if reason is None else reason in str(found)


def situation(sealer: Any, release: ReleaseRequest, bundle: str, ti: Any = None) -> Situation:
    request = sealer.seal(Stage.REQUEST_RELEASE, {"request.json": release.to_text()})
    asked = StageRequest(
        stage=Stage.STAGE_BUNDLE,
        store_url=sealer.url,
        release=str(request.address),
        reads={"bundle": bundle},
    )
    return Situation(request=asked, store=sealer.store, context={"ti": ti})


@pytest.mark.parametrize(
    ("candidate", "skipped"),
    (
        pytest.param("same", True, id="equal bytes under another key are already serving"),
        pytest.param("other", False, id="other bytes are staged"),
    ),
)
def test_a_candidate_equal_to_the_champion_is_not_staged(
    sealer: Any, candidate: str, skipped: bool
) -> None:
    old = sealer.seal(Stage.BUNDLE_MODEL, {"model": "same"}, {"made": "before"})
    new = sealer.seal(Stage.BUNDLE_MODEL, {"model": candidate}, {"made": "now"})
    (sealer.folder / "out" / "model").unlink()
    champion = replace(CHAMPION, bundle=str(old.address))
    asked = situation(sealer, replace(LATER, champion=champion), str(new.address))
    assert (already_serving(asked) is not None) is skipped


def test_a_first_release_is_always_staged(sealer: Any) -> None:
    assert already_serving(situation(sealer, FIRST, CHAMPION.bundle)) is None


def test_a_step_reads_the_sealed_request(sealer: Any) -> None:
    asked = situation(sealer, LATER, CHAMPION.bundle)
    assert StepNotPlanned(step=3)(asked) is None
    assert StepNotPlanned(step=4)(asked) == "plan replay has 3 steps"


@pytest.mark.parametrize(
    ("state", "rolls_back"),
    (("success", True), ("failed", True), ("upstream_failed", False), ("skipped", False)),
)
def test_a_rollback_needs_something_staged(
    sealer: Any, task_instance: Any, state: str, rolls_back: bool
) -> None:
    task_instance.states = {"stage_bundle": state}
    asked = situation(sealer, LATER, CHAMPION.bundle, task_instance)
    rule = NothingStarted(task_id="stage_bundle", promotion="promote_release")
    assert (rule(asked) is None) is rolls_back


@pytest.mark.parametrize(
    ("promotion", "rolls_back"), (("success", False), ("failed", True), ("upstream_failed", True))
)
def test_what_fails_beside_a_promotion_undoes_nothing(
    sealer: Any, task_instance: Any, promotion: str, rolls_back: bool
) -> None:
    task_instance.states = {"stage_bundle": "success", "promote_release": promotion}
    asked = situation(sealer, LATER, CHAMPION.bundle, task_instance)
    rule = NothingStarted(task_id="stage_bundle", promotion="promote_release")
    assert (rule(asked) is None) is rolls_back


def test_a_rollback_says_what_failed_and_whether_it_was_the_promotion(task_instance: Any) -> None:
    task_instance.states = {"stage_bundle": "success", "step_2.gate_step": "failed"}
    assert why_rolled_back({"ti": task_instance}) == {
        "reason": "failed: step_2.gate_step",
        "promotion_failed": False,
    }
    task_instance.states = {"stage_bundle": "success", "promote_release": "failed"}
    assert why_rolled_back({"ti": task_instance})["promotion_failed"] is True
    task_instance.states = {"approval": "failed", "promote_release": "upstream_failed"}
    assert why_rolled_back({"ti": task_instance})["promotion_failed"] is False


def test_without_a_request_there_is_nothing_to_mirror(sealer: Any) -> None:
    asked = situation(sealer, FIRST, CHAMPION.bundle)
    assert no_release(asked) is None
    assert no_release(replace(asked, request=replace(asked.request, release=None))) is not None
