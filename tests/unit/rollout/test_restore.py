from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.cli.command import main
from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import PLANS
from tasks.rollout.hotfix import apply_hotfix, reserve_hotfix
from tasks.rollout.keeper import Keeper
from tasks.rollout.ledger import entry_path
from tasks.rollout.phases import Decision, Phase
from tasks.rollout.record import Colour, StateRecord
from tasks.rollout.restore import record_from_ledger, restore
from tasks.rollout.retrace import COMPARED
from tasks.rollout.state import ModelState, Note, open_state

PLAN = PLANS["replay"]
KEPT = ("sequence", "head", "in_ledger", "salt", "rollout", *COMPARED)


@pytest.fixture
def state(tmp_path: Path) -> ModelState:
    store = ObjectStore(f"file://{tmp_path}/store")
    return open_state(tmp_path / "home/state", "shop", store)


def candidate_and_stable(state: ModelState) -> None:
    state.reserve_slot("first", bundle="serving_bundle/a", events="validated_events/a")
    state.promote("first")
    state.reserve_slot("second", bundle="serving_bundle/b", events="validated_events/b")


def stepping(state: ModelState) -> None:
    candidate_and_stable(state)
    state.begin_step("second", 1, PLAN, per_try_timeout_ms=50)


def judged(state: ModelState) -> None:
    stepping(state)
    for step in (1, 2):
        state.begin_step("second", step, PLAN, per_try_timeout_ms=50)
        state.record_verdict("second", step, Decision.PROCEED, numbers={"users": 1000})


def promoted(state: ModelState) -> None:
    judged(state)
    state.begin_step("second", 3, PLAN, per_try_timeout_ms=50)
    state.record_verdict("second", 3, Decision.SHIP, numbers={"users": 1000})
    state.promote("second")


def hotfixed(state: ModelState) -> None:
    stepping(state)
    apply_hotfix(state, "fix", reserve_hotfix(state, "fix").release_number)


def paused(state: ModelState) -> None:
    stepping(state)
    state.pause("second", note=Note(who="person ann", why="odd"))


def cut(state: ModelState) -> None:
    stepping(state)
    state.cut("second", 1, numbers={"bad": 1}, note=Note(who="keeper", why="errors"))


def halted(state: ModelState) -> None:
    stepping(state)
    state.look({state.peek().roles.stable or Colour.BLUE}, note=Note(who="keeper"))


def taken_back(state: ModelState) -> None:
    promoted(state)
    state.roll_back("second")


HISTORIES = (candidate_and_stable, stepping, judged, promoted, hotfixed, paused, cut, halted, taken_back)  # fmt: skip


@pytest.mark.parametrize("history", HISTORIES, ids=lambda one: one.__name__)
def test_a_ledger_leads_to_the_record_that_was_lost(
    history: Callable[[ModelState], None], state: ModelState
) -> None:
    history(state)
    lost = state.peek()
    state.path.unlink()
    assert state.store is not None
    restore(state, record_from_ledger(state.store, "shop"))
    found = state.peek()
    assert {name: getattr(found, name) for name in KEPT} == {
        name: getattr(lost, name) for name in KEPT
    }
    assert state.verify() == []
    assert StateRecord.parse(found.to_text(), "test") == found


def test_what_goes_on_afterwards_is_the_next_entry_of_the_same_ledger(state: ModelState) -> None:
    paused(state)
    state.path.unlink()
    assert state.store is not None
    restore(state, record_from_ledger(state.store, "shop"))
    state.resume("second", note=Note(who="person bea", why="explained"))
    state.roll_back("second")
    assert [entry.kind for entry in state.history()][-3:] == ["paused", "resumed", "rolled_back"]
    assert state.verify() == []


def test_nobody_meets_the_candidate_of_a_restored_step_until_it_is_renewed(
    state: ModelState, tmp_path: Path
) -> None:
    stepping(state)
    state.path.unlink()
    assert state.store is not None
    restore(state, record_from_ledger(state.store, "shop"))
    assert state.peek().status.phase is Phase.STEPPING
    folder = tmp_path / "home/state"
    slots = {colour.value: {"grpc": 1, "rest": 2} for colour in Colour}
    (folder / "shop/slots.json").write_text(
        f'{{"format": "slots/1", "model": "shop", "slots": {str(slots).replace(chr(39), chr(34))}}}'
    )
    Keeper(state_dir=folder, statistics=lambda _: None, say=lambda _: None).turn()
    now = state.peek()
    assert (now.status.phase, now.status.share) == (Phase.PAUSED, 0)
    assert state.renew("second", 60) is Phase.STEPPING


def test_a_record_that_is_there_is_not_written_over(state: ModelState) -> None:
    stepping(state)
    assert state.store is not None
    record = record_from_ledger(state.store, "shop")
    before = state.path.read_bytes()
    with pytest.raises(BadRequestError, match="expected no state record, found one that ends at"):
        restore(state, record)
    assert state.path.read_bytes() == before


@pytest.mark.parametrize(
    ("harm", "words"),
    (
        pytest.param(lambda path: path.unlink(), "2.json: missing (deleted)", id="a hole"),
        pytest.param(
            lambda path: path.write_bytes(path.read_bytes().replace(b"airflow", b"nobody")),
            "2.json: edited",
            id="an entry that was changed",
        ),
        pytest.param(lambda path: path.write_text("{}"), "2.json", id="no entry at all"),
    ),
)
def test_a_ledger_that_is_not_whole_is_refused_by_the_objects_name(
    harm: Callable[[Path], None], words: str, state: ModelState, tmp_path: Path
) -> None:
    stepping(state)
    harm(tmp_path / "store" / entry_path("shop", 2))
    assert state.store is not None
    with pytest.raises(BadRequestError) as told:
        record_from_ledger(state.store, "shop")
    assert words in str(told.value)


def test_a_store_without_a_ledger_of_the_model_is_refused(state: ModelState) -> None:
    stepping(state)
    assert state.store is not None
    with pytest.raises(BadRequestError, match=r"ledger/shoes: expected entries in the store"):
        record_from_ledger(state.store, "shoes")


def test_the_command_prints_or_writes(
    state: ModelState,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    promoted(state)
    lost = state.path.read_bytes()
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADRACE_STORE", f"file://{tmp_path}/store")
    assert main(["restore", "--model", "shop"]) == 4
    said = capsys.readouterr().err
    assert "expected no state record, found one" in said
    assert "`headrace verify --model shop` says whether it is whole" in said
    shutil.rmtree(tmp_path / "home")
    assert main(["restore", "--model", "shop", "--print"]) == 0
    text = capsys.readouterr().out
    assert StateRecord.parse(text, "test").roles == StateRecord.parse(lost, "test").roles
    assert not state.path.exists()
    assert main(["restore", "--model", "shop"]) == 0
    assert "restored from" in capsys.readouterr().out
    assert state.path.read_text() == text
