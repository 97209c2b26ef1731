from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import PLANS
from tasks.contracts.stage_io import StageContext
from tasks.rollout.hotfix import apply_hotfix, hotfix_name, reserve_hotfix
from tasks.rollout.record import Colour
from tasks.rollout.state import ModelState, Note, open_state
from tasks.serving.slot_folder import Slot
from tasks.stages import hotfix_stable
from tasks.stages.hotfix_stable import Asked, hotfix

ANN = Note(who="person ann, run manual__1", why="prices were wrong")
FORM = {"model": "shop", "requested_by": ANN.who, "reason": ANN.why}
CONTENT = "c" * 64


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    return StageContext(
        inputs={},
        out=tmp_path,
        work=tmp_path,
        progress=lambda _sentence, _share: None,
        store_url=f"file://{tmp_path}/store",
        state_dir=tmp_path / "state",
        settings=FORM,
    )


@pytest.fixture
def state(context: StageContext) -> ModelState:
    made = open_state(context.the_state_dir(), "shop", ObjectStore(context.store_url))
    made.reserve_slot("first")
    made.promote("first")
    made.reserve_slot("second")
    made.begin_step("second", 1, PLANS["replay"], per_try_timeout_ms=50)
    return made


def asked(folder: Path, note: Note = ANN) -> Asked:
    manifest: Any = SimpleNamespace(content=CONTENT, address="serving_bundle/" + "b" * 64)
    return Asked(bundle=manifest, folder=folder, note=note)


def slots_below(folder: Path) -> dict[str, Slot]:
    return {
        colour: Slot(colour=colour, host="127.0.0.1", grpc=1, rest=1, directory=folder / colour)
        for colour in Colour
    }


def test_a_run_is_named_by_its_person_and_its_words(context: StageContext) -> None:
    assert hotfix_stable.configure(context) == {"model": "shop", "who": ANN.who, "why": ANN.why}
    other = {**FORM, "requested_by": "person ann, run manual__2"}
    again = hotfix_stable.configure(replace(context, settings=other))
    assert again != hotfix_stable.configure(context)


@pytest.mark.parametrize(
    ("changed", "said"),
    (
        pytest.param({"model": None}, "the setting model", id="no model"),
        pytest.param({"model": "../x"}, "the setting model", id="a strange model"),
        pytest.param({"requested_by": None}, "a person and their run", id="nobody"),
        pytest.param({"requested_by": "keeper"}, "a person and their run", id="no person"),
        pytest.param({"reason": ""}, "and reason", id="no reason"),
        pytest.param({"reason": "x" * 501}, "and reason", id="a novel"),
    ),
)
def test_what_names_no_hotfix_is_refused(
    context: StageContext, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadRequestError, match=said):
        hotfix_stable.configure(replace(context, settings={**FORM, **changed}))


def test_what_serves_already_is_neither_loaded_again_nor_taken_out(
    state: ModelState, tmp_path: Path
) -> None:
    name = hotfix_name(state, CONTENT)
    reserve_hotfix(state, name, note=ANN)
    entry = apply_hotfix(state, name, note=ANN)

    def no_slots() -> dict[str, Slot]:
        raise AssertionError

    found = hotfix(state, asked(tmp_path), events=None, slots=no_slots, say=lambda _said: None)
    assert found == entry


def test_a_failure_beside_another_run_that_applied_it_takes_nothing_out_of_its_slot(
    state: ModelState, tmp_path: Path
) -> None:
    served = tmp_path / Colour.VIOLET / "3"
    served.mkdir(parents=True)
    (served / "saved_model.pb").write_text("what the other run published")
    name = hotfix_name(state, CONTENT)

    def meanwhile_applied(sentence: str) -> None:
        assert "loading the hotfix into the violet slot" in sentence
        apply_hotfix(state, name, note=ANN)

    bundle = tmp_path / "bundle"
    (bundle / "model").mkdir(parents=True)  # other bytes: publishing them is refused
    with pytest.raises(BadRequestError, match="expected the bundle's files"):
        hotfix(
            state,
            asked(bundle),
            events=None,
            slots=lambda: slots_below(tmp_path),
            say=meanwhile_applied,
        )
    assert served.exists()
    assert state.peek().roles.stable is Colour.VIOLET


