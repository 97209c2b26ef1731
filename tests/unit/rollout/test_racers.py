"""Fifty processes at one state record: one winner, nothing lost, and the ledger's chain holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.requests import PLANS
from tasks.rollout.phases import Decision
from tasks.rollout.record import Colour
from tasks.rollout.state import ModelState, open_state

ROOT = Path(__file__).resolve().parents[3]
RACERS = Path(__file__).with_name("racers.py")


def race(folder: Path, *asks: str, count: int = 50) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(RACERS), str(folder), str(count), *asks],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said: list[str] = json.loads(done.stdout)
    assert len(said) == count, done.stderr
    return said


def first_words(said: list[str]) -> Counter[str]:
    return Counter(sentence.partition(" ")[0] for sentence in said)


@pytest.fixture
def state(tmp_path: Path) -> ModelState:
    return open_state(tmp_path / "state", "shop", ObjectStore(f"file://{tmp_path}/store"))


def told(state: ModelState) -> list[tuple[str, str | None]]:
    return [(entry.kind, entry.release_id) for entry in state.history()]


def test_fifty_processes_that_promote_one_release_write_one_entry_and_all_get_it(
    state: ModelState, tmp_path: Path
) -> None:
    state.reserve_slot("first")
    said = race(tmp_path, "promote")
    assert set(said) == {f"promoted {state.history()[-1].digest}"}
    assert told(state) == [("slot_reserved", "first"), ("promoted", "first")]
    assert state.verify() == []


def test_of_fifty_processes_with_a_release_each_one_is_staged_and_the_others_are_told_whose(
    state: ModelState, tmp_path: Path
) -> None:
    said = race(tmp_path, "reserve")
    assert first_words(said) == {"reserved": 1, "refused": 49}
    winner = state.peek().release_id
    refused = [sentence for sentence in said if sentence.startswith("refused")]
    assert all(f"release {winner} is in progress (number 1," in sentence for sentence in refused)
    assert told(state) == [("slot_reserved", winner)]
    assert state.verify() == []


def test_fifty_processes_that_stage_and_promote_a_first_release_make_one_champion(
    state: ModelState, tmp_path: Path
) -> None:
    said = race(tmp_path, "take")
    assert first_words(said)["promoted"] == 1, said
    # The others came while it was in its slot, or want to promote beside a champion unjudged.
    assert first_words(said)["refused"] == 49, said
    stable = state.peek().stable
    assert stable is not None
    promoted = [entry for entry in state.history() if entry.kind == "promoted"]
    assert [entry.release_id for entry in promoted] == [stable.release_id]
    assert state.verify() == []


def ready_to_ship(state: ModelState) -> None:
    state.reserve_slot("zero")
    state.promote("zero")
    state.reserve_slot("first")
    for step, said in ((1, Decision.PROCEED), (2, Decision.PROCEED), (3, Decision.SHIP)):
        state.begin_step("first", step, PLANS["replay"], per_try_timeout_ms=50)
        state.record_verdict("first", step, said, numbers={})


def test_half_promote_and_half_roll_back_and_the_rollback_stands(
    state: ModelState, tmp_path: Path
) -> None:
    ready_to_ship(state)
    said = race(tmp_path, "promote", "roll_back")
    entries = {entry.kind: entry for entry in state.history() if entry.release_id == "first"}
    kinds = [kind for kind, release in told(state) if release == "first"]
    assert kinds.count("rolled_back") == 1
    assert kinds[-1] == "rolled_back"
    assert kinds.count("promoted") <= 1
    # Whoever was told that it was done finds exactly that entry in the ledger.
    done = {sentence for sentence in said if not sentence.startswith("refused")}
    assert done <= {f"{kind} {entry.digest}" for kind, entry in entries.items()}
    assert first_words(said)["rolled_back"] == 25, said
    stable = state.peek().stable
    assert stable is not None
    assert stable.release_id == "zero"
    assert state.verify() == []


def test_the_numbers_and_slots_of_fifty_rounds_are_handed_out_once(
    state: ModelState, tmp_path: Path
) -> None:
    for round_ in range(3):
        said = race(tmp_path, "reserve", count=16)
        assert first_words(said) == {"reserved": 1, "refused": 15}
        winner = state.peek().release_id
        assert winner is not None
        assert f"reserved {Colour.BLUE.value} {round_ + 1}" in said
        state.roll_back(winner)
    assert state.verify() == []
