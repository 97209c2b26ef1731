from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError, HeadraceError
from tasks.contracts.requests import PLANS
from tasks.contracts.stage_io import StageContext
from tasks.contracts.stages import ArtifactKind, Stage
from tasks.rollout.hotfix import abandon_hotfix, apply_hotfix, hotfix_name, reserve_hotfix
from tasks.rollout.record import Colour
from tasks.rollout.state import ModelState, Note, open_state
from tasks.serving.bundle_entries import BundleEntries
from tasks.serving.slot_folder import Slot, publish
from tasks.stages import hotfix_stable
from tasks.stages.hotfix_stable import Asked, hotfix
from tests.rollout_context import rollout_context

ANN = Note(who="person ann, run manual__1", why="prices were wrong")
FORM = {"model": "shop", "requested_by": ANN.who, "reason": ANN.why}
CONTENT = "c" * 64
STABLE = f"serving_bundle/{'a' * 64}"


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    return rollout_context(tmp_path, settings=FORM)


@pytest.fixture
def state(context: StageContext) -> ModelState:
    made = open_state(context.the_state_dir(), "shop", ObjectStore(context.store_url))
    made.reserve_slot("first", bundle=STABLE)
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


def not_kept(_bundle: str) -> None:
    """Stable's bundle is not in the store."""


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
    entry = apply_hotfix(state, name, 3, note=ANN)

    def no_slots() -> dict[str, Slot]:
        raise AssertionError

    found = hotfix(
        state,
        asked(tmp_path),
        events=None,
        entries_of=not_kept,
        slots=no_slots,
        say=lambda _said: None,
    )
    assert found == entry


