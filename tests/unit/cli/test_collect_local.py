"""Old copies, checkpoints and scratch leave the disk; what is young, claimed or foreign stays."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.claims import Claimant, claimed
from tasks.adapters.object_store import ObjectStore
from tasks.cli.collect_local import collect_local
from tasks.cli.home import Home
from tasks.contracts.stages import ArtifactKind, Stage
from tests.unit.killed import deaths

LONG_AGO = 1_000_000_000.0
KEY, OTHER = "a" * 64, "b" * 64
RECIPE = Recipe(
    kind=ArtifactKind.FEATURE_SET, stage=Stage.BUILD_FEATURES, inputs={}, config={}, code="c"
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(root=tmp_path / "home", store_url=f"memory://{tmp_path.name}")


def old(folder: Path, *, file: bool = True) -> Path:
    folder.mkdir(parents=True)
    if file:
        (folder / "bytes").write_text("12345")
    for path in (folder / "bytes", folder):
        if path.exists():
            os.utime(path, (LONG_AGO, LONG_AGO))
    return folder


def collected(home: Home, work: Path, *, dry_run: bool = False) -> list[tuple[str, int]]:
    found = collect_local(
        home,
        ObjectStore(home.store_url),
        {"HEADRACE_WORK": str(work)},
        written_before=time.time() - 3600,
        say=lambda _path: None,
        dry_run=dry_run,
    )
    return [(one.path.name, one.size) for one in found]


def test_old_copies_checkpoints_and_scratch_go_wherever_they_lie(home: Home, tmp_path) -> None:
    work = tmp_path / "work"
    folders = [
        old(home.cache / KEY),
        old(work / KEY),
        old(work / "cache" / ".scratch-0123456789abcdef0123456789abcdef"),
        old(work / "cache" / OTHER, file=False),
        old(work / "scratch" / "headrace~another-host~7~x"),
    ]
    expected = [(folder.name, 5 if (folder / "bytes").exists() else 0) for folder in folders]
    assert sorted(collected(home, work, dry_run=True)) == sorted(expected)
    assert all(folder.exists() for folder in folders)
    assert sorted(collected(home, work)) == sorted(expected)
    assert not any(folder.exists() for folder in folders)
    assert collected(home, work) == []


def test_what_is_young_or_none_of_ours_stays(home: Home, tmp_path) -> None:
    work = tmp_path / "work"
    foreign = [old(work / "photographs"), old(work / "cache" / "more"), old(work / "scratch" / KEY)]
    young = old(work / KEY)
    (young / "checkpoint").write_text("new")
    os.utime(young, (LONG_AGO, LONG_AGO))
    (work / OTHER).symlink_to(foreign[0])
    assert collected(home, work) == []
    assert all(folder.exists() for folder in (*foreign, young))


def test_a_checkpoint_that_a_stage_works_on_stays_however_old(home: Home, tmp_path) -> None:
    work = tmp_path / "work"
    with claimed(work / KEY, Claimant.this_process("r"), print):
        for path in (work / KEY / "claim", work / KEY):
            os.utime(path, (LONG_AGO, LONG_AGO))
        assert collected(home, work) == []
    assert [name for name, _ in collected(home, work)] == [KEY]


def test_the_work_of_a_local_store_is_left_to_the_stores_own_collection(tmp_path) -> None:
    home = Home(root=tmp_path / "home", store_url=f"file://{tmp_path}/store")
    checkpoint = old(tmp_path / "store" / "work" / KEY)
    found = collect_local(
        home,
        ObjectStore(home.store_url),
        {},
        written_before=time.time() - 3600,
        say=lambda _path: None,
    )
    assert found == []
    assert checkpoint.exists()


def test_a_copy_that_is_used_is_young_again(home: Home, tmp_path) -> None:
    work = tmp_path / "work"
    store = remote(tmp_path, work)
    copy = store.fetch(store.seal(RECIPE, tmp_path / "payload", {}))
    for path in (*copy.iterdir(), copy):
        os.utime(path, (LONG_AGO, LONG_AGO))
    store.fetch(store.manifest(RECIPE.address))
    assert collected(home, work) == []
    os.utime(copy, (LONG_AGO, LONG_AGO))
    assert [name for name, _ in collected(home, work)] == [copy.name]


def test_what_a_killed_download_left_is_swept_by_the_next_one(tmp_path) -> None:
    work = tmp_path / "work"
    store = remote(tmp_path, work)
    sealed = store.seal(RECIPE, tmp_path / "payload", {})
    left = 0
    for _ in deaths(lambda: store.fetch(sealed)):
        left += sum(path.name != sealed.content for path in (work / "cache").glob("*"))
        shutil.rmtree(work / "cache" / sealed.content, ignore_errors=True)  # so it is had again
        assert (store.fetch(sealed) / "a.txt").read_text() == "hello"
        assert [path.name for path in (work / "cache").iterdir()] == [sealed.content]
        shutil.rmtree(work / "cache")
    assert left > 0


def test_a_copy_may_be_read_by_other_users_as_any_new_folder(tmp_path) -> None:
    store = remote(tmp_path, tmp_path / "work")
    copy = store.fetch(store.seal(RECIPE, tmp_path / "payload", {}))
    (tmp_path / "any").mkdir()
    assert copy.stat().st_mode == (tmp_path / "any").stat().st_mode


def remote(tmp_path: Path, work: Path) -> ArtifactStore:
    (tmp_path / "payload").mkdir()
    (tmp_path / "payload" / "a.txt").write_text("hello")
    return ArtifactStore(ObjectStore(f"memory://{tmp_path.name}"), cache=work / "cache")
