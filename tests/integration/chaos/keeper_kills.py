"""The keeper killed at random moments of releases that come and go, a third of which harm."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tasks.rollout.assignment import bucket_of
from tests.integration.chaos.load import Asked
from tests.integration.chaos.slot import Ill
from tests.integration.chaos.trials import Met, met
from tests.integration.chaos.world import LOOK_SECONDS, RPS, World

BETWEEN_KILLS_SECONDS = (0.5, 4.5)
CUT_WITHIN_SECONDS = 10.0  # a keeper that is killed all the time may never see enough
COMES_BACK_SECONDS = 5.0  # a keeper starts and writes its routes well within that
RESTART_SECONDS = 0.2  # what the supervisor of the local stack waits, before the start itself


@dataclass(kw_only=True)
class Rollout:
    """What a rollout was ever allowed, and when."""

    salt: str
    began: dict[int, float] = field(default_factory=dict)  # step -> when it was asked for
    shares: dict[int, int] = field(default_factory=dict)
    ended: float = 0.0  # when its share was taken away in the record


@dataclass(kw_only=True)
class KeeperKills:
    """What was seen while the keeper was killed again and again."""

    kills: int = 0
    rollouts: dict[str, Rollout] = field(default_factory=dict)
    harmful: int = 0
    cut: int = 0
    met: Met | None = None
    exposed_after_the_last_kill: int = 0  # only a keeper that came back gives a rollout its users
    exposed: int = 0  # requests of users who were given to a candidate
    beyond_the_plan: list[str] = field(default_factory=list)
    healthy_cut: list[str] = field(default_factory=list)
    longest_after_the_end_seconds: float = 0.0  # Envoy keeps its routes while the keeper is dead


def kill_keepers(world: World, kills: int, draw: random.Random) -> KeeperKills:
    """Kill the keeper so often under load; releases are ramped up and rolled back meanwhile."""
    seen = KeeperKills()
    over = threading.Event()
    killer = threading.Thread(
        target=_kill_often, args=(world, seen, kills, draw, over), daemon=True
    )
    with world.users(RPS, seed=draw.randrange(2**31)) as asked:
        killer.start()
        while not over.is_set():
            _ramp(world, seen, draw)
        killer.join()
        time.sleep(COMES_BACK_SECONDS)
        last = _ramp(world, seen, draw)
    got = asked()
    seen.met = met(got)
    seen.exposed_after_the_last_kill = sum(
        one.variant == "candidate" and one.step.partition(":")[0] == last for one in got
    )
    _hold_against_the_plan(seen, got)
    return seen


def _kill_often(
    world: World, seen: KeeperKills, kills: int, draw: random.Random, over: threading.Event
) -> None:
    for _ in range(kills):
        time.sleep(draw.uniform(*BETWEEN_KILLS_SECONDS))
        world.keeper.kill()
        seen.kills += 1
        time.sleep(RESTART_SECONDS)
        world.keeper.start()
    over.set()


def _ramp(world: World, seen: KeeperKills, draw: random.Random) -> str:
    """Play one release; return its rollout."""
    release = world.new_candidate()
    harms = draw.random() < 1 / 3
    record = world.state.peek()
    rollout = Rollout(salt=str(record.salt))
    seen.rollouts[str(record.rollout)] = rollout
    for step in (1, 2):
        rollout.began[step] = time.monotonic()
        world.begin(release, step)
        rollout.shares[step] = world.plan.steps[step - 1].share_basis_points
        time.sleep(draw.uniform(1, 3))
        if not world.share():
            seen.healthy_cut.append(world.state.history()[-1].why)
            break
    if harms and world.share():
        world.candidate.tell(Ill.ERRORS)
        seen.harmful += 1
        deadline = time.monotonic() + CUT_WITHIN_SECONDS
        while world.share() and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        seen.cut += world.share() == 0
    rollout.ended = time.monotonic()
    world.state.roll_back(release)
    return str(record.rollout)


def _hold_against_the_plan(seen: KeeperKills, asked: Sequence[Asked]) -> None:
    """Hold each user against the share of the step that gave him to the candidate."""
    for one in asked:
        if one.variant != "candidate":
            continue
        seen.exposed += 1
        name, _, step = one.step.partition(":")
        rollout = seen.rollouts[name]
        share = rollout.shares.get(int(step), 0)
        early = one.ended < rollout.began.get(int(step), float("inf"))
        if bucket_of(rollout.salt, one.user) >= share or early:
            seen.beyond_the_plan.append(f"{one.user} in {one.step}, share {share}")
        after = one.sent - rollout.ended
        seen.longest_after_the_end_seconds = max(seen.longest_after_the_end_seconds, after)
