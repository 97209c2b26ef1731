from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import PLANS
from tasks.rollout.assignment import bucket_of
from tasks.rollout.hotfix import abandon_hotfix, apply_hotfix, reserve_hotfix
from tasks.rollout.phases import Decision, Pause, Phase
from tasks.rollout.record import Colour, Roles, StateRecord
from tasks.rollout.retrace import retrace, state_problems
from tasks.rollout.state import ModelState, Note, open_state
from tasks.rollout.traffic_step import step_begun
from tasks.stages.judge_step import hotfix_of

PLAN = PLANS["replay"]
USERS = [f"user-{number}" for number in range(2000)]
ANN = Note(who="person ann", why="prices were wrong")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[ModelState]:
    made = open_state(tmp_path / "state", "shop", ObjectStore(f"file://{tmp_path}/store"))
    made.reserve_slot("first")
    made.promote("first")
    made.reserve_slot("second")
    made.begin_step("second", 1, PLAN, per_try_timeout_ms=50)
    yield made
    told = retrace("shop", made.history())  # whatever was done can be proved
    assert told.problems + state_problems(made.peek(), told, "state.json") == []
    assert made.verify() == []


def candidates_users(record: StateRecord) -> set[str]:
    assert record.salt is not None
    return {user for user in USERS if bucket_of(record.salt, user) < record.status.share}


def test_a_hotfix_moves_stable_to_the_third_slot_and_no_user_of_the_candidate(
    state: ModelState,
) -> None:
    before = state.peek()
    assert reserve_hotfix(state, "fix", note=ANN) == (Colour.VIOLET, 3)
    assert state.peek().roles == Roles(
        stable=Colour.BLUE, candidate=Colour.GREEN, hotfix=Colour.VIOLET
    )
    entry = apply_hotfix(state, "fix", 3, note=ANN)
    after = state.peek()
    assert after.roles == Roles(stable=Colour.VIOLET, candidate=Colour.GREEN, previous=Colour.BLUE)
    assert (after.status, after.salt, after.rollout) == (before.status, before.salt, before.rollout)
    assert candidates_users(after) == candidates_users(before)
    assert len(candidates_users(after)) > 50
    assert (entry.kind, entry.who, entry.why) == ("hotfixed", "person ann", "prices were wrong")
    assert (entry.release_number, entry.step, entry.share) == (3, 1, 500)
    assert (entry.details["instead_of"], entry.details["rollout"]) == (1, "r2")


def test_a_hotfix_asked_for_twice_changes_nothing_twice(state: ModelState) -> None:
    for _ in range(2):
        assert reserve_hotfix(state, "fix").release_number == 3
    entries = {apply_hotfix(state, "fix", 3).sequence for _ in range(2)}
    assert len(entries) == 1
    assert reserve_hotfix(state, "fix").release_number == 3  # it serves: nothing is reserved anew
    assert state.peek().hotfix is None


def test_one_hotfix_at_a_time(state: ModelState) -> None:
    reserve_hotfix(state, "fix")
    with pytest.raises(BadRequestError, match="expected one hotfix at a time, found fix"):
        reserve_hotfix(state, "other")
    with pytest.raises(
        BadRequestError, match="expected the hotfix other, number 3, in a slot, found fix, number 3"
    ):
        apply_hotfix(state, "other", 3)
    abandon_hotfix(state, "fix", 3)
    assert state.peek().hotfix is None
    assert reserve_hotfix(state, "other").release_number == 4


def test_a_hotfix_that_was_abandoned_may_be_tried_again(state: ModelState) -> None:
    first = reserve_hotfix(state, "fix")
    abandon_hotfix(state, "fix", 3)
    again = reserve_hotfix(state, "fix")
    assert again.release_number == first.release_number + 1
    apply_hotfix(state, "fix", again.release_number)
    assert state.peek().stable is not None
    assert state.peek().stable.release_id == "fix"


def test_a_hotfix_asked_for_again_moves_nothing_under_the_number_of_the_one_before(
    state: ModelState,
) -> None:
    first = reserve_hotfix(state, "fix").release_number
    abandon_hotfix(state, "fix", first)
    again = reserve_hotfix(state, "fix").release_number  # nothing is loaded of this one yet
    with pytest.raises(BadRequestError, match=r"the hotfix fix, number 3, .* found fix, number 4"):
        apply_hotfix(state, "fix", first)
    assert abandon_hotfix(state, "fix", first) is False
    assert state.peek().hotfix is not None
    assert state.peek().roles.stable is Colour.BLUE
    apply_hotfix(state, "fix", again)
    assert state.peek().roles.stable is Colour.VIOLET


