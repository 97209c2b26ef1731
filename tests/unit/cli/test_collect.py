from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.cli.collect import RECORDS as RECORD_KINDS
from tasks.cli.collect import keep, remove, to_remove
from tasks.cli.ledgers import ledger_mentions, named
from tasks.cli.verify import verify_release
from tasks.contracts.errors import CorruptArtifactError
from tasks.contracts.stages import Stage
from tests.unit.cli.conftest import TinyReleases

LONG_AGO = 1_000_000_000.0
EXAMPLES = int(os.environ.get("HEADRACE_GC_EXAMPLES", "6"))  # `make mutations` tries more


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


# What may happen to a release: promoted, refused at its last step, ended before it had a slot, or
# promoted and then rolled back by a person.
FATES = ("promoted", "refused", "never staged", "rolled back")
RECORDS = {kind.value for kind in RECORD_KINDS}


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    plan=st.lists(st.tuples(st.sampled_from(FATES), st.integers(0, 2)), min_size=1, max_size=4),
    young=st.booleans(),
)
def test_gc_never_removes_what_any_release_reaches(
    plan: list[tuple[str, int]], young: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any ledger, over artifacts of which some are shared: equal bytes are equal artifacts."""
    tiny = TinyReleases(root=Path(tmp_path_factory.mktemp("gc")))
    in_ledger = [
        name
        for number, (fate, text) in enumerate(plan)
        if happens(tiny, name := f"release-{number}", fate, f"bytes {text}")
    ]
    before = snapshot(tiny)
    reached = {path for name in in_ledger for path in files_reached(tiny, name)}
    removed = collect(tiny, written_before=time.time() - 3600 if young else None)
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
    while more:  # steps and verdicts are reached by what was made of the slot
        known = {str(one.address) for one in of_it}
        added = [
            one
            for one in tiny.sealed
            if str(one.address) not in known
            and one.kind.value in {"traffic_step", "step_verdict", "gate_report"}
            and one.inputs
            and all(item.address in known for item in one.inputs.values())
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
