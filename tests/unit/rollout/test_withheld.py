"""A lapse or a cut that cannot be written takes users away all the same, and is written later."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tasks.contracts.errors import BadRequestError, StoreUnavailableError
from tasks.contracts.log_lines import LineLog, Subject
from tasks.contracts.record_store import TextChange
from tasks.contracts.requests import PLANS
from tasks.rollout import keeper as keeper_module
from tasks.rollout.file_records import FileRecords
from tasks.rollout.keeper import Keeper, LeaseWatch
from tasks.rollout.phases import Decision, Phase
from tasks.rollout.record import Colour, StateRecord
from tasks.rollout.state import ModelState, open_state
from tasks.rollout.withheld import WithheldKind, WithheldShares
from tests.unit.rollout.test_keeper import Clock, FakeEnvoy, FakeProbes

PLAN = PLANS["replay"]
HOST = "headrace-{model}-{colour}.prod.svc"
CANDIDATE = "ConsistentHashing"  # only routes that a bucket chooses lead to the candidate


class SometimesAway(FileRecords):
    """Files that can be read and, while `away`, not be changed."""

    away: bool = False

    def update(self, model: str, change: TextChange) -> None:
        if type(self).away:
            raise StoreUnavailableError("the API is away")
        super().update(model, change)


class World:
    def __init__(self, folder: Path) -> None:
        SometimesAway.away = False
        self.folder, self.clock, self.wall = folder, Clock(), Clock(1_700_000_000.0)
        self.records = SometimesAway(state_dir=folder / "state")
        self.envoy = FakeEnvoy()
        self.said: list[str] = []
        self.broken: set[Colour] = set()
        self.state.reserve_slot("first")
        self.state.promote("first")
        self.state.reserve_slot("second")
        self.state.begin_step("second", 1, PLAN, per_try_timeout_ms=50)
        self.live_again()

    def live_again(self) -> None:
        """Give the router another keeper, which knows what lies on its disk."""
        self.keeper = Keeper(
            state_dir=self.folder / "state",
            records=self.records,
            router_dir=self.folder / "router",
            slot_host=HOST,
            watch=LeaseWatch(monotonic=self.clock, wall=self.wall),
            probes=FakeProbes(broken=self.broken, well=set()),
            say=self.said.append,
            statistics=lambda _files: self.envoy.statistics(),
        )

    @property
    def state(self) -> ModelState:
        return open_state(self.folder / "state", "shop", clock=self.wall, records=self.records)

    @property
    def phase(self) -> Phase:
        return self.state.peek().status.phase

    def turn(self, seconds: float = 0.0) -> bool:
        """Return whether the routes lead anybody to the candidate after a turn."""
        self.clock.now += seconds
        self.wall.now += seconds
        self.keeper.turn()
        return CANDIDATE in (self.folder / "router" / "routes.json").read_text()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_slots_are_found_by_name_and_routes_lie_in_the_routers_own_folder(world: World) -> None:
    assert world.turn()
    clusters = (world.folder / "router" / "clusters.json").read_text()
    assert '"headrace-shop-green.prod.svc"' in clusters
    assert not (world.folder / "state" / "router").exists()


def test_a_lapse_that_cannot_be_written_takes_users_away_and_is_written_later(
    world: World,
) -> None:
    assert world.turn()
    SometimesAway.away = True
    assert not world.turn(601)
    assert world.phase is Phase.STEPPING
    assert any("what the record lacks yet: the API is away" in one for one in world.said)
    SometimesAway.away = False
    assert not world.turn(0.5)
    assert world.phase is Phase.STEPPING  # it is tried once a second
    assert not world.turn(0.6)
    assert world.phase is Phase.PAUSED
    assert not world.turn()


def test_a_renewal_brings_back_users_of_a_lapse_that_was_never_written(world: World) -> None:
    world.turn()
    SometimesAway.away = True
    assert not world.turn(601)
    SometimesAway.away = False
    world.state.renew("second", 600)
    assert world.turn()
    assert world.phase is Phase.STEPPING


def test_a_renewal_does_not_bring_back_users_of_a_cut_that_was_not_written_yet(
    world: World,
) -> None:
    world.turn()
    SometimesAway.away = True
    for _ in range(20):
        world.envoy.asked += 100
        world.envoy.failed += 50
        reached = world.turn(0.25)
    assert not reached
    SometimesAway.away = False
    world.state.renew("second", 600)
    assert not world.turn(0.1)
    assert not world.turn(1.1)
    assert world.state.peek().status.verdicts == {1: Decision.ROLL_BACK}


def test_a_cut_takes_users_away_beside_a_slot_that_broke_meanwhile(
    world: World,
) -> None:
    """A candidate that crashes also falls silent, and neither can be written."""
    world.turn()
    SometimesAway.away = True
    world.broken.add(Colour.GREEN)
    for _ in range(20):
        world.envoy.asked += 100
        world.envoy.failed += 50
        reached = world.turn(0.25)
    assert not reached
    SometimesAway.away = False
    assert not world.turn(1.1)
    assert not world.turn()
    assert world.state.peek().status.verdicts == {1: Decision.ROLL_BACK}
    assert world.state.peek().unready == (Colour.GREEN,)


def test_a_cut_is_written_though_another_router_paused_the_step_meanwhile(world: World) -> None:
    world.turn()
    SometimesAway.away = True
    for _ in range(20):
        world.envoy.asked += 100
        world.envoy.failed += 50
        world.turn(0.25)
    SometimesAway.away = False
    world.state.look([Colour.GREEN])
    assert not world.turn(1.1)
    assert world.state.peek().status.verdicts == {1: Decision.ROLL_BACK}


class Hanging(SometimesAway):
    """Files whose changes of one model hang until somebody lets them go."""

    def __init__(self, folder: Path, seen: list[bool]) -> None:
        super().__init__(state_dir=folder / "state")
        self.go, self.asked, self.done = [threading.Event() for _ in range(3)]
        self.folder, self.seen = folder, seen

    def update(self, model: str, change: TextChange) -> None:
        if model == "shop":
            self.seen.append(CANDIDATE in (self.folder / "router" / "routes.json").read_text())
            self.asked.set()
            assert self.go.wait(20)
        super().update(model, change)
        self.done.set()


@pytest.fixture
def hanging(world: World) -> Iterator[Hanging]:
    """Give the world's keeper records that hang, and threads to write in."""
    hanging = Hanging(world.folder, seen=[])
    with ThreadPoolExecutor(2) as threads:
        world.keeper = replace(world.keeper, records=hanging, start_write=threads.submit)
        yield hanging
        hanging.go.set()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_cut_reaches_the_routes_before_an_api_that_hangs_answers(
    world: World, hanging: Hanging
) -> None:
    assert world.turn()
    for _ in range(20):
        world.envoy.asked += 100
        world.envoy.failed += 50
        reached = world.turn(0.25)
    assert not reached
    assert hanging.asked.wait(20)
    assert hanging.seen == [False]  # one write, begun when Envoy had been told
    assert world.phase is Phase.STEPPING
    hanging.go.set()
    until(lambda: world.state.peek().status.verdicts == {1: Decision.ROLL_BACK})
    assert not world.turn()


