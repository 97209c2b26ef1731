from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import PLANS
from tasks.rollout.envoy import write_bootstrap
from tasks.rollout.envoy_stats import SlotCounts, Statistics, VariantCounts, VariantName
from tasks.rollout.file_records import FileRecords
from tasks.rollout.harm import Harm
from tasks.rollout.harm_watch import HarmWatch
from tasks.rollout.keeper import Keeper, LeaseWatch, demand_folders
from tasks.rollout.phases import Decision, Phase
from tasks.rollout.readiness import SlotProbes
from tasks.rollout.record import Colour, StateRecord
from tasks.rollout.renew_lease import main as renew
from tasks.rollout.routes import RoutedModel
from tasks.rollout.shadow_routes import ShadowAddress
from tasks.rollout.state import ModelState, open_state

PLAN = PLANS["replay"]  # lease of 600 s
PORTS = {"blue": (1, 2), "green": (3, 4), "violet": (5, 6)}


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeEnvoy:
    """Counts requests as Envoy does: all answered within 10 ms, some tries given up."""

    asked: int = 0
    failed: int = 0
    number: int = 2

    def statistics(self) -> Statistics:
        def counts(number: int, variant: str, **others: int) -> dict[VariantName, VariantCounts]:
            name = VariantName(model="shop", variant=variant, release_number=number)
            return {
                name: VariantCounts(
                    completed=self.asked, within_ms={10.0: self.asked, 1000.0: self.asked}, **others
                )
            }

        return Statistics(
            variants={
                **counts(1, "stable"),
                **counts(self.number, "candidate", retried=self.failed),
            },
            slots={("shop", Colour.GREEN): SlotCounts(asked=self.asked)},
        )


@dataclass(kw_only=True)
class FakeProbes(SlotProbes):
    """Asks nobody."""

    broken: set[Colour]
    well: set[Colour]

    def watch(self, models: Iterable[RoutedModel]) -> None:
        pass

    def unready(self, model: str) -> frozenset[Colour]:
        return frozenset(self.broken) if model == "shop" else frozenset()

    def ready(self, model: str) -> frozenset[Colour]:
        return frozenset(self.well) if model == "shop" else frozenset()


@dataclass
class World:
    folder: Path
    monotonic: Clock
    wall: Clock
    state: ModelState
    said: list[str]
    broken: set[Colour] = field(default_factory=set)
    well: set[Colour] = field(default_factory=set)

    def keeper(self, envoy: FakeEnvoy | None = None) -> Keeper:
        """Return a keeper that knows of the slots what the test says."""
        probes = FakeProbes(broken=self.broken, well=self.well)
        watch = LeaseWatch(monotonic=self.monotonic, wall=self.wall)
        return Keeper(
            state_dir=self.folder,
            watch=watch,
            probes=probes,
            say=self.said.append,
            cry=self.said.append,
            statistics=lambda _files: None if envoy is None else envoy.statistics(),
        )

    def record(self) -> StateRecord:
        return self.state.peek()

    def both(self, seconds: float) -> None:
        self.monotonic.now += seconds
        self.wall.now += seconds


@pytest.fixture
def world(tmp_path: Path) -> World:
    wall = Clock(1_700_000_000.0)
    state = open_state(tmp_path, "shop", clock=wall)
    state.reserve_slot("first")
    state.promote("first")
    slots = {colour: {"grpc": grpc, "rest": rest} for colour, (grpc, rest) in PORTS.items()}
    text = json.dumps({"format": "slots/1", "model": "shop", "slots": slots})
    (tmp_path / "shop" / "slots.json").write_text(text)
    return World(folder=tmp_path, monotonic=Clock(), wall=wall, state=state, said=[])


def stepping(world: World) -> None:
    world.state.reserve_slot("second")
    world.state.begin_step("second", 1, PLAN, per_try_timeout_ms=50)


def test_a_keeper_starts_without_what_takes_seconds_to_load() -> None:
    """It is started again when it dies: until then nobody cuts and no lease is measured."""
    code = "import sys, tasks.rollout.keeper; print('scipy.stats' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_envoy_is_told_only_what_is_new(world: World) -> None:
    keeper = world.keeper()
    assert keeper.turn() is True
    assert keeper.turn() is False
    stepping(world)
    assert keeper.turn() is True


