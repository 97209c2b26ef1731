from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.__main__ import World, run_stage
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import PLANS
from tasks.contracts.stage_io import StageContext, StageRequest
from tasks.contracts.stages import Stage
from tasks.rollout.phases import Decision
from tasks.rollout.state import ModelState, open_state
from tasks.stages import roll_back_release
from tests.rollout_context import rollout_context

NIGHT = datetime(2026, 11, 27, 3, tzinfo=UTC)
WHO = "person ann, run manual__1"
BY_HAND = {"model": "shop", "reason": "complaints", "requested_by": WHO}


class Clock:
    """A minute goes by between two entries, unless a test says what time it is."""

    def __init__(self) -> None:
        self.now = NIGHT

    def __call__(self) -> float:
        self.now += timedelta(minutes=1)
        return self.now.timestamp()


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    return rollout_context(tmp_path, settings={**BY_HAND, "requested_at": "2026-11-28T00:00:00Z"})


@pytest.fixture
def state(context: StageContext) -> ModelState:
    store = ObjectStore(context.store_url)
    made = open_state(context.the_state_dir(), "shop", store, clock=Clock())
    made.reserve_slot("first")
    made.promote("first")
    return made


def ship(state: ModelState, release_id: str) -> None:
    state.reserve_slot(release_id)
    for step, said in ((1, Decision.PROCEED), (2, Decision.PROCEED), (3, Decision.SHIP)):
        state.begin_step(release_id, step, PLANS["replay"], per_try_timeout_ms=50)
        state.record_verdict(release_id, step, said, numbers={})
    state.promote(release_id)


def asking(context: StageContext, **settings: str) -> StageContext:
    return replace(context, settings={**context.settings, **settings})


def now_of(state: ModelState) -> str:
    """Return the time of the newest entry: when a run is triggered just then."""
    return state.history()[-1].at


def stable_of(state: ModelState) -> str:
    stable = state.peek().stable
    assert stable is not None
    return stable.release_id


def written(context: StageContext) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((context.out / "rollback.json").read_text())
    return record


@pytest.mark.parametrize("named", ("stable", "2", "second"))
def test_a_person_who_names_stable_gets_the_release_before_and_the_ledger_says_who_and_why(
    context: StageContext, state: ModelState, named: str
) -> None:
    ship(state, "second")
    outcome = roll_back_release.run(asking(context, release=named))
    assert outcome.sentence.endswith("release 1 serves")
    entry = state.history()[-1]
    assert (entry.kind, entry.release_id) == ("rolled_back", "second")
    assert (entry.who, entry.why) == (WHO, "complaints")
    assert written(context)["stable"]["release_id"] == "first"


def test_who_names_nothing_takes_out_the_candidate(
    context: StageContext, state: ModelState
) -> None:
    state.reserve_slot("second")
    roll_back_release.run(context)
    assert state.history()[-1].release_id == "second"
    assert stable_of(state) == "first"


def test_a_candidate_whose_own_run_was_faster_costs_no_stable(
    context: StageContext, state: ModelState
) -> None:
    """The keeper cut it, an alert said so, and the release's DAG rolled it back a minute ago."""
    ship(state, "second")
    state.reserve_slot("third")
    state.roll_back("third")
    before = state.path.read_text()
    with pytest.raises(BadRequestError) as refused:
        roll_back_release.run(context)
    assert str(refused.value) == (
        "shop: expected a release in progress to take out, found none at 2026-11-28T00:00:00Z, when "
        f"it was asked (third: rolled_back by airflow at {now_of(state)}, sequence 12); nothing was "
        "changed: release 2 (second) serves; if it is what is wrong, `headrace rollback --model shop "
        "--release stable --reason WHY`, or the DAG roll_back with the release `stable`, takes it out"
    )
    assert state.path.read_text() == before


@pytest.mark.parametrize("another_in_progress", (False, True))
def test_a_later_try_takes_out_no_other_than_the_candidate_when_it_was_asked(
    context: StageContext, state: ModelState, *, another_in_progress: bool
) -> None:
    """The first try was killed before it did anything."""
    state.reserve_slot("second")
    asked = asking(context, requested_at=now_of(state))
    state.roll_back("second")
    if another_in_progress:
        state.reserve_slot("third")
    before = state.path.read_text()
    with pytest.raises(
        BadRequestError, match="in progress, found that it is not any more: rolled_"
    ):
        roll_back_release.run(asked)
    assert state.path.read_text() == before


def test_a_candidate_that_is_stable_by_now_is_left_alone_unless_it_is_named(
    context: StageContext, state: ModelState
) -> None:
    state.reserve_slot("second")
    asked_at = now_of(state)
    ship(state, "second")
    with pytest.raises(BadRequestError, match="not any more: promoted by airflow"):
        roll_back_release.run(asking(context, requested_at=asked_at))
    assert stable_of(state) == "second"
    roll_back_release.run(asking(context, requested_at=asked_at, release="2"))
    assert stable_of(state) == "first"