def test_a_model_whose_record_hangs_holds_up_no_other(world: World, hanging: Hanging) -> None:
    travel = open_state(world.folder / "state", "travel", clock=world.wall, records=world.records)
    for release_id in ("first", "second"):
        travel.reserve_slot(release_id)
        if release_id == "first":
            travel.promote(release_id)
    travel.begin_step("second", 1, PLAN, per_try_timeout_ms=50)
    world.turn()
    world.broken.add(Colour.GREEN)  # of the shop
    world.turn()
    assert hanging.asked.wait(20)
    assert not world.turn(601)
    until(lambda: travel.peek().status.phase is Phase.PAUSED)
    assert world.phase is Phase.STEPPING
    hanging.go.set()
    until(lambda: world.state.peek().unready == (Colour.GREEN,))


def test_a_cut_that_the_api_refuses_takes_users_away_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.turn()

    def refuse(_records: FileRecords, model: str, _change: TextChange) -> None:
        message = f"update {model}: refused with 403"
        raise BadRequestError(message)

    monkeypatch.setattr(SometimesAway, "update", refuse)
    for _ in range(20):
        world.envoy.asked += 100
        world.envoy.failed += 50
        reached = world.turn(0.25)
    assert not reached
    assert len([one for one in world.said if "refused with 403" in one]) == 1


