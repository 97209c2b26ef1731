"""Whoever renews the lease is killed, in a step and while a person decides: the share must lapse."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

from tasks.rollout.phases import Decision, Phase
from tests.integration.chaos.trials import Met, met
from tests.integration.chaos.world import MODEL, RPS, Part, World, eventually, python

STEP = 1  # 5 %


@dataclass(frozen=True, kw_only=True)
class Lapse:
    """How long the share lived after the last renewer was killed."""

    moment: str
    step: str
    began: float
    in_record_seconds: float
    phase: str
    resumed: bool
    lease_seconds: float
    in_router_seconds: float = 0.0


@dataclass(kw_only=True)
class Lapses:
    lapses: list[Lapse] = field(default_factory=list)
    met: Met | None = None


def lapse_often(world: World, times: int, draw: random.Random) -> Lapses:
    """Let leases lapse so often at each moment, under load."""
    seen = Lapses()
    with world.users(RPS, seed=draw.randrange(2**31)) as asked:
        for moment in ("a 5 % step", "the approval"):
            for _ in range(times):
                seen.lapses.append(_lapse(world, moment, draw))
    got = asked()
    seen.met = met(got)
    for place, lapse in enumerate(seen.lapses):
        end = lapse.began + lapse.in_record_seconds + 1.0  # before it is resumed
        given = [one.sent for one in got if one.step == lapse.step and one.sent < end]
        seconds = max(given) - lapse.began
        seen.lapses[place] = Lapse(**{**vars(lapse), "in_router_seconds": seconds})
    return seen


def _renewer(world: World, release: str) -> Part:
    arguments = (str(world.folder / "state"), MODEL, release, str(world.plan.lease_seconds))
    part = Part(
        command=python("tests.integration.chaos.renewer", *arguments),
        log=world.folder / "renewer.log",
    )
    part.start()
    return part


def _lapse(world: World, moment: str, draw: random.Random) -> Lapse:
    release = world.new_candidate()
    world.begin(release, STEP)
    step = f"{world.state.peek().rollout}:{STEP}"
    renewer = _renewer(world, release)
    try:
        if moment == "the approval":
            time.sleep(1)
            world.state.record_verdict(release, STEP, Decision.PROCEED, numbers={})
        time.sleep(world.plan.lease_seconds + draw.uniform(0, 3))
        if not world.share():
            message = f"{release}: lapsed although it was renewed"
            raise AssertionError(message)
    finally:
        renewer.kill()
    began = time.monotonic()
    ended = eventually(lambda: world.share() == 0, 30, "a lapse")
    phase = world.state.peek().status.phase
    time.sleep(1.5)
    world.state.resume(release)
    renewer = _renewer(world, release)
    try:
        time.sleep(world.plan.lease_seconds + 1)
        resumed = world.state.peek().status.phase is Phase.STEPPING
    finally:
        renewer.kill()
    world.state.roll_back(release)
    return Lapse(
        moment=moment,
        step=step,
        began=began,
        in_record_seconds=ended - began,
        phase=phase.value,
        resumed=resumed,
        lease_seconds=float(world.plan.lease_seconds),
    )
