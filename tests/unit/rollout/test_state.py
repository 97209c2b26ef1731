import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError, CorruptArtifactError, StoreUnavailableError
from tasks.contracts.requests import PLANS
from tasks.rollout.ledger import entry_path
from tasks.rollout.phases import Decision, Pause, Phase
from tasks.rollout.record import Colour, StateRecord
from tasks.rollout.state import ModelState, Note, models_with_state, open_state

PLAN = PLANS["replay"]
BUNDLE = "serving_bundle/" + "1" * 64


@pytest.fixture
def state(tmp_path: Path) -> ModelState:
    return a_state(tmp_path)


def a_state(folder: Path) -> ModelState:
    store = ObjectStore(f"file://{folder}/store")
    return open_state(folder / "state", "shop", store, clock=lambda: 1_700_000_000.0)


def first_release(state: ModelState) -> None:
    state.reserve_slot("first", bundle=BUNDLE)
    state.promote("first")


def begin(state: ModelState, step: int, release_id: str = "second") -> int:
    return state.begin_step(release_id, step, PLAN, per_try_timeout_ms=50).sequence


def judged(state: ModelState, step: int, decision: Decision = Decision.PROCEED) -> None:
    begin(state, step)
    state.record_verdict("second", step, decision, numbers={})


def in_step_1(state: ModelState) -> None:
    first_release(state)
    state.reserve_slot("second")
    begin(state, 1)


def kinds(state: ModelState) -> list[str]:
    return [entry.kind for entry in state.history()]


def test_a_whole_release_is_told_by_the_ledger(state: ModelState) -> None:
    first_release(state)
    assert state.reserve_slot("second", bundle=BUNDLE) == (Colour.GREEN, 2)
    judged(state, 1)
    judged(state, 2)
    judged(state, 3, Decision.SHIP)
    state.promote("second")
    assert [(entry.kind, entry.step, entry.share) for entry in state.history()] == [
        ("slot_reserved", None, 0),
        ("promoted", None, 0),
        ("slot_reserved", None, 0),
        ("step_began", 1, 500),
        ("judged", 1, 500),
        ("step_began", 2, 2500),
        ("judged", 2, 2500),
        ("step_began", 3, 5000),
        ("judged", 3, 5000),
        ("promoted", None, 0),
    ]
    roles = state.peek().roles
    assert (roles.stable, roles.candidate, roles.previous) == (Colour.GREEN, None, Colour.BLUE)
    assert state.verify() == []


def test_there_is_no_champion_before_the_first_release(state: ModelState) -> None:
    assert state.champion() is None
    state.reserve_slot("first", bundle=BUNDLE)
    assert state.champion() is None


def test_the_champion_is_who_was_promoted(state: ModelState) -> None:
    first_release(state)
    champion = state.champion()
    assert champion is not None
    assert (champion.release_id, champion.release_number, champion.bundle) == ("first", 1, BUNDLE)


def test_the_ledger_says_that_a_first_release_met_no_champion(state: ModelState) -> None:
    first_release(state)
    assert state.history()[-1].why == "the first release has no champion to be compared with"


def test_the_record_survives_its_file(state: ModelState) -> None:
    in_step_1(state)
    record = state.peek()
    assert record.salt is not None
    assert StateRecord.parse(record.to_text(), "here") == record


def test_the_salt_is_drawn_anew_for_each_release(state: ModelState) -> None:
    in_step_1(state)
    salt = state.peek().salt
    state.roll_back("second")
    state.reserve_slot("third")
    assert salt != state.peek().salt


def test_a_second_release_in_progress_is_refused(state: ModelState) -> None:
    in_step_1(state)
    text = state.path.read_text()
    with pytest.raises(BadRequestError) as refused:
        state.reserve_slot("third")
    assert str(refused.value) == (
        "shop: release third is refused, one release of a model at a time: release second is in "
        "progress (number 2, phase stepping, step 1, 5 % of users), staged by airflow at "
        "2023-11-14T22:13:20.000Z; wait until it is promoted or rolled back (`headrace status` "
        "shows it), or end it with `headrace rollback --model shop --reason WHY`"
    )
    with pytest.raises(BadRequestError, match="release second is in progress"):
        state.demand_free("third")
    state.demand_free("second")
    assert state.path.read_text() == text
    state.roll_back("second")
    state.demand_free("third")


