from __future__ import annotations

import argparse
import io

import pytest

from tasks.cli.console import Console
from tasks.cli.history import run, served_after
from tasks.cli.ledgers import named, up_to
from tasks.contracts.errors import BadRequestError
from tasks.contracts.exit_codes import ExitCode
from tasks.rollout.ledger import LedgerEntry, entry_path
from tests.unit.cli.conftest import MODEL


def entry(sequence: int, kind: str, *, number: int = 1, share: int = 0, **details: object):
    return LedgerEntry(
        model="recommender",
        sequence=sequence,
        previous="0" * 64,
        kind=kind,
        at=f"2026-01-0{sequence}T00:00:00.000Z",
        who="airflow",
        why="",
        release_id=f"release-{number}",
        release_number=number,
        share=share,
        details=details,
    )


def stable(number: int) -> dict[str, object]:
    return {"release_number": number, "release_id": f"release-{number}"}


LEDGER = [
    entry(1, "slot_reserved"),
    entry(2, "promoted", stable=stable(1)),
    entry(3, "slot_reserved", number=2),
    entry(4, "step_began", number=2, share=500),
    entry(5, "promoted", number=2, stable=stable(2)),
    entry(6, "rolled_back", number=2, stable=stable(1)),
]


@pytest.mark.parametrize(
    ("at", "served"),
    (
        pytest.param("2026-01-01T12:00:00Z", "no release served", id="before the first promotion"),
        pytest.param(
            "2026-01-02T12:00:00Z", "release 1 (release-1) served", id="after the first promotion"
        ),
        pytest.param(
            "2026-01-04T12:00:00Z",
            "release 1 (release-1) served, release 2 got 5 % of users",
            id="while a candidate takes a step",
        ),
        pytest.param("2026-01-05T12:00:00Z", "release 2 (release-2) served", id="after it won"),
        pytest.param(None, "release 1 (release-1) served", id="now, after the rollback"),
    ),
)
def test_who_served_when(at: str | None, served: str) -> None:
    assert served_after(up_to(LEDGER, at)) == served


@pytest.mark.parametrize("name", ("release-2", "2"))
def test_a_release_has_two_names(name: str) -> None:
    assert named(LEDGER, name, "recommender").release_number == 2


def test_an_unknown_release_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadRequestError, match=r"known: 1 \(release-1\), 2 \(release-2\)"):
        named(LEDGER, "3", "recommender")


def asked(tiny, monkeypatch: pytest.MonkeyPatch, at: str | None = None) -> tuple[int, str]:
    monkeypatch.setenv("HEADRACE_HOME", str(tiny.home.root))
    monkeypatch.setenv("HEADRACE_STORE", tiny.home.store_url)
    said = io.StringIO()
    code = run(argparse.Namespace(model=MODEL, at=at), Console(out=said))
    return code, said.getvalue()


def test_a_whole_ledger_says_who_serves(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.promote("first")
    tiny.promote("second")
    code, said = asked(tiny, monkeypatch)
    assert code == 0
    assert "now: release 2 (second) served" in said


def test_a_ledger_with_a_gap_does_not_say_who_served(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.promote("first")
    tiny.promote("second")
    tiny.promote("third")
    promoted = [e for e in tiny.state.history() if (e.kind, e.release_id) == ("promoted", "second")]
    (tiny.root / "store" / entry_path(MODEL, promoted[0].sequence)).unlink()
    code, said = asked(tiny, monkeypatch, at=promoted[0].at)
    assert code == ExitCode.GATE_REFUSED
    assert "who served cannot be told" in said
    assert f"{entry_path(MODEL, promoted[0].sequence)}: missing (deleted)" in said
    assert f"`headrace verify --model {MODEL}` names all that is wrong" in said
    assert "release 1 (first) served" not in said


def test_without_its_state_record_a_ledger_is_shown_and_not_believed(
    tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.promote("first")
    tiny.state.path.unlink()
    code, said = asked(tiny, monkeypatch)
    assert code == ExitCode.GATE_REFUSED
    assert "promoted" in said
    assert "state.json: expected the state record" in said
