from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.cli.collect import keep, remove, to_remove
from tasks.cli.ledgers import ledger_mentions, named
from tasks.cli.verify import verify_release
from tasks.contracts.errors import CorruptArtifactError
from tasks.contracts.stages import Stage
from tests.unit.cli.conftest import TinyReleases

LONG_AGO = 1_000_000_000.0


def collect(tiny, *, written_before: float | None = None) -> list[str]:
    kept = keep(tiny.store, *ledger_mentions(tiny.home))
    before = time.time() + 60 if written_before is None else written_before
    doomed = to_remove(tiny.store, kept, written_before=before)
    for folder in doomed:
        remove(tiny.store, folder)
    return [folder.path for folder in doomed]


def verified(tiny, release_id: str) -> list[str]:
    release = named(tiny.state.history(), release_id, tiny.state.model)
    return verify_release(tiny.store, tiny.state, release).problems


def test_what_a_release_reaches_stays_with_its_gates_and_the_rest_goes(tiny) -> None:
    tiny.promote("kept")
    refused = tiny.make("refused")
    removed = collect(tiny)
    assert verified(tiny, "kept") == []
    assert str(refused[Stage.TRAIN_MODEL].address) in removed
    assert not tiny.folder_of(refused[Stage.TRAIN_MODEL]).exists()
    assert collect(tiny) == []


def test_what_is_young_stays(tiny) -> None:
    refused = tiny.make("refused")
    assert collect(tiny, written_before=time.time() - 3600) == []
    assert tiny.folder_of(refused[Stage.TRAIN_MODEL]).exists()


def test_the_age_is_that_of_the_newest_file(tiny) -> None:
    model = tiny.make("refused")[Stage.TRAIN_MODEL]
    for path in tiny.folder_of(model).rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    removed = collect(tiny, written_before=time.time() - 3600)
    assert removed == [str(model.address)]


def test_half_written_artifacts_and_scratch_go_when_old(tiny) -> None:
    tiny.promote("kept")
    half = tiny.root / "store" / "trained_model" / ("0" * 64) / "payload-1" / "weights"
    half.parent.mkdir(parents=True)
    half.write_text("half")
    checkpoint = tiny.root / "store" / "work" / ("1" * 64) / "checkpoint"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("half")
    assert sorted(collect(tiny)) == [f"trained_model/{'0' * 64}", f"work/{'1' * 64}"]


def test_a_store_that_lacks_what_the_ledger_reaches_is_left_alone(tiny) -> None:
    tiny.promote("kept")
    bundle = tiny.made["kept"][Stage.BUNDLE_MODEL]
    (tiny.folder_of(bundle) / "manifest.json").unlink()
    with pytest.raises(CorruptArtifactError, match="nothing was removed"):
        collect(tiny)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(plan=st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=1, max_size=4))
def test_gc_never_removes_what_any_release_reaches(
    plan: list[tuple[bool, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Releases promoted or refused, some sharing bytes with others, in any order."""
    tiny = TinyReleases(root=Path(tmp_path_factory.mktemp("gc")))
    promoted = []
    for number, (goes_live, text) in enumerate(plan):
        name = f"release-{number}"
        if goes_live and not promoted:
            tiny.promote(name, text=f"bytes {text}")
            promoted.append(name)
        else:
            tiny.make(name, text=f"bytes {text}")
    kept = {name: set(_files(tiny, name)) for name in promoted}
    collect(tiny)
    for name in promoted:
        assert verified(tiny, name) == []
        assert all(path.exists() for path in kept[name])
    reached = {str(m.address) for name in promoted for m in tiny.made[name].values()}
    sealed = {
        f"{path.parent.parent.name}/{path.parent.name}"
        for path in (tiny.root / "store").glob("*/*/manifest.json")
    }
    unreached = {address for address in sealed if not address.startswith("gate_report/")} - reached
    assert unreached == set()


def _files(tiny: TinyReleases, name: str) -> list[Path]:
    return [
        path
        for manifest in tiny.made[name].values()
        for path in tiny.folder_of(manifest).rglob("*")
        if path.is_file()
    ]