def test_a_failure_before_the_roles_move_frees_the_slot_and_takes_the_version_out(
    state: ModelState, tmp_path: Path
) -> None:
    published = tmp_path / Colour.VIOLET / "3"
    published.mkdir(parents=True)
    (published / "saved_model.pb").write_text("half a try")
    bundle = tmp_path / "bundle"
    (bundle / "model").mkdir(parents=True)
    with pytest.raises(BadRequestError, match="expected the bundle's files"):
        hotfix(
            state,
            asked(bundle),
            events=None,
            slots=lambda: slots_below(tmp_path),
            say=lambda _said: None,
        )
    assert not published.exists()
    now = state.peek()
    assert (now.roles.stable, now.hotfix) == (Colour.BLUE, None)
    assert state.history()[-1].kind == "hotfix_abandoned"


def test_a_hotfix_that_was_begun_can_be_abandoned_and_one_that_serves_cannot(
    state: ModelState, tmp_path: Path
) -> None:
    name, slots = hotfix_name(state, CONTENT), slots_below(tmp_path)
    reserve_hotfix(state, name, note=ANN)
    published = tmp_path / Colour.VIOLET / "3"
    published.mkdir(parents=True)
    bob = Note(who="person bob", why="not wanted any more")
    assert "is abandoned; stable stays as it was" in hotfix_stable.abandon(state, bob, slots)
    assert not published.exists()
    entry = state.history()[-1]
    assert (entry.kind, entry.who, entry.why) == ("hotfix_abandoned", bob.who, bob.why)
    published.with_name("4").mkdir()
    reserve_hotfix(state, name, note=ANN)
    apply_hotfix(state, name, note=ANN)
    with pytest.raises(BadRequestError, match="expected a hotfix in progress, found none"):
        hotfix_stable.abandon(state, bob, slots)
    assert published.with_name("4").exists()


def test_slots_that_cannot_be_found_leave_nothing_reserved(
    state: ModelState, tmp_path: Path
) -> None:
    def lost() -> dict[str, Slot]:
        message = "slots.json: expected the model's slots"
        raise BadRequestError(message)

    with pytest.raises(BadRequestError, match=r"slots\.json"):
        hotfix(state, asked(tmp_path), events=None, slots=lost, say=lambda _said: None)
    assert state.peek().hotfix is None


def test_a_run_that_is_tried_again_in_another_experiment_moves_nothing(
    state: ModelState, tmp_path: Path
) -> None:
    reserve_hotfix(state, hotfix_name(state, CONTENT), note=ANN)
    state.roll_back("second")
    state.reserve_slot("third")
    state.begin_step("third", 1, PLANS["replay"], per_try_timeout_ms=50)
    before = state.peek().sequence
    with pytest.raises(BadRequestError, match="it has ended; trigger a new run"):
        hotfix_stable.entry_of_this_run(state, asked(tmp_path))
    other = Note(who="person ann, run manual__2", why=ANN.why)
    assert hotfix_stable.entry_of_this_run(state, asked(tmp_path, other)) is None
    assert state.peek().sequence == before


def test_a_run_finds_what_it_did_also_when_the_experiment_has_ended_since(
    state: ModelState, tmp_path: Path
) -> None:
    name = hotfix_name(state, CONTENT)
    reserve_hotfix(state, name, note=ANN)
    entry = apply_hotfix(state, name, note=ANN)
    state.roll_back("second")
    assert hotfix_stable.entry_of_this_run(state, asked(tmp_path)) == entry