def test_a_later_try_takes_out_no_other_than_stable_when_it_was_asked(
    context: StageContext, state: ModelState
) -> None:
    ship(state, "second")
    asked = asking(context, release="stable", requested_at=now_of(state))
    ship(state, "third")
    with pytest.raises(BadRequestError, match=r"release second in progress or stable, found that"):
        roll_back_release.run(asked)
    assert stable_of(state) == "third"


def test_the_same_run_again_changes_nothing(context: StageContext, state: ModelState) -> None:
    ship(state, "second")
    asked = asking(context, release="stable")
    roll_back_release.run(asked)
    before = (written(context), state.path.read_text())
    roll_back_release.run(asked)
    assert (written(context), state.path.read_text()) == before


def test_what_has_ended_is_refused_to_another_run(context: StageContext, state: ModelState) -> None:
    ship(state, "second")
    roll_back_release.run(asking(context, release="2"))
    before = state.path.read_text()
    again = asking(context, release="2", requested_by="person bob, run manual__2")
    with pytest.raises(BadRequestError, match=f"not any more: rolled_back by {WHO} at .* serves"):
        roll_back_release.run(again)
    assert state.path.read_text() == before
    assert roll_back_release.configure(again) != roll_back_release.configure(context)


def test_without_a_release_before_stable_stays(context: StageContext, state: ModelState) -> None:
    with pytest.raises(BadRequestError, match="release its bundle again"):
        roll_back_release.run(asking(context, release="stable"))
    assert stable_of(state) == "first"


def test_stable_is_not_taken_out_from_under_an_experiment(
    context: StageContext, state: ModelState
) -> None:
    ship(state, "second")
    state.reserve_slot("third")
    with pytest.raises(BadRequestError) as refused:
        roll_back_release.run(asking(context, release="stable"))
    assert "taking stable's release second out is refused, one release" in str(refused.value)
    assert "or end it with `headrace rollback --model shop --reason WHY`" in str(refused.value)
    assert stable_of(state) == "second"


@pytest.mark.parametrize("named", ("9", "fourth"))
def test_a_release_that_the_ledger_does_not_know_is_refused(
    context: StageContext, state: ModelState, named: str
) -> None:
    with pytest.raises(BadRequestError, match=f"found '{named}', which the ledger does not know"):
        roll_back_release.run(asking(context, release=named))
    assert stable_of(state) == "first"


@pytest.mark.parametrize("named", ("candidate", "stable"))
def test_a_model_without_a_release_is_refused(context: StageContext, named: str) -> None:
    with pytest.raises(BadRequestError, match="found none .*nothing was changed: nobody serves"):
        roll_back_release.run(asking(context, release=named))


@pytest.mark.parametrize(
    "wrong",
    (
        pytest.param({"model": None}, id="no model"),
        pytest.param({"model": "../x"}, id="a strange model"),
        pytest.param({"requested_by": None}, id="nobody"),
        pytest.param({"requested_by": "keeper"}, id="no person"),
        pytest.param({"requested_at": None}, id="at no time"),
        pytest.param({"release": ""}, id="a release without a name"),
        pytest.param({"release": "../7"}, id="a strange release"),
    ),
)
def test_what_names_no_rollback_is_refused(context: StageContext, wrong: dict[str, Any]) -> None:
    settings = {**context.settings, **wrong}
    with pytest.raises(BadRequestError):
        roll_back_release.configure(replace(context, settings=settings))


FORM: dict[str, Any] = {
    "release_id": "second",
    "requested_at": "2026-11-27T03:00:00Z",
    "model": "shop",
    "dataset": "complete-journey",
    "recipe": "popularity",
    "compression": "int8",
    "plan": "replay",
    "seed": 1,
}


def test_a_rollback_that_had_nothing_to_do_does_not_answer_for_one_that_has(
    context: StageContext, state: ModelState
) -> None:
    """stage_bundle was refused beside another release; a person cleared it, and it failed later."""
    environment = {"HEADRACE_STATE": str(context.the_state_dir())}

    def ran(stage: Stage, **more: Any) -> tuple[str, str]:
        request = StageRequest(stage=stage, store_url=context.store_url, **more)
        manifest, outcome = run_stage(request, World(request, environment))
        return str(manifest.address), outcome.sentence

    release, _ = ran(Stage.REQUEST_RELEASE, settings=FORM)
    asked: dict[str, Any] = {"release": release, "settings": {"reason": "failed: stage_bundle"}}
    state.reserve_slot("other")
    empty, said = ran(Stage.ROLL_BACK_RELEASE, **asked)
    assert said == "shop: nothing to roll back: the release is in no slot that users meet"
    assert ran(Stage.ROLL_BACK_RELEASE, **asked) == (empty, f"re-used: {said}")
    state.roll_back("other")
    state.reserve_slot("second")
    done, said = ran(Stage.ROLL_BACK_RELEASE, **asked)
    assert done != empty
    assert said.startswith("shop: release 3 was taken out at")
    assert state.peek().release_id is None
    # Also once the slot is free: a later try finds what it did.
    assert ran(Stage.ROLL_BACK_RELEASE, **asked) == (done, f"re-used: {said}")
