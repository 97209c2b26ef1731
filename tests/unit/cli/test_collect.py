from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.cli.collect import RECORDS as RECORD_KINDS
from tasks.cli.collect import Folder
from tasks.cli.collect import collect as collect_from
from tasks.cli.home import Home
from tasks.cli.ledgers import named
from tasks.cli.verify import verify_release
from tasks.contracts.artifacts import Manifest
from tasks.contracts.errors import CorruptArtifactError
from tasks.contracts.stages import ArtifactKind, Stage
from tests.unit.cli.conftest import TinyReleases

LONG_AGO = 1_000_000_000.0
EXAMPLES = int(os.environ.get("HEADRACE_GC_EXAMPLES", "8"))  # `make mutations` tries more


def collect(tiny, *, written_before: float | None = None, home: Home | None = None) -> list[str]:
    before = time.time() + 60 if written_before is None else written_before
    doomed = collect_from(home or tiny.home, written_before=before, say=lambda _folder: None)
    return [folder.path for folder in doomed]


def aged(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))


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


# What may happen to a release: promoted, refused at its last step, ended before it had a slot,
# promoted and then rolled back by the command or by a person's run of the DAG.
FATES = ("promoted", "refused", "never staged", "rolled back", "taken back by a person")
# Whose gc it is: of the home that released, of one that lost its state records, of a second one.
HOMES = ("its own", "lost records", "a second one")
RECORDS = {kind.value for kind in RECORD_KINDS}


@pytest.mark.timeout(3600)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    plan=st.lists(
        st.tuples(st.sampled_from(FATES), st.integers(0, 1), st.sampled_from("cd")),
        min_size=1,
        max_size=4,
    ),
    young=st.booleans(),
    whose=st.sampled_from(HOMES),
)
def test_gc_never_removes_what_any_release_reaches(
    plan: list[tuple[str, int, str]],
    young: bool,
    whose: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Any ledger, over artifacts of which some are shared, or equal but made by other code."""
    tiny = TinyReleases(root=Path(tmp_path_factory.mktemp("gc")))
    in_ledger = []
    for number, (fate, text, code) in enumerate(plan):
        tiny.code = code
        if happens(tiny, name := f"release-{number}", fate, f"bytes {text}"):
            in_ledger.append(name)
    before = snapshot(tiny)
    reached = {path for name in in_ledger for path in files_reached(tiny, name)}
    with the_home(tiny, whose) as home:
        removed = collect(tiny, written_before=time.time() - 3600 if young else None, home=home)
    after = snapshot(tiny)
    for name in in_ledger:
        assert verified(tiny, name) == []
    assert reached <= after.keys()
    assert all(after[path] == before[path] for path in after)
    if young:
        assert removed == []
    else:
        left = {"/".join(path.split("/")[:2]) for path in after} - {
            "/".join(path.split("/")[:2]) for path in reached
        }
        assert {folder for folder in left if folder.split("/")[0] not in RECORDS} == set()


@contextmanager
def the_home(tiny: TinyReleases, whose: str) -> Iterator[Home]:
    if whose == "a second one":
        yield Home(root=tiny.root / "second", store_url=tiny.home.store_url)
        return
    lost = tiny.root / "lost"
    if whose == "lost records" and tiny.home.state.exists():
        tiny.home.state.rename(lost)
    yield tiny.home
    if lost.exists():
        lost.rename(tiny.home.state)


def happens(tiny: TinyReleases, name: str, fate: str, text: str) -> bool:
    """Let a release meet its fate, as far as it can; return whether the ledger knows it."""
    serves = tiny.state.champion() is not None
    if fate == "never staged" or (fate == "refused" and not serves):
        tiny.make(name, text=text)
        return False
    if fate == "refused":
        tiny.refuse(name, text=text)
        return True
    tiny.promote(name, text=text)
    if fate == "rolled back" and serves:
        tiny.state.roll_back(name)
    if fate == "taken back by a person" and serves:
        tiny.made[name][Stage.ROLL_BACK_RELEASE] = tiny.taken_back_by_a_person(f"run-of-{name}")
    return True


def snapshot(tiny: TinyReleases) -> dict[str, bytes]:
    store = tiny.root / "store"
    return {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and "ledger" not in path.relative_to(store).parts
    }


def files_reached(tiny: TinyReleases, name: str) -> set[str]:
    """Every file of what the release was made of, of its verdicts, and of the reports on them."""
    of_it = [one for one in tiny.sealed if one in tiny.made[name].values()]
    more = True
    while more:
        known = {str(one.address) for one in of_it}
        added = [
            one for one in tiny.sealed if str(one.address) not in known and belongs(one, of_it)
        ]
        of_it += added
        more = bool(added)
    store = tiny.root / "store"
    return {
        path.relative_to(store).as_posix()
        for one in of_it
        for path in tiny.folder_of(one).rglob("*")
        if path.is_file()
    }


def belongs(one: Manifest, of_it: list[Manifest]) -> bool:
    """An input of what is reached; a step or verdict made from it; a report on its bytes."""
    if any(item.address == str(one.address) for other in of_it for item in other.inputs.values()):
        return True
    if one.kind is ArtifactKind.GATE_REPORT:
        return one.inputs["artifact"].content in {other.content for other in of_it}
    known = {str(other.address) for other in of_it}
    return (
        one.kind in {ArtifactKind.TRAFFIC_STEP, ArtifactKind.STEP_VERDICT}
        and bool(one.inputs)
        and all(item.address in known for item in one.inputs.values())
    )