def test_releases_of_two_models_run_side_by_side(tmp_path: Path) -> None:
    for model in ("shop", "search"):
        state = open_state(tmp_path / "state", model, ObjectStore(f"file://{tmp_path}/store"))
        state.reserve_slot(f"{model}-1")
    assert models_with_state(tmp_path / "state") == ["search", "shop"]


def test_a_release_that_was_rolled_back_is_not_staged_again(state: ModelState) -> None:
    in_step_1(state)
    state.roll_back("second", note=Note(why="slow"))
    with pytest.raises(BadRequestError, match=r"rolled_back at sequence 5 \(slow\); trigger a new"):
        state.reserve_slot("second")
    with pytest.raises(BadRequestError, match="has ended"):
        begin(state, 2)


@pytest.mark.parametrize(
    "command",
    (
        pytest.param(lambda state: state.reserve_slot("second"), id="reserve"),
        pytest.param(lambda state: begin(state, 1), id="begin"),
        pytest.param(lambda state: state.pause("second"), id="pause"),
        pytest.param(lambda state: state.lapse("second", 1), id="lapse"),
        pytest.param(lambda state: state.cut("second", 1, numbers={"bad": 7}), id="cut"),
        pytest.param(lambda state: state.roll_back("second"), id="roll back"),
        pytest.param(
            lambda state: state.record_verdict("second", 1, Decision.ROLL_BACK, numbers={}).digest,
            id="judge",
        ),
    ),
)
def test_a_repeated_command_changes_nothing(
    state: ModelState, command: Callable[[ModelState], object]
) -> None:
    in_step_1(state)
    once = command(state)
    text = state.path.read_text()
    assert command(state) == once
    assert state.path.read_text() == text


def test_promotion_again_answers_with_the_first_entry(state: ModelState) -> None:
    first_release(state)
    assert state.promote("first").sequence == 2
    assert kinds(state) == ["slot_reserved", "promoted"]


def test_a_rollback_before_any_slot_changes_nothing(state: ModelState) -> None:
    first_release(state)
    assert state.roll_back("never-staged") is None
    assert kinds(state) == ["slot_reserved", "promoted"]


def test_a_promoted_release_gives_way_to_the_previous_one(state: ModelState) -> None:
    first_release(state)
    state.reserve_slot("second")
    judged(state, 1)
    judged(state, 2)
    judged(state, 3, Decision.SHIP)
    state.promote("second")
    state.roll_back("second", note=Note(who="person ann", why="complaints"))
    champion = state.champion()
    assert champion is not None
    assert champion.release_id == "first"
    with pytest.raises(BadRequestError, match="previous release still loaded, found none"):
        state.roll_back("first")


def test_another_plan_in_the_middle_of_a_release_is_refused(state: ModelState) -> None:
    in_step_1(state)
    state.record_verdict("second", 1, Decision.PROCEED, numbers={})
    with pytest.raises(BadRequestError, match="fixed by its release request"):
        state.begin_step("second", 2, PLANS["day"], per_try_timeout_ms=50)


def test_renewal_moves_the_expiry_and_writes_no_ledger(state: ModelState) -> None:
    in_step_1(state)
    before = state.peek()
    later = replace(state, clock=lambda: 1_700_000_100.0)
    assert later.renew("second", 30) is Phase.STEPPING
    record = state.peek()
    assert record.lease.renewals == before.lease.renewals + 1
    assert record.lease.expires_at == 1_700_000_130.0
    assert record.sequence == before.sequence


def test_a_lapse_pauses_at_nothing_and_renewal_resumes(state: ModelState) -> None:
    in_step_1(state)
    assert state.lapse("second", state.peek().lease.renewals) is Phase.PAUSED
    assert state.peek().status.share == 0
    assert state.renew("second", 30) is Phase.STEPPING
    assert state.peek().status.share == 500
    assert kinds(state)[-2:] == ["paused", "resumed"]


