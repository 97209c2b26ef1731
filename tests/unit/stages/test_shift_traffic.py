"""Whether a replay sends event types: only where no user can meet a model that does not read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.stages import ArtifactKind, Stage
from tasks.rollout.record import Colour, Roles, SlotContent, StateRecord
from tasks.stages.shift_traffic import _both_read_types

GONE = f"serving_bundle/{'c' * 64}"
READS, DOES_NOT = "reads", "does not"  # of the bundles that `sealed` writes


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(ObjectStore(f"file://{tmp_path}/store"), cache=tmp_path / "cache")


@pytest.fixture
def sealed(store: ArtifactStore, tmp_path: Path) -> dict[str, str]:
    """Return the addresses of a bundle that reads types and of one that does not."""
    found = {}
    for name, record in ((READS, {"next_event": {}}), (DOES_NOT, {})):
        payload = tmp_path / name
        payload.mkdir()
        text = json.dumps({"format": "serving_bundle/1", **record})
        (payload / "bundle.json").write_text(text)
        recipe = Recipe(
            kind=ArtifactKind.SERVING_BUNDLE,
            stage=Stage.BUNDLE_MODEL,
            inputs={},
            config={"name": name},
            code="a" * 64,
        )
        found[name] = str(store.seal(recipe, payload, {}).address)
    return found


def rollout(candidate: str | None, stable: str | None) -> StateRecord:
    return StateRecord(
        model="shop",
        roles=Roles(stable=Colour.BLUE, candidate=Colour.GREEN),
        slots={
            Colour.BLUE: SlotContent(release_id="one", release_number=1, bundle=stable),
            Colour.GREEN: SlotContent(release_id="two", release_number=2, bundle=candidate),
        },
    )


@pytest.mark.parametrize(
    ("candidate", "stable", "sent"),
    (
        pytest.param(READS, READS, True, id="both read them"),
        pytest.param(READS, DOES_NOT, False, id="the first model that reads types"),
        pytest.param(DOES_NOT, READS, False, id="a candidate that no longer reads them"),
        pytest.param(READS, GONE, False, id="a stable release whose bundle was collected"),
        pytest.param(READS, None, False, id="a stable release whose bundle is not known"),
    ),
)
def test_types_are_sent_only_where_both_models_read_them(store, sealed, candidate, stable, *, sent):
    record = rollout(sealed.get(candidate, candidate), sealed.get(stable, stable))
    assert _both_read_types(store, record) is sent


def test_no_types_are_sent_without_a_candidate(store):
    assert not _both_read_types(store, StateRecord(model="shop"))
