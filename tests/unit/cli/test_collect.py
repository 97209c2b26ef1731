from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.contracts.errors import CorruptArtifactError
from tasks.contracts.stages import Stage
from tests.unit.cli.any_ledger import (
    Fates,
    any_fates,
    collect,
    gc_keeps_what_is_reached,
    verified,
)
from tests.unit.cli.conftest import TinyReleases

LONG_AGO = 1_000_000_000.0
EXAMPLES = int(os.environ.get("HEADRACE_GC_EXAMPLES", "6"))  # `make mutations` tries more


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


@settings(max_examples=EXAMPLES, deadline=None)
@given(fates=any_fates, young=st.booleans())
def test_gc_never_removes_what_any_release_reaches(
    tmp_path_factory: pytest.TempPathFactory, fates: Fates, young: bool
) -> None:
    tiny = TinyReleases(root=Path(tmp_path_factory.mktemp("gc")))
    gc_keeps_what_is_reached(tiny, fates, young=young)