def test_a_persons_pause_keeps_who_and_why_and_no_task_ends_it(state: ModelState) -> None:
    in_step_1(state)
    ann = Note(who="person ann", why="I saw something")
    assert state.pause("second", note=ann) is Phase.PAUSED
    entry = state.history()[-1]
    assert (entry.kind, entry.who, entry.why) == ("paused", "person ann", "I saw something")
    assert entry.details == {"paused_by": "person"}
    assert begin(state, 1) == entry.sequence - 1  # its task runs again
    assert state.renew("second", 30) is Phase.PAUSED
    assert (state.peek().status.share, state.peek().sequence) == (0, entry.sequence)
    assert state.resume("second", note=ann) is Phase.STEPPING
    assert state.peek().status.share == 500


def test_the_step_after_a_persons_pause_begins_paused(state: ModelState) -> None:
    in_step_1(state)
    state.pause("second")
    state.record_verdict("second", 1, Decision.PROCEED, numbers={})
    begin(state, 2)
    began = state.history()[-1]
    assert (began.kind, began.step, began.share) == ("step_began", 2, 0)
    assert state.peek().status.phase is Phase.PAUSED
    state.resume("second")
    assert (state.peek().status.step, state.peek().status.share) == (2, 2500)


@pytest.mark.parametrize(
    ("phase", "lapsed", "verdicts", "by"),
    (
        pytest.param("paused", True, {}, Pause.LEASE, id="paused by a lapse"),
        pytest.param("paused", False, {}, Pause.PERSON, id="paused by somebody: take no chances"),
        pytest.param("paused", False, {"1": "roll_back"}, Pause.VERDICT, id="cut"),
        pytest.param("stepping", False, {}, None, id="not paused"),
    ),
)
def test_a_record_of_the_format_before_says_by_whom_it_was(
    state: ModelState, phase: str, lapsed: bool, verdicts: dict[str, str], by: Pause | None
) -> None:
    in_step_1(state)
    record = json.loads(state.path.read_text()) | {"format": "rollout_state/3"}
    del record["status"]["paused_by"]
    record["status"] |= {"phase": phase, "paused_by_lease": lapsed, "verdicts": verdicts}
    state.path.write_text(json.dumps(record))
    assert state.peek().status.paused_by is by


def test_a_lapse_of_a_lease_that_was_renewed_meanwhile_is_none(state: ModelState) -> None:
    in_step_1(state)
    old = state.peek().lease.renewals
    state.renew("second", 30)
    assert state.lapse("second", old) is Phase.STEPPING


def test_a_cut_keeps_its_numbers_and_the_judge_who_comes_later_is_told(state: ModelState) -> None:
    in_step_1(state)
    keeper = Note(who="keeper", why="errors: 7 of 9")
    assert state.cut("second", 1, numbers={"bad": 7}, note=keeper) is Phase.PAUSED
    last = state.history()[-1]
    assert (last.kind, last.who, last.why, last.share) == ("cut", "keeper", "errors: 7 of 9", 0)
    assert last.details == {"bad": 7}
    for decision in (Decision.PROCEED, Decision.ROLL_BACK):
        with pytest.raises(BadRequestError, match=r"was cut by keeper .* errors: 7 of 9; roll"):
            state.record_verdict("second", 1, decision, numbers={})
    assert state.renew("second", 30) is Phase.PAUSED
    with pytest.raises(BadRequestError, match="verdict on step 1"):
        state.resume("second")
    assert state.roll_back("second") is not None
    assert state.verify() == []


def test_a_cut_of_a_release_that_ended_meanwhile_changes_nothing(state: ModelState) -> None:
    in_step_1(state)
    state.roll_back("second")
    text = state.path.read_text()
    assert state.cut("second", 1, numbers={}) is Phase.SERVING
    assert state.path.read_text() == text


def test_renewing_for_another_release_changes_nothing(state: ModelState) -> None:
    in_step_1(state)
    text = state.path.read_text()
    state.renew("third", 30)
    assert state.path.read_text() == text


def test_fifty_threads_that_promote_write_one_entry(state: ModelState) -> None:
    state.reserve_slot("first", bundle=BUNDLE)
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(lambda _: state.promote("first").digest, range(50)))
    assert len(set(found)) == 1
    assert kinds(state) == ["slot_reserved", "promoted"]
    assert state.verify() == []


