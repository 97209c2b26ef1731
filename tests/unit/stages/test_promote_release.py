from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import ReleaseRequest, plan_named
from tasks.contracts.stage_io import StageContext
from tasks.rollout.state import ModelState, open_state
from tasks.stages import promote_release
from tests.rollout_context import rollout_context

RELEASE = ReleaseRequest(
    release_id="first",
    model="shop",
    dataset="ml-1m",
    as_of="2026-01-31T00:00:00Z",
    recipe="markov",
    compression="int8",
    plan=plan_named("replay"),
)


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    return rollout_context(tmp_path, release=RELEASE)


@pytest.fixture
def state(context: StageContext) -> ModelState:
    made = open_state(context.the_state_dir(), "shop", ObjectStore(context.store_url))
    made.reserve_slot("first")
    return made


@pytest.mark.parametrize("settings", ({}, {"approved_by": ""}, {"approved_by": None}))
def test_a_release_that_asks_for_an_approval_is_not_promoted_without_a_person(
    context: StageContext, state: ModelState, settings: dict[str, Any]
) -> None:
    asks = replace(context, release=replace(RELEASE, approval=True), settings=settings)
    for step in (promote_release.configure, promote_release.run):
        with pytest.raises(BadRequestError, match="found none; .* release again, and answer it"):
            step(asks)
    assert state.peek().stable is None


def test_who_approved_stands_in_the_ledger(context: StageContext, state: ModelState) -> None:
    settings = {"approved_by": "ann", "reason": "approved: it looks right"}
    asks = replace(context, release=replace(RELEASE, approval=True), settings=settings)
    promote_release.run(asks)
    entry = state.history()[-1]
    assert (entry.kind, entry.who, entry.why) == (
        "promoted",
        "person ann",
        "approved: it looks right",
    )


def test_a_release_that_asks_for_none_is_promoted_by_the_machine(
    context: StageContext, state: ModelState
) -> None:
    promote_release.run(context)
    record = json.loads((context.out / "release.json").read_text())
    assert record["release_id"] == "first"
    assert not state.history()[-1].who.startswith("person")


def test_a_promoted_release_keeps_its_approver_where_the_cleared_approval_asks_nobody(
    context: StageContext, state: ModelState
) -> None:
    """Refused, its own run would take a healthy stable out."""
    settings = {"approved_by": "ann", "reason": "approved: it looks right"}
    asks = replace(context, release=replace(RELEASE, approval=True), settings=settings)
    before = promote_release.configure(asks)
    promote_release.run(asks)
    told = len(state.history())
    again = replace(asks, settings={})
    assert promote_release.configure(again) == before
    promote_release.run(again)
    assert len(state.history()) == told
