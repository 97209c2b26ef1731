"""Who answered, and why, reaches the ledger; Airflow's own waiting is its provider's business."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.providers.standard.exceptions import HITLTriggerEventError
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from headrace_airflow.approval import APPROVAL, PromotionApproval, answer_of, approved_by
from headrace_airflow.skip_rules import why_rolled_back

from tasks.contracts.requests import ReleaseRequest, plan_named
from tasks.contracts.stages import Stage
from tasks.rollout.state import open_state

REQUEST = ReleaseRequest(
    release_id="r1",
    model="recommender",
    dataset="ml-1m",
    as_of="2026-01-31T00:00:00Z",
    recipe="markov",
    compression="int8",
    plan=plan_named("replay"),
)


def event(chosen: str, **params: Any) -> dict[str, Any]:
    return {
        "chosen_options": [chosen],
        "params_input": params,
        "responded_by_user": {"id": "7", "name": "ann"},
        "responded_at": datetime(2026, 11, 26, tzinfo=UTC),
        "timedout": False,
    }


@pytest.fixture
def approval(deployment: Any) -> PromotionApproval:
    return PromotionApproval(task_id=APPROVAL, release="request_release", deployment=deployment)


def test_an_approval_says_who_and_why(approval: PromotionApproval, task_instance: Any) -> None:
    context = {"ti": task_instance}
    assert approved_by(context) == {}  # nobody was asked
    approval.execute_complete(context, event("Approve", reason="it looks right"))
    assert approved_by(context) == {"approved_by": "ann", "reason": "approved: it looks right"}


def test_an_approval_without_a_reason_says_so(
    approval: PromotionApproval, task_instance: Any
) -> None:
    approval.execute_complete({"ti": task_instance}, event("Approve"))
    assert approved_by({"ti": task_instance})["reason"] == "approved: gave no reason"


def test_a_rejection_fails_and_the_rollback_says_who_and_why(
    approval: PromotionApproval, task_instance: Any
) -> None:
    with pytest.raises(AirflowFailException, match="Reject"):
        approval.execute_complete({"ti": task_instance}, event("Reject", reason="odd titles"))
    task_instance.states = {APPROVAL: "failed", "stage_bundle": "success"}
    assert why_rolled_back({"ti": task_instance}) == {
        "reason": "failed: approval (Reject by ann: odd titles)",
        "promotion_failed": False,
    }
    assert approved_by({"ti": task_instance}) == {}  # also where it is marked as a success


def test_another_failure_beside_an_approval_is_not_called_a_rejection(
    approval: PromotionApproval, task_instance: Any
) -> None:
    approval.execute_complete({"ti": task_instance}, event("Approve", reason="fine"))
    task_instance.states = {APPROVAL: "success", "promote_release": "failed"}
    assert why_rolled_back({"ti": task_instance})["reason"] == "failed: promote_release"


def test_a_day_without_an_answer_fails_for_good(
    approval: PromotionApproval, task_instance: Any
) -> None:
    timeout = {"error": "the response timeout has passed", "error_type": "timeout"}
    with pytest.raises(AirflowFailException, match="timeout has passed"):
        approval.execute_complete({"ti": task_instance}, timeout)
    assert approved_by({"ti": task_instance}) == {}


def test_what_is_no_answer_is_tried_again(approval: PromotionApproval, task_instance: Any) -> None:
    with pytest.raises(HITLTriggerEventError) as found:
        approval.execute_complete({"ti": task_instance}, {"error": "?", "error_type": "unknown"})
    assert not isinstance(found.value, AirflowFailException)


@pytest.mark.parametrize(
    ("given", "kept"),
    (
        pytest.param({"reason": None}, "gave no reason", id="null"),
        pytest.param({"reason": "a" * 501}, "a" * 500, id="over 500 characters"),
        pytest.param({"reason": 7}, "7", id="a number"),
        pytest.param({"reason": "fine", "odd": 1}, "fine", id="a field that nobody asked for"),
    ),
)
def test_a_reason_that_the_form_would_refuse_does_not_undo_an_approval(
    approval: PromotionApproval, task_instance: Any, given: dict[str, Any], kept: str
) -> None:
    said = approval.execute_complete({"ti": task_instance}, event("Approve", **given))
    assert said["chosen_options"] == ["Approve"]
    assert approved_by({"ti": task_instance})["reason"] == f"approved: {kept}"
    assert answer_of(event("Approve", **given))["reason"] == kept


def test_a_release_that_was_promoted_asks_nobody_again(
    deployment: Any, sealer: Any, task_instance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody cleared a task of its run: an answer that fails to come would roll it back."""
    asked: list[str] = []
    monkeypatch.setattr(ApprovalOperator, "execute", lambda *_: asked.append("a person"))
    release = replace(REQUEST, approval=True)
    sealed = sealer.seal(Stage.REQUEST_RELEASE, {"request.json": release.to_text()})
    approval = PromotionApproval(task_id=APPROVAL, release="request", deployment=deployment)
    task_instance.pulled = {"request": str(sealed.address)}
    state = open_state(deployment.state_dir, release.model)
    state.reserve_slot(release.release_id)
    approval.execute({"ti": task_instance})
    assert asked == ["a person"]
    state.promote(release.release_id)
    with pytest.raises(AirflowSkipException, match="r1 was promoted: nothing is to decide"):
        approval.execute({"ti": task_instance})
    assert asked == ["a person"]