def test_a_keepers_next_life_leaves_the_routes_until_it_has_seen_all_records(world: World) -> None:
    world.keeper().turn()
    routes = world.folder / "router" / "routes.json"
    before = routes.read_text()
    unseen = ["shop"]
    following = world.keeper()
    following.unseen = lambda: unseen
    following.records = FileRecords(state_dir=world.folder / "not seen yet")
    assert following.turn() is False
    assert routes.read_text() == before
    assert following.turn() is False
    assert world.said == ["keeper: Envoy keeps its routes until the records of ['shop'] are seen"]
    unseen.clear()
    following.records = None
    stepping(world)
    assert following.turn() is True
    assert "r2" in routes.read_text()


def test_a_lease_lives_as_long_as_it_says_and_not_longer(world: World) -> None:
    stepping(world)
    keeper = world.keeper()
    keeper.turn()
    world.both(599)
    keeper.turn()
    assert world.record().status.phase is Phase.STEPPING
    world.both(1)
    keeper.turn()
    assert world.record().status.phase is Phase.PAUSED
    assert "r2" not in (world.folder / "router" / "routes.json").read_text()
    assert "lapsed" in world.said[0]


def test_a_renewal_starts_the_lease_again(world: World) -> None:
    stepping(world)
    keeper = world.keeper()
    keeper.turn()
    world.both(590)
    world.state.renew("second", 600)
    keeper.turn()
    world.both(590)
    keeper.turn()
    assert world.record().status.phase is Phase.STEPPING


def test_a_wall_clock_that_jumps_ends_no_lease(world: World) -> None:
    stepping(world)
    keeper = world.keeper()
    keeper.turn()
    world.wall.now += 86_400
    keeper.turn()
    assert world.record().status.phase is Phase.STEPPING


def test_a_keeper_that_starts_again_gives_no_lease_all_its_time_anew(world: World) -> None:
    stepping(world)
    world.keeper().turn()
    world.both(590)
    keeper = world.keeper()
    keeper.turn()
    world.both(11)
    keeper.turn()
    assert world.record().status.phase is Phase.PAUSED


def test_a_lease_after_another_rollouts_is_measured_from_its_own_start(world: World) -> None:
    stepping(world)
    keeper = world.keeper()
    keeper.turn()
    world.both(590)
    world.state.roll_back("second")
    keeper.turn()
    world.state.reserve_slot("third")
    world.state.begin_step("third", 1, PLAN, per_try_timeout_ms=50)
    keeper.turn()
    world.both(590)
    keeper.turn()
    assert world.record().status.phase is Phase.STEPPING


def keep(world: World, keeper: Keeper, envoy: FakeEnvoy, turns: int, **each: int) -> None:
    for _ in range(turns):
        envoy.asked += each.get("asked", 12)
        envoy.failed += each.get("failed", 0)
        world.both(0.25)
        keeper.turn()


def test_a_candidate_that_begins_to_fail_is_cut_with_its_numbers(world: World) -> None:
    stepping(world)
    envoy = FakeEnvoy()
    keeper = world.keeper(envoy)
    keep(world, keeper, envoy, 40)
    assert world.record().status.share == 500
    keep(world, keeper, envoy, 3, failed=10)
    record = world.record()
    assert (record.status.phase, record.status.share) == (Phase.PAUSED, 0)
    assert "r2" not in (world.folder / "router" / "routes.json").read_text()
    entry = record.entries[-1]
    assert (entry.kind, entry.who, entry.details["check"]) == ("cut", "keeper", "errors")
    assert entry.why.startswith("errors: ")
    assert "was cut to 0 %" in world.said[0]
    keep(world, keeper, envoy, 3, failed=10)
    assert world.record().sequence == record.sequence


def test_a_new_keeper_goes_on_from_what_envoy_has_counted_by_then(world: World) -> None:
    stepping(world)
    envoy = FakeEnvoy(asked=1000, failed=500)  # long ago, and judged by a keeper that died
    keeper = world.keeper(envoy)
    keep(world, keeper, envoy, 20)
    assert world.record().status.share == 500
    envoy.asked, envoy.failed = 0, 0  # Envoy was started again
    keep(world, keeper, envoy, 20)
    assert world.record().status.share == 500
    keep(world, world.keeper(envoy), envoy, 4, failed=10)
    assert world.record().status.share == 0


