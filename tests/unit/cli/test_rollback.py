"""`headrace rollback`: the candidate, and stable only where it is named."""

from __future__ import annotations

from dataclasses import replace
from shutil import move
from typing import Any

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.cli.command import main

WHY = ("--reason", "complaints")


@pytest.fixture
def tiny(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HEADRACE_HOME", str(tiny.home.root))
    tiny.promote("first")
    tiny.promote("second")
    return tiny


def rollback(tiny: Any, *words: str) -> int:
    return main(["rollback", "--model", tiny.state.model, *WHY, *words])


def test_the_candidate_goes_and_the_same_command_again_leaves_stable_alone(
    tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.make("third", reserve=True)
    assert rollback(tiny) == 0
    assert "third rolled back; release 2 serves" in capsys.readouterr().out
    before = tiny.state.path.read_text()
    assert rollback(tiny) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "expected a release in progress to take out, found none (third: rolled_back by" in said
    assert "release 2 (second) serves; if it is what is wrong, `headrace rollback" in said
    assert tiny.state.path.read_text() == before


@pytest.mark.parametrize("named", ("stable", "2", "second"))
def test_stable_goes_where_it_is_named_and_once(
    tiny: Any, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rollback(tiny, "--release", named) == 0
    assert "second rolled back; release 1 serves" in capsys.readouterr().out
    before = tiny.state.path.read_text()
    assert rollback(tiny, "--release", named) == 4
    assert tiny.state.path.read_text() == before


def test_a_forgotten_store_makes_no_hole_in_the_ledger(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The team's store is elsewhere, and somebody's new shell at night does not name it."""
    team = replace(tiny, url=f"file://{tiny.root}/team")
    move(tiny.root / "store", tiny.root / "team")
    team.make("third", reserve=True)
    monkeypatch.delenv("HEADRACE_STORE", raising=False)
    assert rollback(team) == 1
    said = capsys.readouterr()
    assert "third rolled back; release 2 serves" in said.out  # users do not wait for a store
    assert "ledger/recommender/00000011.json in the store" in " ".join(said.err.split())
    assert "for HEADRACE_STORE is not set" in " ".join(said.err.split())
    assert not list(ObjectStore(tiny.home.store_url).list("ledger"))
    assert team.state.verify() == []
    monkeypatch.setenv("HEADRACE_STORE", team.url)
    team.make("fourth", reserve=True)
    assert rollback(team) == 0
    assert team.state.verify() == []
    assert team.state.peek().unwritten == ()
