"""The door to a store, on file:// and on s3://: conditional writes, faults, memory, listings."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.object_store import ObjectStore
from tasks.adapters.s3_patience import ATTEMPTS
from tasks.contracts.errors import StoreUnavailableError
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.stages import ArtifactKind, Stage
from tests.integration.stores.faulty_proxy import (
    CUT,
    RESET,
    RESET_AFTER,
    THROTTLE,
    TOO_MANY,
    Plan,
)

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.trial
WRITERS = 50
MEGABYTE = 1_000_000


def first_tries(count: int, fate: str, method: str | None = None):
    """The first tries of each request meet this fate."""
    return lambda asked, number: (
        fate if number <= count and method in {None, asked.method} else None
    )


def test_what_was_written_is_read_replaced_listed_and_removed(store_url: str) -> None:
    store = ObjectStore(store_url)
    with pytest.raises(FileNotFoundError):
        store.read("a/one")
    store.replace("a/one", b"1")
    store.replace("a/one", b"uno")
    assert store.put_if_absent("a/deep/two", b"2")
    assert not store.put_if_absent("a/deep/two", b"other")
    assert (store.read("a/one"), store.read("a/deep/two")) == (b"uno", b"2")
    now = time.time()
    assert [(one.path, one.size) for one in store.entries("a")] == [("a/deep/two", 1), ("a/one", 3)]
    assert all(abs(one.written - now) < 60 for one in store.entries("a"))
    assert list(store.list("b")) == []
    store.remove_tree("a/deep")
    assert list(store.list("a")) == ["a/one"]


def test_of_fifty_concurrent_writers_one_wins_and_its_bytes_are_there(store_url: str) -> None:
    store, barrier = ObjectStore(store_url), threading.Barrier(WRITERS)

    def write(number: int) -> bool:
        barrier.wait()
        return store.put_if_absent("ledger/shop/00000001.json", f"writer {number}".encode())

    with ThreadPoolExecutor(WRITERS) as pool:
        won = list(pool.map(write, range(WRITERS)))
    assert won.count(True) == 1
    assert store.read("ledger/shop/00000001.json") == f"writer {won.index(True)}".encode()


def test_a_conditional_write_on_s3_is_one_request_with_a_condition(s3_url: str, plan: Plan) -> None:
    store = ObjectStore(s3_url)
    with plan.doing(lambda *_: None):
        assert store.put_if_absent("once", b"1")
        written = [(one.method, one.headers.get("if-none-match")) for one in plan.asked]
    assert written == [("PUT", "*")]


@pytest.mark.parametrize("fate", (THROTTLE, TOO_MANY, RESET))
def test_throttled_and_reset_requests_are_sent_again(s3_url: str, plan: Plan, fate: str) -> None:
    store = ObjectStore(s3_url)
    with plan.doing(first_tries(2, fate)):
        store.replace("a", b"1")
        assert store.put_if_absent("b", b"2")
        assert store.read("a") == b"1"
        assert [one.path for one in store.entries("")] == ["a", "b"]
        assert set(plan.tries.values()) == {3}


def test_a_write_whose_answer_was_lost_knows_that_it_won(s3_url: str, plan: Plan) -> None:
    store = ObjectStore(s3_url)
    with plan.doing(first_tries(1, RESET_AFTER, "PUT")):
        assert store.put_if_absent("mine", b"first")
        assert not store.put_if_absent("mine", b"second")
    assert store.read("mine") == b"first"


def test_a_download_goes_on_where_its_connection_was_cut(
    s3_url: str, plan: Plan, tmp_path: Path
) -> None:
    store, data = ObjectStore(s3_url), os.urandom(3 * MEGABYTE)
    store.replace("big", data)
    with plan.doing(first_tries(1, CUT, "GET")):
        store.download("big", tmp_path / "big", len(data))
        ranges = [one.headers.get("range") for one in plan.asked if one.method == "GET"]
    assert (tmp_path / "big").read_bytes() == data
    assert ranges[0] is None
    assert 0 < int(ranges[1].removeprefix("bytes=").removesuffix("-")) <= len(data) // 2


def test_an_upload_sends_only_the_part_again_that_failed(
    s3_url: str, plan: Plan, tmp_path: Path
) -> None:
    store, source = ObjectStore(s3_url), tmp_path / "source"
    source.write_bytes(os.urandom(20 * MEGABYTE))

    def second_part_fails(asked, number: int) -> str | None:
        return THROTTLE if "partNumber=2" in asked.path and number <= 2 else None

    with plan.doing(second_part_fails):
        store.upload(source, "big")
        parts = sorted(path for method, path in plan.tries if "partNumber" in path)
        tries = [plan.tries["PUT", path] for path in parts]
    assert tries == [1, 3, 1]
    store.download("big", tmp_path / "again", 20 * MEGABYTE)
    assert (tmp_path / "again").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("fate", (THROTTLE, TOO_MANY, RESET))
def test_a_store_that_stays_away_is_an_error_that_allows_a_retry(
    s3_url: str, plan: Plan, fate: str
) -> None:
    store, began = ObjectStore(s3_url), time.monotonic()
    with plan.doing(lambda *_: fate):
        with pytest.raises(StoreUnavailableError, match=r"could not write a/b: .+") as failed:
            store.put_if_absent("a/b", b"1")
        # aiohttp sends a request once more where a kept connection turns out to be closed.
        assert set(plan.tries.values()) <= {ATTEMPTS, 2 * ATTEMPTS}
    assert failed.value.exit_code is ExitCode.CRASHED  # Airflow tries again
    assert s3_url in str(failed.value)
    assert time.monotonic() - began < 30


def test_a_store_without_a_server_is_said_within_a_minute(
    s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    fsspec.get_filesystem_class("s3").clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="could not read manifest.json"):
        ObjectStore("s3://bucket/store").read("manifest.json")
    assert time.monotonic() - began < 70
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_stage_ends_with_exit_code_1_when_the_store_stays_away(
    s3_url: str, plan: Plan, tmp_path: Path
) -> None:
    request = (
        f'{{"format": "stage_request/1", "stage": "build_features", "store_url": "{s3_url}",'
        f' "release": "release_request/{"a" * 64}"}}'
    )
    with plan.doing(lambda *_: THROTTLE):
        done = subprocess.run(
            [sys.executable, "-m", "tasks", "build_features", "-"],
            input=request,
            cwd=ROOT,
            env={**os.environ, "HEADRACE_WORK": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == ExitCode.CRASHED, done.stderr
    assert "could not read release_request/" in done.stdout
    assert "Please reduce your request rate" in done.stdout


def recipe(seed: int) -> Recipe:
    return Recipe(
        kind=ArtifactKind.FEATURE_SET,
        stage=Stage.BUILD_FEATURES,
        inputs={},
        config={"seed": seed},
        code="c",
    )


def test_sealing_finding_fetching_and_losing_a_race_never_list(
    s3_url: str, plan: Plan, tmp_path: Path
) -> None:
    store = ArtifactStore(ObjectStore(s3_url), cache=tmp_path / "cache")
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine, other):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "a.txt").write_text(folder.name)
    with plan.doing(lambda *_: None):
        assert store.find(recipe(1).address) is None
        sealed = store.seal(recipe(1), mine, {})
        assert (store.fetch(store.manifest(sealed.address)) / "deep/a.txt").read_text() == "mine"
        assert store.seal(recipe(1), other, {}).content == sealed.content
        assert plan.listings == []
        assert len(plan.asked) > 8
    assert len(list(store.objects.list(str(sealed.address)))) == 3  # the loser's files are gone


def test_a_damaged_copy_is_fetched_again_and_a_damaged_object_is_named(
    s3_url: str, tmp_path: Path
) -> None:
    from tasks.contracts.errors import CorruptArtifactError

    store = ArtifactStore(ObjectStore(s3_url), cache=tmp_path / "cache")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.txt").write_text("hello")
    sealed = store.seal(recipe(1), tmp_path / "p", {})
    (store.fetch(sealed) / "a.txt").write_text("hallo")
    assert (store.fetch(sealed) / "a.txt").read_text() == "hello"
    store.objects.replace(f"{sealed.address}/{sealed.payload_folder}/a.txt", b"hallo")
    assert (store.fetch(sealed) / "a.txt").read_text() == "hello"  # the verified copy
    with pytest.raises(CorruptArtifactError, match="file a.txt: expected sha256"):
        store.check(sealed)


MEMORY = """
import sys
from pathlib import Path
from tasks.adapters.object_store import ObjectStore
store, source = ObjectStore(sys.argv[1]), Path(sys.argv[2])
store.replace("small", b"warm")
store.read("small")
def peak():
    # The kernel's high-water mark of this program; getrusage's would include the parent's.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
before = peak()
store.upload(source, "large")
store.download("large", source.with_suffix(".again"), source.stat().st_size)
size, digest = store.digest("large")
assert size == source.stat().st_size
print(peak() - before)
"""


@pytest.mark.parametrize(
    "megabytes", (64, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]))
)
def test_a_large_file_is_streamed_in_less_than_100_mb(
    store_url: str, tmp_path: Path, megabytes: int
) -> None:
    source = tmp_path / "source"
    with source.open("wb") as writer:
        for _ in range(megabytes):
            writer.write(os.urandom(MEGABYTE))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, store_url, str(source)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1000,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    grown = float(done.stdout)
    print(
        f"\n{store_url.split(':', maxsplit=1)[0]}://: {megabytes} MB up, down and hashed: +{grown:.0f} MB"
    )
    assert grown < 100
    again = source.with_suffix(".again")
    assert again.stat().st_size == source.stat().st_size