def test_an_envoy_that_does_not_answer_cuts_nobody_and_leases_are_kept(world: World) -> None:
    stepping(world)
    keeper = world.keeper()
    keep(world, keeper, FakeEnvoy(), 20)
    assert world.record().status.share == 500
    world.both(600)
    keeper.turn()
    assert world.record().status.phase is Phase.PAUSED


def test_what_the_release_before_did_is_not_held_against_the_next(world: World) -> None:
    stepping(world)
    envoy = FakeEnvoy()
    keeper = world.keeper(envoy)
    keep(world, keeper, envoy, 20)
    world.state.roll_back("second")
    world.state.reserve_slot("third")
    world.state.begin_step("third", 1, PLAN, per_try_timeout_ms=50)
    keep(world, keeper, envoy, 20, failed=10)  # of release 2, whose last answers come late
    assert world.record().status.share == 500
    envoy.number = 3
    keep(world, keeper, envoy, 20, failed=10)
    assert world.record().status.share == 0


def test_a_broken_state_record_keeps_the_models_last_routes(world: World) -> None:
    stepping(world)
    keeper = world.keeper()
    keeper.turn()
    routes = (world.folder / "router" / "routes.json").read_text()
    world.state.path.write_text("{broken")
    assert keeper.turn() is False
    assert keeper.turn() is False
    assert (world.folder / "router" / "routes.json").read_text() == routes
    assert len(world.said) == 1
    assert "state.json" in world.said[0]


def beside(world: World) -> ModelState:
    """Return a second model, in a step of its own."""
    state = open_state(world.folder, "travel", clock=world.wall)
    for release_id in ("first", "second"):
        state.reserve_slot(release_id)
        if release_id == "first":
            state.promote(release_id)
    state.begin_step("second", 1, PLAN, per_try_timeout_ms=50)
    text = (world.folder / "shop" / "slots.json").read_text().replace("shop", "travel")
    (world.folder / "travel" / "slots.json").write_text(text)
    return state


def routes_of(world: World) -> dict[str, str]:
    table = json.loads((world.folder / "router" / "routes.json").read_text())["resources"][0]
    return {host["name"]: json.dumps(host) for host in table["virtual_hosts"]}


def clusters_of(world: World) -> set[str]:
    told = json.loads((world.folder / "router" / "clusters.json").read_text())
    return {cluster["name"] for cluster in told["resources"]}


def test_a_keepers_next_life_carries_over_the_routes_of_a_record_that_it_cannot_read(
    world: World,
) -> None:
    stepping(world)
    travel = beside(world)
    world.keeper().turn()
    before, clusters = routes_of(world), clusters_of(world)
    text = world.state.path.read_text()
    world.state.path.write_text("{broken")
    following = world.keeper()
    assert following.turn() is False
    assert (routes_of(world), clusters_of(world)) == (before, clusters)
    assert following.unread == []
    travel.pause("second")
    assert following.turn() is True  # others go on
    after = routes_of(world)
    assert after["shop"] == before["shop"]
    assert after["travel"] != before["travel"]
    assert clusters_of(world) == clusters
    world.state.path.write_text(text)
    world.state.pause("second")
    following.turn()
    assert "r2" not in routes_of(world)["shop"]


@pytest.mark.parametrize("kept", (None, "", '{"format": "last_routed/1", "models": 3}'))
def test_without_what_was_last_routed_envoy_keeps_its_routes_until_the_record_can_be_read(
    world: World, kept: str | None
) -> None:
    world.keeper().turn()
    before = routes_of(world)
    file = world.folder / "router" / "last_routed.json"
    file.unlink() if kept is None else file.write_text(kept)
    text = world.state.path.read_text()
    world.state.path.write_text("{broken")
    beside(world)
    following = world.keeper()
    assert following.turn() is False
    assert routes_of(world) == before
    assert following.unread == ["shop"]
    assert "Envoy keeps its routes until the records of ['shop'] can be read" in world.said[-1]
    world.state.path.write_text(text)
    assert following.turn() is True
    assert routes_of(world).keys() == {"any", "shop", "travel"}
    assert following.unread == []