def test_a_second_hotfix_takes_the_slot_of_the_release_before_the_first(
    state: ModelState,
) -> None:
    for name, colour in (("fix", Colour.VIOLET), ("again", Colour.BLUE)):
        reserved = reserve_hotfix(state, name)
        assert reserved.colour is colour
        apply_hotfix(state, name, reserved.release_number)
    assert state.peek().roles == Roles(
        stable=Colour.BLUE, candidate=Colour.GREEN, previous=Colour.VIOLET
    )
    with pytest.raises(BadRequestError, match="expected a new name, found first"):
        reserve_hotfix(state, "first")


def test_a_hotfix_whose_slot_does_not_answer_is_not_applied(state: ModelState) -> None:
    reserve_hotfix(state, "fix")
    state.look({Colour.VIOLET})
    with pytest.raises(BadRequestError, match="the hotfix's slot does not answer"):
        apply_hotfix(state, "fix", 3)
    assert state.peek().roles.stable is Colour.BLUE
    state.look(set())
    apply_hotfix(state, "fix", 3)


def test_a_broken_stable_can_be_replaced_and_the_candidate_then_rolled_back(
    state: ModelState,
) -> None:
    state.look({Colour.BLUE})
    assert state.peek().status.phase is Phase.HALTED
    reserve_hotfix(state, "fix")
    apply_hotfix(state, "fix", 3)
    assert state.peek().status.phase is Phase.HALTED  # a person must decide, and now can
    state.roll_back("second")
    record = state.peek()
    assert record.status.phase is Phase.SERVING
    assert record.stable is not None
    assert record.stable.release_id == "fix"


def test_a_hotfix_of_stable_beside_a_dead_candidate_takes_the_users_at_once(
    state: ModelState,
) -> None:
    state.look({Colour.BLUE})
    state.look({Colour.BLUE, Colour.GREEN})
    assert state.peek().status.share == 10_000  # both are dead: nobody gains by a move
    reserve_hotfix(state, "fix")
    for _ in range(2):  # the second time nothing is left to do
        assert apply_hotfix(state, "fix", 3, note=ANN).kind == "hotfixed"
    record = state.peek()
    assert (record.status.phase, record.status.share) == (Phase.PAUSED, 0)
    assert record.status.paused_by is Pause.SLOT
    assert record.unready == (Colour.BLUE, Colour.GREEN)
    last = state.history()[-1]
    assert (last.kind, last.who, last.why) == (
        "paused",
        "person ann",
        "the candidate's slot does not answer",
    )


def test_without_an_experiment_a_hotfix_is_a_release_like_others(state: ModelState) -> None:
    state.roll_back("second")
    with pytest.raises(BadRequestError, match="release it as usual"):
        reserve_hotfix(state, "fix")


@pytest.mark.parametrize("ends", ("promote", "roll_back"))
def test_a_hotfix_that_waits_when_the_experiment_ends_is_gone_with_it(
    state: ModelState, ends: str
) -> None:
    reserve_hotfix(state, "fix")
    shipped(state)
    getattr(state, ends)("second")
    record = state.peek()
    assert (record.hotfix, record.roles.hotfix) == (None, None)
    assert Colour.VIOLET not in record.slots
    with pytest.raises(
        BadRequestError, match="expected the hotfix fix, number 3, in a slot, found none"
    ):
        apply_hotfix(state, "fix", 3)


def shipped(state: ModelState) -> None:
    for step, said in enumerate((Decision.PROCEED, Decision.PROCEED, Decision.SHIP), start=1):
        state.begin_step("second", step, PLAN, per_try_timeout_ms=50)
        state.record_verdict("second", step, said, numbers={})


def test_after_a_hotfix_a_promotion_keeps_it_warm_as_previous(state: ModelState) -> None:
    reserve_hotfix(state, "fix")
    apply_hotfix(state, "fix", 3)
    shipped(state)
    state.promote("second")
    assert state.peek().roles == Roles(stable=Colour.GREEN, previous=Colour.VIOLET)
    state.roll_back("second")
    stable = state.peek().stable
    assert stable is not None
    assert stable.release_id == "fix"


def test_the_judge_finds_the_hotfix_of_its_step_and_of_no_other(state: ModelState) -> None:
    begun = {}
    for step in (1, 2):
        entry = state.begin_step("second", step, PLAN, per_try_timeout_ms=50)
        begun[step] = step_begun(state.peek(), entry, PLAN)
        if step == 1:
            reserve_hotfix(state, "fix")
            fixed = apply_hotfix(state, "fix", 3)
            state.record_verdict("second", 1, Decision.PROCEED, numbers={})
    found = hotfix_of(state.history(), begun[1])
    assert found is not None
    assert (found.sequence, found.instead_of, found.now) == (fixed.sequence, 1, 3)
    assert hotfix_of(state.history(), begun[2]) is None
