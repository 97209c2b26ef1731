"""A seal that dies between any two file operations leaves an artifact whole or not there."""

from __future__ import annotations

import shutil
from pathlib import Path

from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.object_store import ObjectStore
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
