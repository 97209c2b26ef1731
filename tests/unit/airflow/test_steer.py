from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from headrace_airflow.steer import SteerOperator

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.requests import PLANS
from tasks.rollout.phases import Phase
from tasks.rollout.state import ModelState, open_state


@pytest.fixture
def here(deployment: Any) -> Any:
    return replace(deployment, python=sys.executable)


@pytest.fixture
def state(here: Any) -> ModelState:
    made = open_state(here.state_dir, "shop", ObjectStore(here.store_url))
    made.reserve_slot("first")
    made.promote("first")
    made.reserve_slot("second")
    made.begin_step("second", 1, PLANS["replay"], per_try_timeout_ms=50)
    return made


def steer(here: Any, action: str, user: str | None = "ann", run: Any = None) -> str:
    form = {"model": "shop", "action": action, "reason": "odd numbers"}
    operator = SteerOperator(task_id="steer", deployment=here)
    return str(operator.execute({"params": form, "dag_run": run or triggered(user)}))


def triggered(user: str | None = "ann", number: int = 1) -> SimpleNamespace:
    return SimpleNamespace(
        run_id=f"manual__{number}", triggering_user_name=user, run_after=datetime.now(tz=UTC)
    )


def test_a_person_pauses_and_resumes_in_airflow_and_is_named_in_the_ledger(
    here: Any, state: ModelState
) -> None:
    assert "second is paused at 0 %" in steer(here, "pause")
    entry = state.history()[-1]
    assert (entry.who, entry.why) == ("person ann, run manual__1", "odd numbers")
    steer(here, "pause")
    assert state.peek().sequence == entry.sequence
    assert "second is stepping at 5 %" in steer(here, "resume", user=None)
    assert state.history()[-1].who == "person, run manual__1"


def test_a_run_that_is_cleared_does_nothing_to_a_later_pause(here: Any, state: ModelState) -> None:
    state.pause("second")
    ann = triggered("ann")
    steer(here, "resume", run=ann)
    steer(here, "pause", run=triggered("bob", 2))
    text = state.text()
    assert "was resumed by person ann, run manual__1 at" in steer(here, "resume", run=ann)
    cat = triggered("cat", 3)
    cat.run_after = ann.run_after  # its first try was killed before it did anything
    with pytest.raises(
        AirflowFailException, match="second was paused by person bob, run manual__2"
    ):
        steer(here, "resume", run=cat)
    assert state.text() == text


def test_what_cannot_be_resumed_fails_without_a_retry(here: Any, state: ModelState) -> None:
    state.cut("second", 1, numbers={})
    with pytest.raises(AirflowFailException, match="the verdict on step 1 is roll_back"):
        steer(here, "resume")
    assert state.peek().status.phase is Phase.PAUSED