def _reserve(folder: str, number: int) -> str:
    try:
        a_state(Path(folder)).reserve_slot(f"release-{number}")
    except BadRequestError:
        return "refused"
    return "reserved"


def test_of_fifty_releases_in_four_processes_one_gets_the_slot(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = pool.starmap(_reserve, [(str(tmp_path), number) for number in range(50)])
    assert Counter(found) == {"reserved": 1, "refused": 49}
    assert a_state(tmp_path).verify() == []


def test_a_ledger_object_that_a_crash_left_out_is_written_by_the_next_reader(
    state: ModelState,
) -> None:
    replace(state, store=None).reserve_slot("first")  # the write decides, the ledger is behind
    assert list(state.store.list("ledger")) == []  # type: ignore[union-attr]
    assert state.verify() == []  # the record decides, and still holds the entry
    state.read()
    assert state.verify() == []


def test_several_entries_without_a_store_are_all_caught_up(state: ModelState) -> None:
    in_step_1(state)
    without = replace(state, store=None)
    without.lapse("second", 1)
    without.renew("second", 30)
    without.lapse("second", 2)
    assert kinds(state)[-3:] == ["paused", "resumed", "paused"]
    assert state.verify() == []


class AwayStore(ObjectStore):
    def put_if_absent(self, path: str, data: bytes) -> bool:
        message = "the store is away"
        raise StoreUnavailableError(message)


def test_a_rollback_does_not_wait_for_a_store_that_is_away(state: ModelState) -> None:
    in_step_1(state)
    away = replace(state, store=AwayStore(state.store.url))  # type: ignore[union-attr]
    assert away.roll_back("second") is not None
    assert state.peek().status.phase is Phase.SERVING
    assert kinds(state)[-1] == "rolled_back"
    assert state.verify() == []


class WatchedStore(ObjectStore):
    """Tells what is written, at the moment when it is."""

    def __init__(self, url: str, tell: Callable[[str], None]) -> None:
        super().__init__(url)
        self.tell = tell

    def put_if_absent(self, path: str, data: bytes) -> bool:
        self.tell(path)
        return super().put_if_absent(path, data)


def watched(state: ModelState, tell: Callable[[str], None]) -> ModelState:
    assert state.store is not None
    return replace(state, store=WatchedStore(state.store.url, tell))


def test_users_are_out_before_the_ledgers_object_is_written(state: ModelState) -> None:
    in_step_1(state)
    shares: list[int] = []
    slow = watched(state, lambda _: shares.append(state.peek().status.share))
    slow.record_verdict("second", 1, Decision.ROLL_BACK, numbers={})
    assert shares == [0]


def test_a_lease_lapses_while_somebody_waits_for_the_store(state: ModelState) -> None:
    in_step_1(state)
    without, phases = replace(state, store=None), []

    def lapse_meanwhile(_path: str) -> None:
        if not phases:  # a lock that is held here would be waited for until the test's limit
            with ThreadPoolExecutor(1) as pool:
                phases.append(pool.submit(without.lapse, "second", 1).result(timeout=5))

    judging = watched(state, lapse_meanwhile)
    judging.record_verdict("second", 1, Decision.PROCEED, numbers={})
    assert phases == [Phase.PAUSED]
    assert kinds(state)[-2:] == ["judged", "paused"]
    assert state.verify() == []


def test_each_entry_is_sent_to_the_ledger_once(state: ModelState) -> None:
    sent: list[str] = []
    telling = watched(state, sent.append)
    in_step_1(telling)
    telling.record_verdict("second", 1, Decision.PROCEED, numbers={})
    telling.record_verdict("second", 1, Decision.PROCEED, numbers={})
    telling.read()
    assert sent == [entry_path("shop", number) for number in range(1, 6)]


def test_a_pause_that_the_ledger_does_not_hold_yet_is_no_cut_tail(state: ModelState) -> None:
    in_step_1(state)
    replace(state, store=None).lapse("second", 1)
    assert state.verify() == []
    Path(str(state.store.url).removeprefix("file://"), entry_path("shop", 4)).unlink()  # type: ignore[union-attr]
    assert state.verify() == ["ledger/shop/00000004.json: missing (deleted)"]


class RefusingStore(ObjectStore):
    def put_if_absent(self, path: str, data: bytes) -> bool:
        message = "the store refuses these credentials"
        raise BadRequestError(message)


def refusing(state: ModelState) -> ModelState:
    return replace(state, store=RefusingStore(state.store.url))  # type: ignore[union-attr]


def test_a_rollback_does_not_wait_for_a_right_to_write(state: ModelState) -> None:
    in_step_1(state)
    assert refusing(state).roll_back("second") is not None
    assert state.peek().status.phase is Phase.SERVING
    assert kinds(state)[-1] == "rolled_back"
    assert state.verify() == []


def test_who_may_only_read_reads_the_history(state: ModelState) -> None:
    in_step_1(state)
    assert kinds(refusing(state)) == kinds(state)


def test_who_may_only_read_is_told_where_an_entry_is_left_to_write(state: ModelState) -> None:
    replace(state, store=None).reserve_slot("first")
    with pytest.raises(BadRequestError, match="refuses these credentials"):
        kinds(refusing(state))


def test_a_foreign_object_in_the_ledgers_place_is_found(state: ModelState) -> None:
    assert state.store is not None
    state.store.put_if_absent(entry_path("shop", 1), b"foreign")
    state.reserve_slot("first")
    with pytest.raises(CorruptArtifactError, match="00000001"):
        state.read()
    assert "edited" in state.verify()[0]


def test_a_killed_writer_leaves_the_old_record(state: ModelState) -> None:
    first_release(state)
    text = state.path.read_text()
    (state.folder / ".state.json.1.abc").write_text("half a rec")
    assert state.path.read_text() == text
    assert state.champion() is not None


@pytest.mark.parametrize("name", ("", "Shop", "a/b", "../x", "a" * 41))
def test_strange_model_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRequestError, match="model: expected a name"):
        open_state(tmp_path, name)


