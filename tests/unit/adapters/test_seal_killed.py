"""A seal that dies between any two file operations leaves an artifact whole or not there."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.object_store import ObjectStore
from tasks.cli.artifact_proof import Findings, artifact_findings
from tasks.cli.collect import remove, to_remove
from tasks.contracts.artifacts import Manifest
from tasks.contracts.stages import ArtifactKind, Stage
from tests.integration.kills.driver import problems
from tests.unit.killed import deaths

RECIPE = Recipe(
    kind=ArtifactKind.FEATURE_SET,
    stage=Stage.BUILD_FEATURES,
    inputs={},
    config={"seed": 1},
    code="c" * 64,
)


def test_killed_anywhere_a_seal_is_whole_or_absent_and_the_next_one_ends_well(
    tmp_path: Path,
) -> None:
    folder, root = tmp_path / "payload", tmp_path / "store"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.txt").write_text("hello")
    (folder / "b.txt").write_text("world")
    store = ArtifactStore(ObjectStore(f"file://{root}"), cache=tmp_path / "cache")
    whole = store.seal(RECIPE, folder, {"seconds": 1})
    shutil.rmtree(root)

    died = 0
    for operation in deaths(lambda: store.seal(RECIPE, folder, {"seconds": 1})):
        died += 1
        assert problems(root) == [], operation
        seen = store.find(RECIPE.address)
        if seen is not None:
            store.fetch(seen)
        assert store.seal(RECIPE, folder, {"seconds": 1}) == whole, operation
        store.fetch(whole)
        assert problems(root) == [], operation
        shutil.rmtree(root)
    assert died > 20  # 2 files of the payload, facts, manifest: each at least 5 operations


def test_what_a_killed_writer_left_is_no_part_of_any_artifact(tmp_path: Path) -> None:
    store = ArtifactStore(ObjectStore(f"file://{tmp_path}/store"), cache=tmp_path / "cache")
    folder = tmp_path / "payload"
    folder.mkdir()
    (folder / "a.txt").write_text("hello")
    unfinished = 0
    for _ in deaths(lambda: store.seal(RECIPE, folder, {})):
        left = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
        unfinished += sum("work/unfinished" in str(path) for path in left)
        visible = [path.relative_to(tmp_path / "store").parts for path in left]
        assert all(
            parts[0] == "work" or parts[-1] in {"a.txt", "facts.json", "manifest.json"}
            for parts in visible
        )
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
    assert unfinished > 0


def test_a_retry_that_makes_other_bytes_ends_in_an_artifact_that_is_proved_and_gc_tidies(
    tmp_path: Path,
) -> None:
    """As stage_bundle's: what it measures differs from try to try."""
    store = store_with_tries(tmp_path)
    died = left = 0
    for operation in deaths(lambda: store.seal(RECIPE, tmp_path / "first", {})):
        died += 1
        sealed = store.seal(RECIPE, tmp_path / "second", {})
        found = artifact_findings(store, sealed)
        assert found.problems == [], operation
        assert all("`headrace gc` removes it" in note for note in found.notes)
        left += len(found.notes)
        tidy(store, sealed)
        assert artifact_findings(store, sealed) == Findings(), operation
        shutil.rmtree(tmp_path / "store")
    assert died > 20
    assert left > 10  # killed once its first payload file was there, before its manifest was


def test_a_loser_of_a_race_that_is_killed_leaves_the_winner_proved(tmp_path: Path) -> None:
    store = store_with_tries(tmp_path)
    winner = store.seal(RECIPE, tmp_path / "second", {})
    left = 0
    for operation in deaths(lambda: store.seal(RECIPE, tmp_path / "first", {})):
        found = artifact_findings(store, winner)
        assert found.problems == [], operation
        left += len(found.notes)
        tidy(store, winner)
        assert artifact_findings(store, winner) == Findings(), operation
    assert left > 10


def test_a_file_added_to_an_artifact_or_to_its_payload_is_no_killed_try(tmp_path: Path) -> None:
    store = store_with_tries(tmp_path)
    sealed = store.seal(RECIPE, tmp_path / "first", {})
    folder = tmp_path / "store" / str(sealed.address)
    for name in ("more", "payload-0123456789abcdef", "payload-more/a.txt", "deep/payload-0/a.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
        found = artifact_findings(store, sealed)
        assert [problem for problem in found.problems if name in problem], name
        assert found.notes == []
        (folder / name).unlink()
    (folder / sealed.payload_folder / "more").write_text("x")
    assert any("found more" in problem for problem in artifact_findings(store, sealed).problems)


def store_with_tries(tmp_path: Path) -> ArtifactStore:
    for name in ("first", "second"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "a.txt").write_text("hello")
        (tmp_path / name / "measured.json").write_text(f'{{"try": "{name}"}}')
    return ArtifactStore(ObjectStore(f"file://{tmp_path}/store"), cache=tmp_path / "cache")


def tidy(store: ArtifactStore, sealed: Manifest) -> None:
    """Collect what is old, where all is: what is sealed is reached."""
    for folder in to_remove(store, {sealed.address: sealed}, written_before=time.time() + 60):
        remove(store, folder)
