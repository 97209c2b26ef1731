from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cli.collect import Folder
from tasks.cli.collect import collect as collect_from
from tasks.cli.home import Home
from tasks.cli.ledgers import named
from tasks.cli.verify import verify_release
from tasks.contracts.errors import CorruptArtifactError
from tasks.contracts.requests import PLANS
from tasks.contracts.stages import Stage
from tasks.rollout.hotfix import apply_hotfix, reserve_hotfix
from tests.unit.cli.any_ledger import (
    HOMES,
    Plan,
    any_plan,
    collect,
    gc_keeps_what_is_reached,
    verified,
)
from tests.unit.cli.conftest import TinyReleases

LONG_AGO = 1_000_000_000.0
EXAMPLES = int(os.environ.get("HEADRACE_GC_EXAMPLES", "8"))  # `make mutations` tries more


def aged(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))


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
    made = tiny.make("refused")
    aged(tiny.root / "store")
    slot = made[Stage.STAGE_BUNDLE]
    (tiny.folder_of(slot) / slot.payload_folder / "payload.txt").touch()
    removed = collect(tiny, written_before=time.time() - 3600)
    assert str(slot.address) not in removed
    assert str(tiny.reports_on(slot)[0].address) in removed


def test_what_a_young_artifact_was_made_from_stays_though_it_is_old(tiny) -> None:
    """A release elsewhere re-used old features and is training now: nothing else knows of it."""
    made = tiny.make("runs-elsewhere")
    aged(tiny.root / "store")
    (tiny.folder_of(made[Stage.TRAIN_MODEL]) / "facts.json").touch()
    removed = collect(tiny, written_before=time.time() - 3600)
    assert str(made[Stage.COMPRESS_MODEL].address) in removed
    for stage in (Stage.INGEST_EVENTS, Stage.BUILD_FEATURES, Stage.TRAIN_MODEL):
        assert tiny.store.find(made[stage].address) == made[stage]


def test_what_a_stage_answers_from_is_young_again(tiny) -> None:
    made = tiny.make("runs-elsewhere")
    aged(tiny.root / "store")
    features = made[Stage.BUILD_FEATURES].address
    assert tiny.store.mark_used(features) == made[Stage.BUILD_FEATURES]
    removed = collect(tiny, written_before=time.time() - 3600)
    assert str(made[Stage.TRAIN_MODEL].address) in removed
    assert tiny.store.find(features) is not None
    assert tiny.store.mark_used(made[Stage.TRAIN_MODEL].address) is None  # so it is made anew


@pytest.mark.parametrize("seconds", (0.0, 3600.0))
def test_what_was_used_while_gc_was_busy_stays(tiny, seconds: float) -> None:
    """By a look at the folder itself, and by a new look at everything."""
    made = tiny.make("runs-elsewhere")
    aged(tiny.root / "store")
    model = made[Stage.TRAIN_MODEL].address

    def say(folder: Folder) -> None:
        if folder.path.startswith("validated_events"):  # the first that goes
            tiny.store.mark_used(model)

    removed = collect_from(
        tiny.home, written_before=time.time() - 3600, say=say, look_again_seconds=seconds
    )
    paths = [folder.path for folder in removed]
    assert f"{made[Stage.INGEST_EVENTS].address}" in paths
    assert str(model) not in paths
    features = str(made[Stage.BUILD_FEATURES].address)
    assert (features in paths) is (seconds > 0)  # a look at everything knows what it was made from


def test_a_ledger_entry_that_came_while_gc_was_busy_is_honoured(tiny) -> None:
    tiny.make("comes-meanwhile")
    aged(tiny.root / "store")
    came = []

    def say(_folder: Folder) -> None:
        if not came:
            came.append(tiny.promote("another"))
            aged(tiny.root / "store")

    removed = collect_from(
        tiny.home, written_before=time.time() - 3600, say=say, look_again_seconds=0
    )
    assert {f.path for f in removed} & {
        str(one.address) for one in tiny.made["another"].values()
    } == (set())
    assert verified(tiny, "another") == []


def test_a_second_home_on_the_same_store_keeps_what_the_first_released(tiny, tmp_path) -> None:
    tiny.promote("kept")
    other = Home(root=tmp_path / "second home", store_url=tiny.home.store_url)
    collect(tiny, home=other)
    assert verified(tiny, "kept") == []


def test_a_ledger_whose_release_has_no_sealed_request_stops_everything(tiny) -> None:
    tiny.promote("kept")
    request = tiny.made["kept"][Stage.REQUEST_RELEASE]
    (tiny.folder_of(request) / "manifest.json").unlink()
    with pytest.raises(
        CorruptArtifactError, match="no sealed request of release kept; nothing was removed"
    ):
        collect(tiny)


