"""A ledger retraced by the functions that wrote it leads to the state record, or is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import PLANS
from tasks.rollout.hotfix import abandon_hotfix, apply_hotfix, reserve_hotfix
from tasks.rollout.ledger import LedgerEntry
from tasks.rollout.phases import Decision, Phase
from tasks.rollout.record import Roles, record_problems
from tasks.rollout.retrace import retrace, state_problems
from tasks.rollout.state import ModelState, open_state

PLAN = PLANS["replay"]
BUNDLE = "serving_bundle/" + "b" * 64
EVENTS = "validated_events/" + "e" * 64
WEIGHTS = (3, 1, 3, 2, 2, 2, 2, 3, 0.5, 2, 0.5, 1, 1, 1, 0.5)  # of what `may_be_asked` lists


@pytest.fixture
def state(tmp_path: Path) -> ModelState:
    return open_state(tmp_path / "state", "shop", ObjectStore(f"file://{tmp_path}/store"))


def release(state: ModelState, name: str, *, first: bool = False) -> None:
    state.reserve_slot(name, bundle=BUNDLE, events=EVENTS)
    for step, said in enumerate((Decision.PROCEED, Decision.PROCEED, Decision.SHIP), start=1):
        if not first:
            state.begin_step(name, step, PLAN, per_try_timeout_ms=80)
            state.record_verdict(name, step, said, numbers={"users": 5})
    state.promote(name)


def problems(state: ModelState, entries: list[LedgerEntry] | None = None) -> list[str]:
    told = retrace("shop", state.history() if entries is None else entries)
    return told.problems + state_problems(state.peek(), told, "state.json")


def test_a_whole_release_leads_to_the_state_record(state: ModelState) -> None:
    release(state, "first", first=True)
    release(state, "second")
    assert problems(state) == []


def test_any_walk_through_the_operations_can_be_retraced(state: ModelState) -> None:
    chance = random.Random(11)
    release(state, "first", first=True)
    number, done = 1, set()
    for _ in range(300):
        record = state.peek()
        if record.release_id is None:
            number += 1
            state.reserve_slot(f"release-{number}", bundle=BUNDLE, events=EVENTS)
            continue
        asks = may_be_asked(state, record.release_id)
        if chance.random() < 0.06:
            asks = [partial(state.roll_back, record.release_id)]
        try:
            chance.choices(asks, weights=WEIGHTS[: len(asks)])[0]()
        except BadRequestError:
            continue  # refused: nothing was written
        done.add(state.history()[-1].kind)
        assert problems(state) == []
    assert done >= {*("step_began", "judged", "paused", "resumed", "cut", "halted", "rolled_back")}
    assert done >= {"hotfix_reserved", "hotfixed", "hotfix_abandoned"}


def may_be_asked(state: ModelState, name: str) -> list[Callable[[], object]]:
    record = state.peek()
    step = record.status.step or 0
    fix = record.hotfix
    pending = ("none", 0) if fix is None else (fix.release_id, fix.release_number)
    said = Decision.SHIP if step == 3 else Decision.PROCEED
    return [
        partial(state.begin_step, name, step + 1, PLAN, per_try_timeout_ms=80.0 + step),
        partial(state.begin_step, name, step, PLAN, per_try_timeout_ms=80.0),
        partial(state.record_verdict, name, step, said, numbers={}),
        partial(state.lapse, name, record.lease.renewals),
        partial(state.renew, name, 60),
        partial(state.pause, name),
        partial(state.resume, name),
        partial(state.promote, name),
        partial(state.cut, name, step, numbers={"bad": 7}),
        partial(state.look, set()),
        partial(state.look, {record.roles.candidate}),
        partial(state.look, {record.roles.stable}),
        partial(reserve_hotfix, state, f"fix-{record.sequence}", bundle=BUNDLE, events=EVENTS),
        partial(apply_hotfix, state, *pending),
        partial(abandon_hotfix, state, *pending),
    ]


def test_a_rollback_of_the_stable_release_is_retraced(state: ModelState) -> None:
    release(state, "first", first=True)
    release(state, "second")
    state.roll_back("second")
    assert problems(state) == []
    told = retrace("shop", state.history())
    assert told.record.stable is not None
    assert told.record.stable.release_id == "first"


@pytest.mark.parametrize(
    ("sequence", "change", "said"),
    (
        pytest.param(
            4, {"share": 5000}, "step_began .* field share: expected 500, found 5000", id="a share"
        ),
        pytest.param(
            5, {"kind": "promoted"}, "promoted .* expected the verdict ship", id="a leap to the end"
        ),
        pytest.param(
            9,
            {"details": {"decision": "keep_champion"}},
            "judged .* field share: expected 0, found 5000",
            id="a bad verdict that took no share away",
        ),
        pytest.param(10, {"release_number": 7}, "field release_number", id="another number"),
        pytest.param(4, {"kind": "blessed"}, "found 'blessed'", id="a kind that nobody knows"),
        pytest.param(3, {"details": {"colour": "blue"}}, "details.colour", id="the stable's slot"),
    ),
)
def test_an_entry_that_the_functions_would_not_write_is_named(
    state: ModelState, sequence: int, change: dict[str, object], said: str
) -> None:
    """Such a chain may hash well: whoever forged it has hashed it anew."""
    release(state, "first", first=True)
    release(state, "second")
    entries = state.history()
    entries[sequence - 1] = replace(entries[sequence - 1], **change)
    with pytest.raises(AssertionError, match=f"{sequence:08d}.json: .*{said}"):
        assert problems(state, entries) == []


def test_a_state_record_that_its_ledger_does_not_lead_to_is_named_by_field(
    state: ModelState,
) -> None:
    release(state, "first", first=True)
    release(state, "second")
    record = state.peek()
    swapped = Roles(stable=record.roles.previous, previous=record.roles.stable)
    told = retrace("shop", state.history())
    found = state_problems(replace(record, roles=swapped), told, "state.json")
    assert [line.split(" expected")[0] for line in found] == ["state.json: field roles:"]
    halted = replace(record, status=replace(record.status, phase=Phase.HALTED))
    assert "field status" in state_problems(halted, told, "state.json")[0]


def test_an_older_ledger_without_events_is_retraced_too(state: ModelState) -> None:
    release(state, "first", first=True)
    entries = state.history()
    known = {name: value for name, value in entries[0].details.items() if name != "events"}
    entries[0] = replace(entries[0], details=known)
    assert problems(state, entries) == []


def test_a_state_record_holds_its_own_digest(state: ModelState) -> None:
    release(state, "first", first=True)
    text = state.path.read_bytes()
    assert record_problems(text, "state.json") == []
    later = text.replace(b'"expires_at": 0.0', b'"expires_at": 9e9')
    assert later != text
    assert "field digest" in record_problems(later, "state.json")[0]
    spaced = text.replace(b": ", b":  ", 1)
    assert record_problems(spaced, "state.json") == [
        "state.json: is not the one text of its fields"
    ]
