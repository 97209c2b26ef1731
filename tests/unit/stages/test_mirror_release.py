from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.adapters import mirror_plots
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.requests import PLANS, ReleaseRequest
from tasks.contracts.stage_io import StageContext
from tasks.rollout.comparison import SHADOW_REPORT, Comparison, Ranking, report_text
from tasks.rollout.ledger import LedgerEntry
from tasks.rollout.state import open_state
from tasks.stages import mirror_release

REQUEST = ReleaseRequest(
    release_id="release-1",
    model="recommender",
    dataset="complete-journey",
    as_of="2018-01-02T00:00:00Z",
    recipe="popularity",
    compression="int8",
    plan=PLANS["replay"],
)


def context(folder: Path) -> StageContext:
    for name in ("out", "work", "state"):
        (folder / name).mkdir(exist_ok=True)
    return StageContext(
        inputs={},
        out=folder / "out",
        work=folder / "work",
        progress=lambda sentence, fraction: None,
        store_url=f"file://{folder}/store",
        release=REQUEST,
        state_dir=folder / "state",
    )


def test_an_mlflow_that_is_away_fails_nothing_and_the_artifact_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("HEADRACE_MLFLOW", f"http://bob:hunter2@{place}")
        outcome = mirror_release.run(context(tmp_path))
    assert not outcome.refused
    assert outcome.sentence.startswith(
        f"warning: MLflow does not answer at http://{place}: release-1"
    )
    record = json.loads((tmp_path / "out" / "mirror.json").read_text())
    assert record == {
        "format": "mirror/1",
        "release_id": "release-1",
        "status": "does not answer",
    }


def test_a_mirror_that_was_away_has_another_key_than_one_that_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADRACE_MLFLOW", raising=False)
    away = mirror_release.configure(context(tmp_path))
    monkeypatch.setenv("HEADRACE_MLFLOW", "http://127.0.0.1:1")
    monkeypatch.setattr(mirror_release, "answers", lambda url: True)
    back = mirror_release.configure(context(tmp_path))
    assert away["mlflow"] == "is not configured (HEADRACE_MLFLOW)"
    assert back == {**away, "mlflow": "answers"}


def entry(kind: str) -> LedgerEntry:
    return LedgerEntry(
        model="recommender",
        sequence=1,
        previous="0" * 64,
        kind=kind,
        at="2026-01-01T00:00:00Z",
        who="airflow",
        why="",
    )


@pytest.mark.parametrize(
    ("kinds", "status"),
    (
        pytest.param((), "not staged", id="refused before it reached a slot"),
        pytest.param(("slot_reserved", "step_began"), "in progress", id="still on its way"),
        pytest.param(("slot_reserved", "promoted"), "promoted", id="promoted"),
        pytest.param(("slot_reserved", "promoted", "rolled_back"), "rolled back", id="taken back"),
    ),
)
def test_the_status_is_what_the_ledger_says_last(kinds: tuple[str, ...], status: str) -> None:
    assert mirror_release.status_of([entry(kind) for kind in kinds]) == status


@pytest.mark.parametrize(
    ("dataset", "recipe", "of_classes"),
    (("complete-journey", "popularity", False), ("fashion-mnist", "class_means", True)),
)
def test_the_comparison_of_classifiers_is_drawn_by_the_class_that_is_first(
    dataset: str, recipe: str, of_classes: bool, tmp_path: Path
) -> None:
    asked = context(tmp_path)
    release = replace(asked.the_release(), dataset=dataset, recipe=recipe)
    seen = Comparison(model="recommender", candidate=1, stable=2, since="2026-11-26T00:00:00Z")
    seen.add(Ranking(("a", "b"), (0.9, 0.1)), Ranking(("b", "a"), (0.8, 0.2)))
    seen.add(Ranking(("a", "b"), (0.9, 0.1)), Ranking(("a", "b"), (0.8, 0.2)))
    path = tmp_path / "state" / "recommender" / "traffic" / "r1" / SHADOW_REPORT
    path.parent.mkdir(parents=True)
    path.write_text(report_text(seen, {}))

    staged = replace(entry("slot_reserved"), release_number=1)
    found = mirror_release._shadow(replace(asked, release=release), [staged])

    assert found is not None
    assert (found.of_classes, found.same_first, found.overlap) == (of_classes, 0.5, 1.0)
    for name in ("one.png", "again.png"):
        mirror_plots.shadow(found, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_what_the_comparator_saw_is_plotted_beside_the_release(tmp_path: Path) -> None:
    asked = context(tmp_path)
    state = open_state(tmp_path / "state", "recommender", ObjectStore(f"file://{tmp_path}/store"))
    state.reserve_slot("release-0")
    state.promote("release-0")
    number = state.reserve_slot("release-1").release_number

    def plots() -> list[str]:
        told = mirror_release.mirrored_release(asked, state)
        return [path.name for path in told.files.get("plots", [])]

    assert plots() == []
    seen = Comparison(model="recommender", candidate=2, stable=1, since="2026-11-26T00:00:00Z")
    seen.add(Ranking(("a", "b"), (0.9, 0.1)), Ranking(("b", "a"), (0.8, 0.2)))
    path = tmp_path / "state" / "recommender" / "traffic" / f"r{number}" / SHADOW_REPORT
    path.parent.mkdir(parents=True)
    path.write_text(report_text(seen, {}))
    assert plots() == ["shadow.png"]
    assert (tmp_path / "work" / "mirror" / "plots" / "shadow.png").read_bytes()[:4] == b"\x89PNG"
    path.write_text("{")  # no evidence, and no reason to have no mirror
    assert plots() == []