def test_a_new_router_routes_the_models_that_it_can_read_and_names_the_others(
    world: World,
) -> None:
    beside(world)
    world.state.path.write_text("{broken")
    keeper = world.keeper()
    write_bootstrap(keeper.files, port=1, admin_port=2, host="127.0.0.1")
    assert keeper.turn() is True
    assert routes_of(world).keys() == {"any", "travel"}
    assert keeper.unread == ["shop"]
    world.state.path.unlink()
    keeper.turn()
    assert keeper.unread == []


def test_a_model_whose_record_was_taken_away_is_not_carried_over(world: World) -> None:
    beside(world)
    world.keeper().turn()
    world.state.path.unlink()
    world.keeper().turn()
    assert routes_of(world).keys() == {"any", "travel"}


@pytest.mark.parametrize(
    ("changed", "said"),
    (
        pytest.param({"lease": {"seconds": "long"}}, "TypeError", id="what nobody foresaw"),
        pytest.param({"lease": {"expires_at": "late"}}, "routes.py", id="no routes can be made"),
        pytest.param({"plan": {"max_error_ratio": 0}}, "0 < max_error_ratio < 1", id="a bad plan"),
    ),
)
def test_a_model_that_the_keeper_fails_at_keeps_its_last_routes_and_others_go_on(
    world: World, changed: dict[str, Any], said: str
) -> None:
    stepping(world)
    travel = beside(world)
    keeper = replace(world.keeper(FakeEnvoy()), dropped_lines=lambda: 5)
    keeper.turn()
    before = routes_of(world)
    record = json.loads(world.state.path.read_text())
    for name, value in changed.items():
        record[name] = {**record[name], **value} if isinstance(value, dict) else value
    record["lease"]["renewals"] += 1
    world.state.path.write_text(json.dumps(record))
    world.both(600)
    for _ in range(3):
        keeper.turn()
        world.both(1)
    assert travel.peek().status.phase is Phase.PAUSED  # its lease lapsed
    after = routes_of(world)
    assert after["shop"] == before["shop"]
    assert after["travel"] != before["travel"]
    assert len([line for line in world.said if line.startswith("keeper: shop: ")]) == 1
    assert said in "".join(world.said)
    counted = (world.folder / "router" / "metrics.prom").read_text()
    assert 'headrace_keeper_failed_looks_total{model="shop"} 3' in counted
    assert 'headrace_keeper_failed_looks_total{model="travel"} 0' in counted
    assert "headrace_dropped_access_lines_total 5" in counted


@dataclass(kw_only=True)
class BrokenWatch(HarmWatch):
    """Cannot judge one model."""

    model: str = "shop"

    def harm(self, record: StateRecord, statistics: Statistics, now_unix: float) -> Harm | None:
        if record.model == self.model and record.status.phase is Phase.STEPPING:
            message = f"found {statistics.slots}"
            raise ValueError(message)
        return super().harm(record, statistics, now_unix)


def test_a_candidate_that_cannot_be_judged_is_paused_and_others_are_judged(world: World) -> None:
    stepping(world)
    travel = beside(world)
    envoy = FakeEnvoy()
    keeper = replace(world.keeper(envoy), harm=BrokenWatch())
    keep(world, keeper, envoy, 8)
    record = world.record()
    assert (record.status.phase, record.status.share) == (Phase.PAUSED, 0)
    entry = record.entries[-1]
    assert (entry.kind, entry.who) == ("paused", "keeper")
    assert entry.why.startswith("it cannot be judged: ValueError: found {")
    assert travel.peek().status.share == 500
    assert "r2" not in routes_of(world)["shop"]
    (cry,) = [line for line in world.said if "Traceback" in line]
    assert "in harm" in cry
    world.state.resume("second")  # a person says that it is mended, and it is not
    keep(world, keeper, envoy, 2)
    assert world.record().status.phase is Phase.PAUSED


