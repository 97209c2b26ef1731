from __future__ import annotations

import errno
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError, CorruptArtifactError
from tasks.contracts.stages import ArtifactKind, Stage

if TYPE_CHECKING:
    from pathlib import Path


def recipe(seed: int = 1) -> Recipe:
    return Recipe(
        kind=ArtifactKind.FEATURE_SET,
        stage=Stage.BUILD_FEATURES,
        inputs={},
        config={"seed": seed},
        code="c" * 64,
    )


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(ObjectStore(f"file://{tmp_path}/store"), cache=tmp_path / "cache")


@pytest.fixture
def remote(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(ObjectStore(f"memory://{tmp_path.name}"), cache=tmp_path / "cache")


def payload(folder: Path, text: str = "hello") -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.txt").write_text(text)
    (folder / "b.txt").write_text("")
    return folder


@pytest.mark.parametrize("kind", ("store", "remote"))
def test_what_was_sealed_comes_back_byte_by_byte(kind, tmp_path, request) -> None:
    store = request.getfixturevalue(kind)
    sealed = store.seal(recipe(), payload(tmp_path / "p"), {"seconds": 3})
    found = store.manifest(recipe().address)
    assert found == sealed
    assert (store.fetch(found) / "deep/a.txt").read_text() == "hello"


def test_an_artifact_without_manifest_does_not_exist(store, tmp_path) -> None:
    sealed = store.seal(recipe(), payload(tmp_path / "p"), {})
    (tmp_path / "store" / str(sealed.address) / "manifest.json").unlink()
    assert store.find(sealed.address) is None
    with pytest.raises(BadRequestError, match="run the stage"):
        store.manifest(sealed.address)


def test_facts_are_outside_the_digest(store, remote, tmp_path) -> None:
    first = store.seal(recipe(), payload(tmp_path / "p"), {"seconds": 3})
    second = remote.seal(recipe(), payload(tmp_path / "q"), {"seconds": 300})
    assert first.digest == second.digest


def test_of_many_racers_one_wins_and_all_return_its_manifest(store, tmp_path) -> None:
    folders = [payload(tmp_path / f"p{n}", text=f"racer {n}") for n in range(16)]
    with ThreadPoolExecutor(16) as pool:
        sealed = list(pool.map(lambda folder: store.seal(recipe(), folder, {}), folders))
    assert len({item.digest for item in sealed}) == 1
    text = (store.fetch(sealed[0]) / "deep/a.txt").read_text()
    assert text.startswith("racer ")


@pytest.mark.parametrize(
    ("damage", "named"),
    (
        pytest.param(
            lambda f: (f / "deep/a.txt").write_text("hellO"), "deep/a.txt.*sha256", id="a byte"
        ),
        pytest.param(
            lambda f: (f / "deep/a.txt").write_text("hell"), "5 bytes, found 4", id="cut short"
        ),
        pytest.param(lambda f: (f / "b.txt").unlink(), "b.txt.*no file", id="a missing file"),
        pytest.param(lambda f: (f / "c.txt").write_text("x"), "found c.txt", id="an added file"),
    ),
)
def test_damage_is_found_and_the_file_is_named(store, tmp_path, damage, named) -> None:
    sealed = store.seal(recipe(), payload(tmp_path / "p"), {})
    damage(store.fetch(sealed))
    with pytest.raises(CorruptArtifactError, match=named):
        store.fetch(sealed)


@pytest.mark.parametrize("kind", ("store", "remote"))
def test_what_is_marked_as_used_is_young_again_and_unchanged(kind, tmp_path, request) -> None:
    store = request.getfixturevalue(kind)
    sealed = store.seal(recipe(), payload(tmp_path / "p"), {"seconds": 3})
    facts = store.objects.read(f"{sealed.address}/facts.json")
    before = max(one.written for one in store.objects.entries(str(sealed.address)))
    time.sleep(0.02)
    assert store.mark_used(sealed.address) == sealed
    assert max(one.written for one in store.objects.entries(str(sealed.address))) > before
    assert store.objects.read(f"{sealed.address}/facts.json") == facts
    store.check(sealed)


def test_a_store_that_cannot_be_written_is_read_all_the_same(store, tmp_path, monkeypatch) -> None:
    sealed = store.seal(recipe(), payload(tmp_path / "p"), {"seconds": 3})

    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("os.utime", read_only)
    assert store.mark_used(sealed.address) == sealed


def test_put_if_absent_keeps_the_first(store) -> None:
    assert store.objects.put_if_absent("ledger/1.json", b"first")
    assert not store.objects.put_if_absent("ledger/1.json", b"second")
    assert store.objects.read("ledger/1.json") == b"first"


def test_a_store_that_is_no_url_is_refused_with_an_example() -> None:
    with pytest.raises(BadRequestError, match="file:///"):
        ObjectStore("/srv/store")