def test_an_api_that_is_away_is_said_once_though_its_words_differ(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.turn()
    tries = iter(range(1000))

    def away(_records: FileRecords, _model: str, _change: TextChange) -> None:
        message = f"no connection at 0x{next(tries)}"
        raise StoreUnavailableError(message)

    monkeypatch.setattr(SometimesAway, "update", away)
    world.broken.add(Colour.GREEN)
    for _ in range(40):
        world.turn(0.25)
    assert next(tries) == 10  # once a second
    assert len([one for one in world.said if "no connection" in one]) == 1
    assert len([one for one in world.said if "slots that do not answer" in one]) == 1


def test_a_cut_that_was_decided_while_a_lapse_was_on_its_way_is_written_after_it(
    world: World,
) -> None:
    record = world.state.peek()
    withheld = WithheldShares()
    withheld.lapsed(record)
    lapse = withheld.waiting()["shop"]
    withheld.cut(record, "it harms", {})
    withheld.written("shop", lapse)
    cut = withheld.waiting()["shop"]
    assert cut.kind is WithheldKind.CUT
    withheld.written("shop", cut)
    assert withheld.routed(record) is record


def test_a_lapse_takes_users_away_beside_a_slot_that_broke_meanwhile(world: World) -> None:
    world.turn()
    SometimesAway.away = True
    world.broken.add(Colour.GREEN)
    assert not world.turn(601)


def next_step(world: World) -> StateRecord:
    """Go on to the second step, as Airflow does that knows of no cut."""
    world.state.record_verdict("second", 1, Decision.PROCEED, numbers={})
    world.state.begin_step("second", 2, PLAN, per_try_timeout_ms=50)
    return world.state.peek()


def test_a_lapse_of_one_step_is_forgotten_with_the_step(world: World) -> None:
    withheld = WithheldShares()
    record = world.state.peek()
    withheld.lapsed(record)
    assert withheld.routed(record).status.share == 0
    later = next_step(world)
    assert withheld.routed(later) == later


def harm(world: World) -> None:
    for _ in range(20):
        world.envoy.asked += 100
        world.envoy.failed += 50
        reached = world.turn(0.25)
    assert not reached


def test_a_cut_that_could_not_be_written_cuts_the_step_that_began_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever judges may write where this router's keeper may not."""
    world.turn()
    with monkeypatch.context() as refusing:

        def refuse(_records: FileRecords, model: str, _change: TextChange) -> None:
            message = f"update {model}: refused with 403"
            raise BadRequestError(message)

        refusing.setattr(SometimesAway, "update", refuse)
        harm(world)
    next_step(world)
    assert not world.turn(1.1)
    world.turn()
    verdicts = world.state.peek().status.verdicts
    assert verdicts == {1: Decision.PROCEED, 2: Decision.ROLL_BACK}
    assert world.state.history()[-1].kind == "cut"


def test_a_keepers_next_life_writes_the_cut_that_the_last_one_could_not(world: World) -> None:
    world.turn()
    SometimesAway.away = True
    harm(world)
    SometimesAway.away = False
    world.envoy = FakeEnvoy()  # nothing harms any more
    world.live_again()
    assert not world.turn()
    entry = world.state.history()[-1]
    assert (entry.kind, entry.who) == ("cut", "keeper")
    assert "requests that met the candidate" in entry.why
    assert entry.details["events"]
    world.live_again()
    assert not world.turn()
    assert world.state.history()[-1] == entry


def test_a_renewal_ends_a_lapse_that_a_keepers_last_life_could_not_write(world: World) -> None:
    world.turn()
    SometimesAway.away = True
    assert not world.turn(601)
    SometimesAway.away = False
    world.state.renew("second", 600)
    world.live_again()
    assert world.turn()
    assert world.phase is Phase.STEPPING


def test_a_keepers_next_life_gives_a_lease_no_new_time_though_its_record_came_late(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.turn()
    world.live_again()
    with monkeypatch.context() as late:
        late.setattr(SometimesAway, "models", lambda _records: [])
        world.turn(590)
    assert world.turn(5)
    assert not world.turn(6)
    assert world.phase is Phase.PAUSED


def test_a_look_that_waited_writes_what_is_seen_by_then(world: World, hanging: Hanging) -> None:
    world.turn()
    world.broken.add(Colour.BLUE)  # stable's: users would be moved to the candidate
    world.turn()
    assert hanging.asked.wait(20)
    world.broken.clear()
    world.turn()
    hanging.go.set()
    assert hanging.done.wait(20)
    assert world.turn()
    assert (world.phase, world.state.peek().unready) == (Phase.STEPPING, ())
    assert "halted" not in [entry.kind for entry in world.state.history()]


@pytest.mark.parametrize("harms", (True, False))
def test_a_look_that_waited_does_not_halt_onto_a_candidate_that_nobody_is_to_meet(
    world: World, hanging: Hanging, *, harms: bool
) -> None:
    """Stable is silent for a while, and meanwhile the candidate is cut, or its lease lapses."""
    world.turn()
    world.broken.add(Colour.BLUE)
    world.turn()
    assert hanging.asked.wait(20)
    if harms:
        harm(world)
    else:
        assert not world.turn(601)
    world.broken.clear()
    assert not world.turn(0.1)
    hanging.go.set()
    assert hanging.done.wait(20)
    until(lambda: not world.turn(1.1) and world.phase is Phase.PAUSED)
    assert world.state.peek().status.verdicts == ({1: Decision.ROLL_BACK} if harms else {})
    assert "halted" not in [entry.kind for entry in world.state.history()]


def test_what_lands_beside_the_turns_goes_on_where_its_fault_cannot_be_logged() -> None:
    """One disk is full, and holds the log too."""
    stop, tried = threading.Event(), threading.Semaphore(0)

    def full(_line: object = None) -> None:
        tried.release()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log = LineLog(subject=Subject(process="keeper"), speak=full)
    turns = partial(keeper_module._turn_until, stop, 0.01, [full], log)
    with ThreadPoolExecutor(1) as beside:
        ended = beside.submit(turns)
        assert all(tried.acquire(timeout=20) for _ in range(5))
        stop.set()
        ended.result(20)


def test_a_state_folder_that_hangs_holds_up_no_cut(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def hang(_path: Path) -> bytes:
        assert go.wait(20)
        raise FileNotFoundError

    monkeypatch.setattr(keeper_module, "_shadow_text", hang)
    with ThreadPoolExecutor(1) as reader:
        world.keeper = replace(world.keeper, start_read=reader.submit)
        world.turn()
        harm(world)
        assert world.state.peek().status.verdicts == {1: Decision.ROLL_BACK}
        go.set()