def test_a_persons_rollback_stays_and_that_of_no_release_goes(tiny) -> None:
    tiny.promote("first")
    tiny.promote("second")
    rollback = tiny.taken_back_by_a_person("run-1")
    nothing = tiny.seal(Stage.ROLL_BACK_RELEASE, {"rollback.json": '{"release_id": null}'})
    assert collect(tiny) == [str(nothing.address)]
    assert tiny.store.find(rollback.address) == rollback
    assert verified(tiny, "second") == []


def test_a_hotfix_stays_with_the_bundle_of_the_release_that_made_it(tiny) -> None:
    tiny.promote("first")
    made = tiny.make("elsewhere")
    tiny.make("second", reserve=True)
    tiny.state.begin_step("second", 1, PLANS["replay"], per_try_timeout_ms=150.0)
    bundle = made[Stage.BUNDLE_MODEL]
    reserved = reserve_hotfix(tiny.state, "fix", bundle=str(bundle.address))
    apply_hotfix(tiny.state, "fix", reserved.release_number)
    record = {"hotfix.json": '{"release_id": "fix"}'}
    hotfix = tiny.seal(Stage.HOTFIX_STABLE, record, {"bundle": bundle})
    removed = collect(tiny)
    assert str(hotfix.address) not in removed
    assert str(bundle.address) not in removed
    assert verified(tiny, "first") == []


def test_a_report_on_equal_bytes_of_another_key_stays_with_what_it_names(tiny) -> None:
    """Other code made the same bytes: their gate is answered from the first report."""
    first = tiny.make("never-staged", text="the same")
    tiny.code = "d"
    tiny.promote("kept", text="the same")
    second = tiny.made["kept"]
    assert first[Stage.TRAIN_MODEL].address != second[Stage.TRAIN_MODEL].address
    (report,) = {one.address for one in tiny.reports_on(second[Stage.TRAIN_MODEL])}
    assert tiny.store.manifest(report).inputs["artifact"].address == str(
        first[Stage.TRAIN_MODEL].address
    )
    removed = collect(tiny)
    assert verified(tiny, "kept") == []
    assert tiny.store.find(first[Stage.TRAIN_MODEL].address) is not None
    assert str(first[Stage.REQUEST_RELEASE].address) in removed


def test_half_written_artifacts_and_scratch_go_when_old(tiny) -> None:
    tiny.promote("kept")
    half = tiny.root / "store" / "trained_model" / ("0" * 64) / "payload-1" / "weights"
    half.parent.mkdir(parents=True)
    half.write_text("half")
    checkpoint = tiny.root / "store" / "work" / ("1" * 64) / "checkpoint"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("half")
    assert sorted(collect(tiny)) == [f"trained_model/{'0' * 64}", f"work/{'1' * 64}"]


def test_the_payload_of_a_killed_try_is_noted_and_goes_from_a_kept_artifact_once_it_is_old(
    tiny,
) -> None:
    tiny.promote("kept")
    slot = tiny.made["kept"][Stage.STAGE_BUNDLE]
    left = tiny.folder_of(slot) / "payload-0123456789abcdef" / "infra.json"
    left.parent.mkdir()
    left.write_text("{}")
    release = named(tiny.state.history(), "kept", tiny.state.model)
    verdict = verify_release(tiny.store, tiny.state, release)
    assert verdict.problems == []
    assert [note.split(":")[0] for note in verdict.notes] == [f"{slot.address}/{left.parent.name}"]
    assert collect(tiny, written_before=time.time() - 3600) == []
    assert collect(tiny) == [f"{slot.address}/{left.parent.name}"]
    assert not left.exists()
    assert verify_release(tiny.store, tiny.state, release).notes == []


def test_a_store_that_lacks_what_the_ledger_reaches_is_left_alone(tiny) -> None:
    tiny.promote("kept")
    bundle = tiny.made["kept"][Stage.BUNDLE_MODEL]
    (tiny.folder_of(bundle) / "manifest.json").unlink()
    with pytest.raises(CorruptArtifactError, match="nothing was removed"):
        collect(tiny)


@pytest.mark.timeout(3600)
@settings(max_examples=EXAMPLES, deadline=None)
@given(plan=any_plan, young=st.booleans(), whose=st.sampled_from(HOMES))
def test_gc_never_removes_what_any_release_reaches(
    plan: Plan, young: bool, whose: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tiny = TinyReleases(root=Path(tmp_path_factory.mktemp("gc")))
    gc_keeps_what_is_reached(tiny, plan, young=young, whose=whose)