def test_a_record_of_a_newer_format_is_refused(state: ModelState) -> None:
    first_release(state)
    state.path.write_text(state.path.read_text().replace("rollout_state/4", "rollout_state/5"))
    with pytest.raises(BadRequestError, match="written by a newer Headrace"):
        state.peek()


def test_three_colours_go_round(state: ModelState) -> None:
    def release(name: str, number: int) -> Colour:
        colour, found = state.reserve_slot(name)
        assert found == number
        for step, said in ((1, Decision.PROCEED), (2, Decision.PROCEED), (3, Decision.SHIP)):
            begin(state, step, name)
            state.record_verdict(name, step, said, numbers={})
        state.promote(name)
        return colour

    first_release(state)
    found = [release(f"r{number}", number) for number in range(2, 6)]
    assert found == [Colour.GREEN, Colour.VIOLET, Colour.BLUE, Colour.GREEN]


def _all_files(folder: Path) -> Iterable[Path]:
    return (Path(root) / name for root, _, names in os.walk(folder) for name in names)


def test_no_scratch_file_is_left(state: ModelState, tmp_path: Path) -> None:
    in_step_1(state)
    assert [path.name for path in _all_files(tmp_path) if path.name.startswith(".")] == []


@pytest.mark.parametrize("holds", ("nothing", "another ledger"))
def test_a_store_that_holds_another_ledger_gets_no_entry(
    state: ModelState, tmp_path: Path, holds: str
) -> None:
    first_release(state)
    other = ObjectStore(f"file://{tmp_path}/other")
    if holds == "another ledger":
        theirs = open_state(tmp_path / "their-state", "shop", other)
        theirs.reserve_slot("theirs")
        theirs.promote("theirs")
    before = {path: other.read(path) for path in other.list("ledger")}
    elsewhere = replace(state, store=other)
    elsewhere.reserve_slot("second")
    elsewhere.history()
    assert {path: other.read(path) for path in other.list("ledger")} == before
    held = elsewhere.held_back()
    assert held is not None
    assert (held.sequence, held.kind) == (3, "slot_reserved")
    assert state.held_back() is None
    state.roll_back("second")
    assert state.verify() == []
    assert state.peek().unwritten == ()