def test_a_failure_beside_another_run_that_applied_it_takes_nothing_out_of_its_slot(
    state: ModelState, tmp_path: Path
) -> None:
    served = tmp_path / Colour.VIOLET / "3"
    served.mkdir(parents=True)
    (served / "saved_model.pb").write_text("what the other run published")
    name = hotfix_name(state, CONTENT)

    def meanwhile_applied(sentence: str) -> None:
        if "loading the hotfix into the violet slot" in sentence:
            apply_hotfix(state, name, 3, note=ANN)

    bundle = tmp_path / "bundle"
    (bundle / "model").mkdir(parents=True)  # other bytes: publishing them is refused
    with pytest.raises(BadRequestError, match="expected the bundle's files"):
        hotfix(
            state,
            asked(bundle),
            events=None,
            entries_of=not_kept,
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
            entries_of=not_kept,
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
    apply_hotfix(state, name, reserve_hotfix(state, name, note=ANN).release_number, note=ANN)
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
        hotfix(
            state,
            asked(tmp_path),
            events=None,
            entries_of=not_kept,
            slots=lost,
            say=lambda _said: None,
        )
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


def test_a_run_that_is_tried_again_does_not_undo_that_a_person_abandoned_it(
    state: ModelState, tmp_path: Path
) -> None:
    name, slots = hotfix_name(state, CONTENT), slots_below(tmp_path)
    reserve_hotfix(state, name, note=ANN)  # and then its process was killed
    hotfix_stable.abandon(state, Note(who="person bob", why="the wrong bundle"), slots)
    before = state.peek().sequence
    with pytest.raises(
        BadRequestError, match=r"abandoned by person bob at .* \(the wrong bundle\)"
    ):
        hotfix_stable.entry_of_this_run(state, asked(tmp_path))
    assert state.peek().sequence == before
    other = Note(who="person ann, run manual__2", why=ANN.why)
    assert hotfix_stable.entry_of_this_run(state, asked(tmp_path, other)) is None


def test_a_run_that_failed_and_freed_its_slot_may_be_tried_again(
    state: ModelState, tmp_path: Path
) -> None:
    name = hotfix_name(state, CONTENT)
    abandon_hotfix(state, name, reserve_hotfix(state, name, note=ANN).release_number, note=ANN)
    assert hotfix_stable.entry_of_this_run(state, asked(tmp_path)) is None


def test_a_run_finds_what_it_did_also_when_the_experiment_has_ended_since(
    state: ModelState, tmp_path: Path
) -> None:
    name = hotfix_name(state, CONTENT)
    reserve_hotfix(state, name, note=ANN)
    entry = apply_hotfix(state, name, 3, note=ANN)
    state.roll_back("second")
    assert hotfix_stable.entry_of_this_run(state, asked(tmp_path)) == entry


@pytest.mark.parametrize("meanwhile", ("nothing", "another hotfix"))
def test_what_was_published_after_a_person_abandoned_it_is_taken_out_again(
    state: ModelState, tmp_path: Path, meanwhile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hotfix_stable, "LOAD_SECONDS", 1.0)
    bundle, slots = tmp_path / "bundle", slots_below(tmp_path)
    (bundle / "model").mkdir(parents=True)
    bob = Note(who="person bob", why="not wanted any more")

    def abandoned_before_it_is_published(sentence: str) -> None:
        if "loading the hotfix into the violet slot" not in sentence:
            return
        hotfix_stable.abandon(state, bob, slots)
        if meanwhile == "another hotfix":
            reserve_hotfix(state, "other", note=bob)  # number 4, of the same slot
            publish(bundle / "model", slots[Colour.VIOLET].directory, 4)

    with pytest.raises(HeadraceError, match="found no answer"):  # no server listens
        hotfix(
            state,
            asked(bundle),
            events=None,
            entries_of=not_kept,
            slots=lambda: slots,
            say=abandoned_before_it_is_published,
        )
    kept = [] if meanwhile == "nothing" else ["4"]
    assert [path.name for path in slots[Colour.VIOLET].directory.iterdir()] == kept


def test_a_run_that_asked_an_abandoned_number_leaves_the_one_asked_for_again_alone(
    state: ModelState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run A has asked all of number 3; bob abandons it and has the same bundle loaded as number 4."""
    bundle, slots = tmp_path / "bundle", slots_below(tmp_path)
    (bundle / "model").mkdir(parents=True)
    violet, name = slots[Colour.VIOLET].directory, hotfix_name(state, CONTENT)
    bob = Note(who="person bob", why="once more, slowly")

    def asked_again(*_answers: object) -> None:
        hotfix_stable.abandon(state, bob, slots)
        assert reserve_hotfix(state, name, note=bob).release_number == 4
        publish(bundle / "model", violet, 4)

    monkeypatch.setattr(hotfix_stable, "wait_until_loaded", lambda *_: None)
    monkeypatch.setattr(hotfix_stable, "_demand_right_answers", asked_again)
    with pytest.raises(
        BadRequestError, match=r"number 3, in a slot, found hotfix-r2-\w+, number 4"
    ):
        hotfix(
            state,
            asked(bundle),
            events=None,
            entries_of=not_kept,
            slots=lambda: slots,
            say=lambda _said: None,
        )
    now = state.peek()
    assert (now.roles.stable, now.hotfix and now.hotfix.release_number) == (Colour.BLUE, 4)
    assert [path.name for path in violet.iterdir()] == ["4"]


HISTORY = {"history": "string[None, None]", "steps_ago": "int64[None, None]"}
RANKED = {"items": "string[None, 20]", "scores": "float32[None, 20]"}
DEFAULT = {"inputs": HISTORY, "outputs": RANKED, "defaults": {"steps_ago": [[0]]}}
NEXT_EVENT = {
    "inputs": {**HISTORY, "event_types": "string[None, None]"},
    "outputs": {**RANKED, "next_types": "float32[None, 4]"},
    "defaults": {"steps_ago": [[0]], "event_types": [[""]]},
}
TYPED = {"serving_default": DEFAULT, "next_event": NEXT_EVENT}
PICTURES = {
    "serving_default": {
        "inputs": {"images": "uint8[None, 28, 28]"},
        "outputs": {"classes": "string[None, 10]", "scores": "float32[None, 10]"},
        "defaults": {},
    }
}


def record(signatures: dict[str, Any], kind: str = "serving_bundle") -> str:
    return json.dumps({"format": f"{kind}/1", "signatures": signatures})


def changed(name: str, **parts: Any) -> dict[str, Any]:
    return {**TYPED, name: {**TYPED[name], **parts}}


def compared(state: ModelState, folder: Path, found: str, stable: str) -> str:
    (folder / "bundle.json").write_text(found)
    known = {STABLE: BundleEntries.parse(stable, "stable")}
    return hotfix_stable.demand_fit(state, asked(folder), known.get)


@pytest.mark.parametrize(
    "signatures",
    (
        pytest.param(TYPED, id="the same entries"),
        pytest.param({**TYPED, "embed": DEFAULT}, id="one entry more"),
        pytest.param(
            changed("serving_default", outputs={**RANKED, "items": "string[None, 10]"}),
            id="an output of another length",
        ),
        pytest.param(
            changed(
                "serving_default",
                inputs={**HISTORY, "k": "int32[]"},
                defaults={"steps_ago": [[0]], "k": 20},
            ),
            id="an input more that may be left out",
        ),
    ),
)
def test_a_bundle_that_answers_all_that_stable_does_fits(
    state: ModelState, tmp_path: Path, signatures: dict[str, Any]
) -> None:
    said = compared(state, tmp_path, record(signatures), record(TYPED))
    assert said == "shop: the bundle has every entry of stable's"


@pytest.mark.parametrize(
    ("found", "said"),
    (
        pytest.param(
            record(PICTURES, "classifier_bundle"),
            r"lacks a serving_bundle \(found a classifier_bundle\)",
            id="a classifier of pictures",
        ),
        pytest.param(
            record({"serving_default": DEFAULT}),
            r"lacks next_event \(found none\)",
            id="a model that reads no event types, where a replay may send them",
        ),
        pytest.param(
            record(changed("serving_default", inputs={"history": "string[None, None]"})),
            r"lacks serving_default: input steps_ago int64\[None, None\] \(found none\)",
            id="an input that clients send is not known",
        ),
        pytest.param(
            record(changed("next_event", defaults={"steps_ago": [[0]]})),
            r"lacks next_event: a request without input event_types \(found required\)",
            id="an input that clients leave out is required",
        ),
        pytest.param(
            record(changed("serving_default", outputs={**RANKED, "scores": "float64[None, 20]"})),
            r"output scores float32\[None, 20\] \(found float64\[None, 20\]\)",
            id="an output of another type",
        ),
        pytest.param(
            record({"serving_default": {"inputs": {}, "outputs": {}, "defaults": {}}}),
            r"and 2 more; stable stays as it was: take a bundle with these entries",
            id="only the first things that it lacks are named",
        ),
    ),
)
def test_a_bundle_that_lacks_what_clients_ask_of_stable_is_refused(
    state: ModelState, tmp_path: Path, found: str, said: str
) -> None:
    with pytest.raises(BadRequestError, match=said) as refused:
        compared(state, tmp_path, found, record(TYPED))
    assert str(refused.value).startswith(f"serving_bundle/{'b' * 64}/bundle.json: expected all")
    assert STABLE in str(refused.value)


def test_pictures_of_another_size_do_not_fit(state: ModelState, tmp_path: Path) -> None:
    larger = json.loads(json.dumps(PICTURES).replace("28, 28", "32, 32"))
    with pytest.raises(BadRequestError, match=r"input images uint8\[None, 28, 28\]"):
        compared(
            state,
            tmp_path,
            record(larger, "classifier_bundle"),
            record(PICTURES, "classifier_bundle"),
        )


def test_a_bundle_that_does_not_fit_reserves_nothing(state: ModelState, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text(record(PICTURES, "classifier_bundle"))
    before = state.peek().sequence
    with pytest.raises(BadRequestError, match="found a classifier_bundle"):
        hotfix(
            state,
            asked(tmp_path),
            events=None,
            entries_of=lambda _bundle: BundleEntries.parse(record(TYPED), "stable"),
            slots=lambda: slots_below(tmp_path),
            say=lambda _said: None,
        )
    assert state.peek().sequence == before


def test_what_is_not_known_of_stable_is_compared_with_nothing(
    state: ModelState, tmp_path: Path
) -> None:
    skipped = "entries are not compared with those of stable's bundle"
    said = hotfix_stable.demand_fit(state, asked(tmp_path), not_kept)
    assert said == f"shop: {skipped}: {STABLE} is not in the store any more"
    older = open_state(tmp_path / "older", "shop")
    older.reserve_slot("first")
    older.promote("first")
    said = hotfix_stable.demand_fit(older, asked(tmp_path), not_kept)
    assert said == f"shop: {skipped}: the record names none"


def test_entries_are_read_from_the_sealed_bundle(tmp_path: Path) -> None:
    store = ArtifactStore(ObjectStore(f"file://{tmp_path}/store"), cache=tmp_path / "cache")
    payload = tmp_path / "payload"
    payload.mkdir()
    (payload / "bundle.json").write_text(record(TYPED))
    recipe = Recipe(
        kind=ArtifactKind.SERVING_BUNDLE,
        stage=Stage.BUNDLE_MODEL,
        inputs={},
        config={},
        code="a" * 64,
    )
    address = str(store.seal(recipe, payload, {}).address)
    found = hotfix_stable.entries_of(store, address)
    assert found == BundleEntries.parse(record(TYPED), "here")
    assert hotfix_stable.entries_of(store, STABLE) is None  # collected


@pytest.mark.parametrize(
    "text",
    (
        pytest.param('{"format": "picture/1"}', id="another format"),
        pytest.param('{"format": "serving_bundle/2"}', id="a newer one"),
        pytest.param('{"format": "serving_bundle/1"}', id="without signatures"),
        pytest.param(record({"serving_default": {}}), id="a signature without inputs"),
    ),
)
def test_a_bundle_record_that_says_no_entries_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError, match="here: expected"):
        BundleEntries.parse(text, "here")