def test_a_candidate_that_does_not_answer_gets_nobody_until_it_does_and_a_step_asks(
    world: World,
) -> None:
    stepping(world)
    keeper = world.keeper()
    keeper.turn()
    world.broken.add(Colour.GREEN)
    keeper.turn()
    record = world.record()
    assert (record.status.phase, record.status.share) == (Phase.PAUSED, 0)
    assert "r2" not in (world.folder / "router" / "routes.json").read_text()
    entry = record.entries[-1]
    assert (entry.kind, entry.who, entry.why) == (
        "paused",
        "keeper",
        "the candidate's slot does not answer",
    )
    with pytest.raises(BadRequestError, match="the candidate's slot does not answer"):
        world.state.resume("second")
    world.broken.clear()
    world.well.add(Colour.GREEN)
    keeper.turn()
    assert world.record().status.phase is Phase.PAUSED
    stepping(world)  # its task runs again
    assert world.record().status.share == 500


def test_when_stable_breaks_the_healthy_candidate_takes_everybody_and_is_not_rolled_back(
    world: World,
) -> None:
    stepping(world)
    keeper = world.keeper()
    world.broken.add(Colour.BLUE)
    keeper.turn()
    record = world.record()
    assert (record.status.phase, record.status.share) == (Phase.HALTED, 10_000)
    entry = record.entries[-1]
    assert (entry.kind, entry.why) == ("halted", "stable's slot does not answer")
    with pytest.raises(BadRequestError, match="stable does not answer and the candidate does"):
        world.state.roll_back("second")
    world.broken.clear()
    keeper = world.keeper()  # a new one has heard of no slot yet
    keeper.turn()
    with pytest.raises(BadRequestError, match="stable does not answer and the candidate does"):
        world.state.roll_back("second")
    world.well |= {Colour.BLUE, Colour.GREEN}
    keeper.turn()
    assert world.record().status.phase is Phase.HALTED  # a person must decide
    world.state.roll_back("second")
    assert world.record().status.phase is Phase.SERVING


def test_a_halted_candidate_that_breaks_gives_everybody_back_to_a_healed_stable(
    world: World,
) -> None:
    stepping(world)
    keeper = world.keeper()
    world.broken.add(Colour.BLUE)
    keeper.turn()
    world.broken.symmetric_difference_update({Colour.BLUE, Colour.GREEN})
    world.well.add(Colour.BLUE)
    keeper.turn()
    assert (world.record().status.phase, world.record().status.share) == (Phase.PAUSED, 0)


def test_with_both_slots_broken_nobody_is_sent_to_the_unproven_one(world: World) -> None:
    stepping(world)
    keeper = world.keeper()
    world.broken |= {Colour.BLUE, Colour.GREEN}
    keeper.turn()
    assert (world.record().status.phase, world.record().status.share) == (Phase.PAUSED, 0)


def test_no_step_begins_beside_a_stable_that_does_not_answer(world: World) -> None:
    world.state.reserve_slot("second")
    world.broken.add(Colour.BLUE)
    world.keeper().turn()
    with pytest.raises(BadRequestError, match="stable's slot does not answer"):
        world.state.begin_step("second", 1, PLAN, per_try_timeout_ms=50)


def test_nobody_is_rolled_back_to_a_previous_release_that_does_not_answer(world: World) -> None:
    promoted(world)
    keeper = world.keeper()
    world.broken.add(Colour.BLUE)  # previous by now
    keeper.turn()
    with pytest.raises(BadRequestError, match="previous release's slot to answer"):
        world.state.roll_back("second")
    world.broken.add(Colour.GREEN)
    keeper.turn()
    assert world.state.roll_back("second") is not None  # neither answers: a person decides


def promoted(world: World) -> None:
    stepping(world)
    for step, said in enumerate((Decision.PROCEED, Decision.PROCEED, Decision.SHIP), start=1):
        world.state.begin_step("second", step, PLAN, per_try_timeout_ms=50)
        world.state.record_verdict("second", step, said, numbers={})
    world.state.promote("second")


def test_a_slot_that_gets_another_release_is_not_held_to_the_one_before(world: World) -> None:
    promoted(world)
    world.broken.add(Colour.BLUE)
    world.keeper().turn()
    world.state.roll_back("third")
    assert world.record().unready == (Colour.BLUE,)
    world.state.reserve_slot("third")  # violet
    world.state.roll_back("third")
    world.state.reserve_slot("fourth")
    assert world.record().unready == (Colour.BLUE,)


