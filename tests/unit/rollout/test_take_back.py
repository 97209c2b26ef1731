from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.contracts.record_store import RecordStore
from tasks.contracts.requests import PLANS
from tasks.rollout.hotfix import abandon_hotfix, apply_hotfix, reserve_hotfix
from tasks.rollout.phases import Decision
from tasks.rollout.state import ModelState, Note, open_state
from tasks.rollout.take_back import take_back

PLAN = PLANS["replay"]
ANN = Note(who="person ann", why="complaints")


@pytest.fixture
def state(tmp_path: Path) -> ModelState:
    made = open_state(tmp_path / "state", "shop", ObjectStore(f"file://{tmp_path}/store"))
    made.reserve_slot("first")
    made.promote("first")
    made.reserve_slot("second")
    return made


def ship(state: ModelState) -> None:
    for step, said in enumerate((Decision.PROCEED, Decision.PROCEED, Decision.SHIP), start=1):
        state.begin_step("second", step, PLAN, per_try_timeout_ms=50)
        state.record_verdict("second", step, said, numbers={})
    state.promote("second")


@dataclass
class Overtaken:
    """Records that somebody else changes right before the first change through them."""

    records: RecordStore
    meanwhile: Callable[[], object] | None

    def update(self, model: str, change: Callable[[bytes | None], str | None]) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        self.records.update(model, change)

    def read(self, model: str) -> bytes | None:
        return self.records.read(model)

    def where(self, model: str) -> str:
        return self.records.where(model)

    def models(self) -> list[str]:
        return self.records.models()


def test_a_candidate_that_becomes_stable_in_this_moment_is_left_alone(state: ModelState) -> None:
    slow = replace(state, records=Overtaken(state.records, lambda: ship(state)))
    with pytest.raises(BadRequestError, match="release second in progress, found that it is not"):
        take_back(slow, "candidate", note=ANN)
    stable = state.peek().stable
    assert stable is not None
    assert stable.release_id == "second"


def test_who_is_overtaken_by_another_rollback_is_told_of_that_one(state: ModelState) -> None:
    bob = Note(who="person bob", why="was faster")
    overtaken = Overtaken(state.records, lambda: state.roll_back("second", note=bob))
    entry = take_back(replace(state, records=overtaken), "candidate", note=ANN)
    assert (entry.release_id, entry.who) == ("second", "person bob")
    assert state.history()[-1] == entry


def test_the_number_of_an_abandoned_hotfix_is_not_the_one_that_serves_under_its_name(
    state: ModelState,
) -> None:
    state.begin_step("second", 1, PLAN, per_try_timeout_ms=50)
    abandoned = reserve_hotfix(state, "fix").release_number
    abandon_hotfix(state, "fix", abandoned)
    apply_hotfix(state, "fix", reserve_hotfix(state, "fix").release_number)
    state.roll_back("second")
    before = state.path.read_text()
    with pytest.raises(BadRequestError, match="fix in progress or stable, found that it is not"):
        take_back(state, str(abandoned), note=ANN)
    assert state.path.read_text() == before
    assert take_back(state, "fix", note=ANN).release_number == abandoned + 1
