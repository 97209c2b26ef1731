"""The driver itself: it finds what it is there to find."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.kills.driver import (
    Command,
    Ended,
    Lost,
    Subject,
    digests,
    kill_often,
    problems,
    run,
)

# A "stage" that seals one artifact; `late` seals before the payload is whole, `restless` differs,
# `refuses` will not be run again where it has ever been begun.
STAGE = """
import hashlib, json, sys, time
from pathlib import Path
store, how = Path(sys.argv[1]), sys.argv[2]
if how == "refuses" and (store / "begun").exists():
    sys.exit("will not run twice")
store.mkdir(exist_ok=True)
(store / "begun").touch()
time.sleep(0.1)
data = str(time.time()).encode() if how == "restless" else b"x" * 50_000
line = f"data\\0{len(data)}\\0{hashlib.sha256(data).hexdigest()}\\n"
content = hashlib.sha256(line.encode()).hexdigest()
folder = store / "kind" / ("k" * 64)
payload = folder / f"payload-{content[:16]}"
payload.mkdir(parents=True, exist_ok=True)
manifest = {"key": "k" * 64, "content": content, "files": [
    {"path": "data", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}]}
def seal():
    (folder / "manifest.tmp").write_text(json.dumps(manifest))
    (folder / "manifest.tmp").replace(folder / "manifest.json")
if how == "late" and not (folder / "manifest.json").exists():
    seal()
    time.sleep(1)
(payload / "data").write_bytes(data)
if how != "late":
    time.sleep(0.2)
    seal()
time.sleep(0.1)
"""


def subject(folder: Path, how: str) -> Subject:
    store = folder / "store"
    return Subject(
        name=how,
        command=Command(
            words=(sys.executable, "-c", STAGE, str(store), how), environment={}, folder=folder
        ),
        store=store,
        restore=lambda: shutil.rmtree(store, ignore_errors=True),
        result=lambda: digests(store),
    )


def test_a_sound_stage_has_no_trouble(tmp_path: Path) -> None:
    tally = kill_often(subject(tmp_path, "sound"), kills=5, seed=1)
    assert (tally.kills, tally.equal, tally.trouble) == (5, 5, [])


def test_a_manifest_before_its_payload_is_found(tmp_path: Path) -> None:
    tally = kill_often(subject(tmp_path, "late"), kills=3, seed=1)
    assert any("data is missing" in problem for problem in tally.trouble)


def test_another_result_than_undisturbed_is_found(tmp_path: Path) -> None:
    tally = kill_often(subject(tmp_path, "restless"), kills=2, seed=1)
    assert tally.equal == 0
    assert all("expected {" in problem for problem in tally.trouble)


def test_a_second_run_that_fails_is_found(tmp_path: Path) -> None:
    tally = kill_often(subject(tmp_path, "refuses"), kills=4, seed=1)
    assert tally.kills == 4
    assert tally.equal + len(tally.trouble) == 4  # one killed before it began may run
    assert tally.trouble
    for problem in tally.trouble:
        assert "run again it ended with 1: will not run twice" in problem


def test_with_a_mark_every_kill_comes_after_its_first_change(tmp_path: Path) -> None:
    stage, ends = subject(tmp_path, "sound"), list[Ended]()

    def mark() -> int | None:
        sealed = list(stage.store.rglob("manifest.json"))
        return len(sealed) if (stage.store / "begun").exists() else None

    def lost(killed: Ended, _again: Ended) -> Lost:
        ends.append(killed)
        return Lost(steps=len(ends))

    tally = kill_often(replace(stage, mark=mark, lost=lost), kills=5, seed=1)

    assert (tally.kills, tally.equal, tally.trouble, tally.most_lost) == (5, 5, [], 5)
    assert all(killed.marked and killed.seconds >= killed.marked[0] for killed in ends)


def test_what_is_never_marked_is_not_killed(tmp_path: Path) -> None:
    assert run(subject(tmp_path, "sound").command, kill_after=0.0, mark=lambda: None).code == 0


def test_a_mark_that_never_changes_is_no_trial(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="its mark changed 0 times"):
        kill_often(replace(subject(tmp_path, "sound"), mark=lambda: None), kills=1, seed=1)


def test_a_first_run_that_fails_is_no_trial(tmp_path: Path) -> None:
    broken = subject(tmp_path, "refuses")
    broken = replace(broken, restore=(tmp_path / "store" / "begun").touch)
    (tmp_path / "store").mkdir()
    with pytest.raises(AssertionError, match="undisturbed it ended with 1: will not run twice"):
        kill_often(broken, kills=1, seed=1)


@pytest.mark.parametrize(
    ("spoil", "said"),
    (
        pytest.param(lambda p: p.write_bytes(b"y" * 50_000), "data differs", id="a byte changed"),
        pytest.param(lambda p: p.unlink(), "data is missing", id="a file is gone"),
        pytest.param(lambda p: (p.parent / "more").touch(), "more is too much", id="one too many"),
    ),
)
def test_a_corrupt_payload_is_found(tmp_path: Path, spoil, said: str) -> None:
    found = subject(tmp_path, "sound")
    run(found.command)
    assert problems(found.store) == []
    spoil(next(found.store.rglob("data")))
    assert any(said in problem for problem in problems(found.store))


def test_a_torn_manifest_is_found(tmp_path: Path) -> None:
    found = subject(tmp_path, "sound")
    run(found.command)
    manifest = next(found.store.rglob("manifest.json"))
    manifest.write_text(manifest.read_text()[:-5])
    assert "cannot be read" in problems(found.store)[0]
    with pytest.raises(json.JSONDecodeError):
        digests(found.store)