def test_a_model_without_slots_has_no_routes_yet(world: World) -> None:
    (world.folder / "shop" / "slots.json").unlink()
    world.keeper().turn()
    assert "shop.headrace" not in (world.folder / "router" / "routes.json").read_text()


def test_a_keeper_reads_where_the_comparator_listens_from_the_file_that_it_was_told(
    world: World,
) -> None:
    stepping(world)
    keeper, file = world.keeper(), world.folder / "told.json"
    keeper.shadow_file = file
    beside = ShadowAddress(port=9, percent=5.0)
    keeper.files.folder.mkdir(exist_ok=True)
    keeper.files.shadow.write_text(beside.to_text())  # of another comparator
    keeper.turn()
    assert "request_mirror_policies" not in keeper.files.routes.read_text()
    file.write_text(ShadowAddress(host="headrace-shadow", port=1, percent=5.0).to_text())
    keeper.turn()
    assert "request_mirror_policies" in keeper.files.routes.read_text()
    assert '"headrace-shadow"' in keeper.files.clusters.read_text()
    file.unlink()
    keeper.turn()
    assert "request_mirror_policies" not in keeper.files.routes.read_text()


def test_a_comparators_address_that_cannot_be_read_stops_no_route(world: World) -> None:
    keeper = world.keeper()
    keeper.shadow_file = world.folder  # no file
    stepping(world)
    keeper.turn()
    assert "candidate" in keeper.files.routes.read_text()
    assert any("Is a directory" in sentence for sentence in world.said)


def test_the_bootstrap_leaves_an_envoy_that_starts_before_the_keeper_empty_files(
    world: World,
) -> None:
    keeper = world.keeper()
    write_bootstrap(keeper.files, port=1, admin_port=2, host="127.0.0.1")
    assert json.loads(keeper.files.clusters.read_text())["resources"] == []
    keeper.turn()
    told = keeper.files.routes.read_text()
    write_bootstrap(keeper.files, port=1, admin_port=2, host="127.0.0.1")
    assert keeper.files.routes.read_text() == told


def test_the_renewal_command_renews_and_refuses_others(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    stepping(world)
    before = world.record().lease.renewals
    assert renew([str(world.folder), "shop", "second", "30"]) == 0
    assert world.record().lease.renewals == before + 1
    assert renew([str(world.folder), "shop", "third", "30"]) == 4
    assert "found second" in capsys.readouterr().err
    assert renew([]) == 2


def test_folders_that_a_keeper_can_make_are_made_and_others_are_named(tmp_path: Path) -> None:
    demand_folders(tmp_path / "state/shop/slots/blue", tmp_path)
    assert (tmp_path / "state/shop/slots/blue").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(
        BadRequestError, match=r"expected the folder .*/file/below .*, found .*Not a"
    ):
        demand_folders(tmp_path / "file/below")
    with pytest.raises(BadRequestError, match=r"found /proc/none: No such file .*mount the volume"):
        demand_folders(tmp_path, Path("/proc/none/state"))


def test_a_folder_that_cannot_be_written_ends_a_keeper_with_a_sentence() -> None:
    command = [sys.executable, "-m", "tasks.cli", "keeper", "--state-dir", "/proc"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 4
    assert "headrace keeper: keeper: expected the folder /proc" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_another_router_said_of_a_slot_is_taken_back_after_a_while(world: World) -> None:
    """Two keepers that see a slot differently must not move users to and fro at each turn."""
    keeper = replace(world.keeper(), take_back_seconds=10.0)
    world.well.add(Colour.BLUE)
    keeper.turn()
    world.state.look([Colour.BLUE])  # the other one does not reach it
    for _ in range(10):
        keeper.turn()
        world.both(0.9)
    assert world.record().unready == (Colour.BLUE,)
    world.both(1.1)
    keeper.turn()
    assert world.record().unready == ()


def test_what_a_keeper_said_of_a_slot_itself_it_takes_back_at_once(world: World) -> None:
    keeper = replace(world.keeper(), take_back_seconds=10.0)
    world.broken.add(Colour.BLUE)
    keeper.turn()
    assert world.record().unready == (Colour.BLUE,)
    world.broken.clear()
    world.well.add(Colour.BLUE)
    keeper.turn()
    assert world.record().unready == ()
