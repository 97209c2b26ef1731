"""What a release must answer before it gets a slot; the rest needs real servers (integration)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import PLANS, ReleaseRequest
from tasks.contracts.stage_io import StageContext
from tasks.contracts.stages import ArtifactKind, Stage
from tasks.rollout.state import ModelState, open_state
from tasks.stages import stage_bundle

RANK = {
    "inputs": {"history": "string[None, None]"},
    "outputs": {"items": "string[None, 20]"},
    "defaults": {},
}
TYPED = {"serving_default": RANK, "next_event": RANK}
PLAIN = {"serving_default": RANK}
OTHER_INPUTS = {**TYPED, "next_event": {**RANK, "inputs": {"history": "int64[None, None]"}}}


def record(signatures: dict[str, Any]) -> str:
    return json.dumps({"format": "serving_bundle/1", "signatures": signatures})


def written(folder: Path, signatures: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "bundle.json").write_text(record(signatures))
    return folder


def asked(folder: Path, release_id: str, signatures: dict[str, Any]) -> StageContext:
    bundle = written(folder / release_id, signatures)
    inputs: Any = {
        "bundle": SimpleNamespace(address="serving_bundle/" + "b" * 64, path=bundle),
        "events": SimpleNamespace(address="validated_events/" + "e" * 64, path=folder),
    }
    return StageContext(
        inputs=inputs,
        out=folder,
        work=folder / "work",
        progress=lambda _sentence, _share: None,
        store_url=f"file://{folder}/store",
        state_dir=folder / "state",
        release=ReleaseRequest(
            release_id=release_id,
            model="shop",
            dataset="complete-journey",
            as_of="2026-01-31T00:00:00Z",
            recipe="popularity",
            compression="none",
            plan=PLANS["replay"],
        ),
    )


@pytest.fixture
def state(tmp_path: Path) -> ModelState:
    """A model whose stable release answers `next_event`, with its bundle in the store."""
    store = ArtifactStore(ObjectStore(f"file://{tmp_path}/store"), cache=tmp_path / "cache")
    recipe = Recipe(
        kind=ArtifactKind.SERVING_BUNDLE,
        stage=Stage.BUNDLE_MODEL,
        inputs={},
        config={},
        code="a" * 64,
    )
    sealed = store.seal(recipe, written(tmp_path / "payload", TYPED), {})
    made = open_state(tmp_path / "state", "shop", ObjectStore(f"file://{tmp_path}/store"))
    made.reserve_slot("first", bundle=str(sealed.address))
    made.promote("first")
    return made


@pytest.mark.parametrize(
    ("signatures", "said"),
    (
        pytest.param(PLAIN, r"lacks next_event \(found none\)", id="a signature is gone"),
        pytest.param(
            OTHER_INPUTS,
            r"lacks next_event: input history string\[None, None\] \(found int64\[None, None\]\)",
            id="a signature wants other inputs",
        ),
    ),
)
def test_a_release_that_lacks_an_entry_of_stables_gets_no_slot(
    state: ModelState, tmp_path: Path, signatures: dict[str, Any], said: str
) -> None:
    before = state.peek().sequence
    with pytest.raises(BadRequestError, match=f"{said}; shop stays as it is: .*another model name"):
        stage_bundle.run(asked(tmp_path, "second", signatures))
    assert state.peek().sequence == before


def test_one_that_has_them_all_or_that_is_staged_already_goes_on(
    state: ModelState, tmp_path: Path
) -> None:
    more = {**TYPED, "embed": RANK}
    stage_bundle.demand_fit(state, "second", asked(tmp_path, "second", more))
    lacking = asked(tmp_path, "second", PLAIN)
    with pytest.raises(BadRequestError, match="lacks next_event"):
        stage_bundle.demand_fit(state, "second", lacking)
    state.reserve_slot("second")
    before = state.peek()
    stage_bundle.demand_fit(state, "second", lacking)
    assert state.peek() == before


def test_a_first_release_is_compared_with_nothing(tmp_path: Path) -> None:
    nobody = open_state(tmp_path / "state", "shop", ObjectStore(f"file://{tmp_path}/store"))
    said: list[str] = []
    context = replace(
        asked(tmp_path, "first", PLAIN), progress=lambda sentence, _share: said.append(sentence)
    )
    stage_bundle.demand_fit(nobody, "first", context)
    assert said == []


def test_a_stable_whose_bundle_was_collected_is_not_compared_and_the_task_says_so(
    state: ModelState, tmp_path: Path
) -> None:
    said: list[str] = []
    context = replace(
        asked(tmp_path, "second", PLAIN),
        progress=lambda sentence, _share: said.append(sentence),
        store_url=f"file://{tmp_path}/another",
    )
    stage_bundle.demand_fit(state, "second", context)
    assert said == [
        f"entries are not compared: {state.peek().stable.bundle} is not in the store any more"  # type: ignore[union-attr]
    ]
