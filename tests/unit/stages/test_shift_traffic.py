"""Whether a replay sends event types: only where no user can meet a model that does not read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.rollout.record import Colour, Roles, SlotContent, StateRecord
from tasks.stages.shift_traffic import _both_read_types

READS, DOES_NOT, GONE = (f"serving_bundle/{digit * 64}" for digit in "abc")


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    for address, record in ((READS, {"next_event": {}}), (DOES_NOT, {})):
        (tmp_path / address).mkdir(parents=True)
        text = json.dumps({"format": "serving_bundle/1", **record})
        (tmp_path / address / "bundle.json").write_text(text)
    return ObjectStore(f"file://{tmp_path}")


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
def test_types_are_sent_only_where_both_models_read_them(objects, candidate, stable, *, sent):
    assert _both_read_types(objects, rollout(candidate, stable)) is sent


def test_no_types_are_sent_without_a_candidate(objects):
    assert not _both_read_types(objects, StateRecord(model="shop"))
