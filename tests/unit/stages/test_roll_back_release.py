from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import PLANS
from tasks.contracts.stage_io import StageContext
from tasks.rollout.phases import Decision
from tasks.rollout.state import ModelState, open_state
from tasks.stages import roll_back_release

BY_HAND = {"model": "shop", "reason": "complaints", "requested_by_run": "manual-1"}


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    out = tmp_path / "out"
    out.mkdir()
    return StageContext(
        inputs={},
        out=out,
        work=out,
        progress=lambda _sentence, _share: None,
        store_url=f"file://{tmp_path}/store",
        state_dir=tmp_path / "state",
        settings=BY_HAND,
    )


def state_of(context: StageContext) -> ModelState:
    return open_state(context.the_state_dir(), "shop", ObjectStore(context.store_url))


def two_releases(context: StageContext) -> ModelState:
    state = state_of(context)
    state.reserve_slot("first")
    state.promote("first")
    state.reserve_slot("second")
    for step, said in ((1, Decision.PROCEED), (2, Decision.PROCEED), (3, Decision.SHIP)):
        state.begin_step("second", step, PLANS["replay"], per_try_timeout_ms=50)
        state.record_verdict("second", step, said, numbers={})
    state.promote("second")
    return state


def written(context: StageContext) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((context.out / "rollback.json").read_text())
    return record


def test_a_person_gets_the_previous_release_back_and_the_ledger_says_why(
    context: StageContext,
) -> None:
    state = two_releases(context)
    outcome = roll_back_release.run(context)
    assert outcome.sentence.endswith("release 1 serves")
    entry = state.history()[-1]
    assert (entry.kind, entry.release_id, entry.why) == ("rolled_back", "second", "complaints")
    assert written(context)["stable"]["release_id"] == "first"


def test_the_same_run_again_changes_nothing(context: StageContext) -> None:
    state = two_releases(context)
    roll_back_release.run(context)
    before = (written(context), state.path.read_text())
    roll_back_release.run(context)
    assert (written(context), state.path.read_text()) == before


def test_another_run_finds_no_release_before(context: StageContext) -> None:
    two_releases(context)
    roll_back_release.run(context)
    again = replace(context, settings={**BY_HAND, "requested_by_run": "manual-2"})
    with pytest.raises(BadRequestError, match="release its bundle again"):
        roll_back_release.run(again)
    assert roll_back_release.configure(again) != roll_back_release.configure(context)


def test_a_person_ends_the_release_in_progress_first(context: StageContext) -> None:
    state = state_of(context)
    state.reserve_slot("first")
    state.promote("first")
    state.reserve_slot("second")
    roll_back_release.run(context)
    assert state.history()[-1].release_id == "second"
    champion = state.peek().stable
    assert champion is not None
    assert champion.release_id == "first"


def test_a_model_without_a_release_is_refused(context: StageContext) -> None:
    with pytest.raises(BadRequestError, match="found none"):
        roll_back_release.run(context)


@pytest.mark.parametrize(
    "settings",
    (
        pytest.param({"requested_by_run": "manual-1"}, id="no model"),
        pytest.param({"model": "shop"}, id="no run"),
        pytest.param({"model": "../x", "requested_by_run": "manual-1"}, id="a strange model"),
    ),
)
def test_what_names_no_rollback_is_refused(context: StageContext, settings: Any) -> None:
    with pytest.raises(BadRequestError):
        roll_back_release.configure(replace(context, settings=settings))
