"""A change of the state record that dies anywhere and is made again ends in the very same bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.requests import PLANS
from tasks.rollout.phases import Decision
from tasks.rollout.state import ModelState, open_state
from tests.unit.killed import deaths

PLAN = PLANS["replay"]
Change = Callable[[ModelState], object]


def opened(folder: Path) -> ModelState:
    store = ObjectStore(f"file://{folder}/store")
    return open_state(folder / "state", "shop", store, clock=lambda: 1_700_000_000.0)


def reserve(state: ModelState) -> object:
    return state.reserve_slot("second", bundle="serving_bundle/" + "2" * 64)


def begin(state: ModelState) -> object:
    return state.begin_step("second", 1, PLAN, per_try_timeout_ms=50)


def judge(state: ModelState) -> object:
    return state.record_verdict("second", 1, Decision.ROLL_BACK, numbers={"users": 3})


def first_serves(state: ModelState) -> None:
    state.reserve_slot("first")
    state.promote("first")


@pytest.mark.parametrize(
    ("before", "change"),
    (
        pytest.param((), reserve, id="a first slot is reserved"),
        pytest.param((first_serves,), reserve, id="a slot is reserved beside stable"),
        pytest.param((reserve,), lambda s: s.promote("second"), id="a first release is promoted"),
        pytest.param((first_serves, reserve), begin, id="a step begins"),
        pytest.param((first_serves, reserve, begin), judge, id="a verdict takes the share away"),
        pytest.param(
            (first_serves, reserve, begin), lambda s: s.lapse("second", 1), id="a lease lapses"
        ),
        pytest.param(
            (first_serves, reserve, begin),
            lambda s: s.roll_back("second"),
            id="a candidate is rolled back in its step",
        ),
        pytest.param(
            (reserve, lambda s: s.promote("second"), lambda s: s.reserve_slot("third"),
             lambda s: s.roll_back("third")),
            lambda s: s.reserve_slot("fourth"),
            id="a slot is reserved after a rollback",
        ),
    ),
)  # fmt: skip
def test_killed_anywhere_and_made_again_a_change_happens_once(
    tmp_path: Path, before: tuple[Change, ...], change: Change
) -> None:
    start, folder = tmp_path / "start", tmp_path / "folder"
    for earlier in before:
        earlier(opened(start))
    start.mkdir(exist_ok=True)

    def made_new() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(start, folder)

    made_new()
    change(opened(folder))
    expected = whole_of(folder)
    made_new()
    died = 0
    for operation in deaths(lambda: change(opened(folder))):
        died += 1
        change(opened(folder))
        assert whole_of(folder) == expected, operation
        assert opened(folder).verify() == [], operation
        made_new()
    assert died >= 8


def whole_of(folder: Path) -> dict[str, bytes]:
    """Return state record and ledger, byte for byte."""
    kept = [
        folder / "state" / "shop" / "state.json",
        *(folder / "store" / "ledger").rglob("*.json"),
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(kept)}
