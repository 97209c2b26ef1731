"""One candidate that begins to harm, one that stays healthy; what users and the ledger saw."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace

from tests.integration.chaos.faults import Fault, limited_memory
from tests.integration.chaos.load import Asked
from tests.integration.chaos.world import RPS, World, eventually

STEP = 2  # 25 %
CUT_WITHIN_SECONDS = 30.0  # a trial gives up; the promise is 2 s in the median, 5 s at worst
HEALTHY_BEFORE_SECONDS = 2.5
AFTER_SECONDS = 1.5
MIN_HEALTHY_ANSWERS = 50
NO_LONGER_HEALTHY_SECONDS = 0.1  # seven times what a healthy slot takes


@dataclass(frozen=True, kw_only=True)
class Met:
    """What users got in one run of the load."""

    requests: int
    failed: int
    seconds: float
    late_p99_ms: float  # how long after it was due a request was sent
    p50_ms: float
    p99_ms: float
    worst_ms: float
    failures: tuple[str, ...] = ()

    @property
    def rps(self) -> float:
        return self.requests / self.seconds


def met(asked: Sequence[Asked]) -> Met:
    took = sorted((one.ended - one.due) * 1000 for one in asked)
    late = sorted((one.sent - one.due) * 1000 for one in asked)
    bad = [one for one in asked if not one.right]
    return Met(
        requests=len(asked),
        failed=len(bad),
        seconds=max(one.due for one in asked) - min(one.due for one in asked),
        late_p99_ms=late[int(0.99 * len(late))],
        p50_ms=statistics.median(took),
        p99_ms=took[int(0.99 * len(took))],
        worst_ms=took[-1],
        failures=tuple(str(asdict(one)) for one in bad[:5]),
    )


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How long a harmful candidate kept its share, from before its first bad answer."""

    rollout: str
    why: str
    began: float
    in_record_seconds: float
    by_means_of: str = ""
    in_router_seconds: float = 0.0  # when the last user was given to it


@dataclass(kw_only=True)
class Piece:
    """Some trials of one fault under one load."""

    name: str
    cuts: list[Cut] = field(default_factory=list)
    met: Met | None = None


def fault_piece(world: World, fault: Fault, trials: int, draw: random.Random) -> Piece:
    """Make one candidate after another harm, while users keep asking."""
    piece = Piece(name=fault.name)
    with world.users(RPS, seed=draw.randrange(2**31)) as asked:
        for _ in range(trials):
            piece.cuts.append(_trial(world, fault, draw))
    got = asked()
    piece.cuts = [_seen_by_users(cut, got) for cut in piece.cuts]
    piece.met = met(got)
    return piece


def _trial(world: World, fault: Fault, draw: random.Random) -> Cut:
    release = world.new_candidate()
    with ExitStack() as stack:
        means = ""
        if fault.limits_memory:
            means = stack.enter_context(limited_memory(world.candidate))
        enough = world.asked_of_candidate() + MIN_HEALTHY_ANSWERS
        rollout = begin_share(world, release)
        eventually(lambda: world.asked_of_candidate() >= enough, 60, "users at the candidate")
        time.sleep(HEALTHY_BEFORE_SECONDS + draw.random())
        if world.share() != world.plan.steps[STEP - 1].share_basis_points:
            message = f"{release} lost its share while healthy: {world.state.history()[-1]}"
            raise AssertionError(message)
        began = time.monotonic()
        fault.inject(world.candidate)
        ended = eventually(lambda: world.share() == 0, CUT_WITHIN_SECONDS, "a cut to 0 %")
        entry = world.state.history()[-1]
        time.sleep(AFTER_SECONDS)
        world.state.roll_back(release)
    return Cut(
        rollout=rollout,
        why=f"{entry.kind} by {entry.who}: {entry.why}",
        began=began,
        in_record_seconds=ended - began,
        by_means_of=means,
    )


def begin_share(world: World, release: str) -> str:
    """Take a release to 25 % and wait until the router serves it."""
    world.begin(release, 1)
    world.begin(release, STEP)
    rollout = world.state.peek().rollout
    assert rollout is not None
    eventually(lambda: f"{rollout}:{STEP}" in world.files.routes.read_text(), 10, "its routes")
    return rollout


def _seen_by_users(cut: Cut, asked: Sequence[Asked]) -> Cut:
    """Return the cut as from the first user's request that the candidate did not answer as before.

    From when it was sent, not from its bad answer; to the last request given to the candidate.
    """
    mine = [one for one in asked if one.step == f"{cut.rollout}:{STEP}"]
    healthy = [one for one in mine if one.slot == "green" and one.sent < cut.began]
    if len(healthy) < MIN_HEALTHY_ANSWERS:
        message = (
            f"{cut.rollout}: expected {MIN_HEALTHY_ANSWERS} answers of the healthy candidate, "
            f"found {len(healthy)}"
        )
        raise AssertionError(message)
    first_bad = min(
        one.sent
        for one in mine
        if one.sent >= cut.began
        and (one.slot != "green" or one.ended - one.sent > NO_LONGER_HEALTHY_SECONDS)
    )
    return replace(
        cut,
        in_record_seconds=cut.in_record_seconds - (first_bad - cut.began),
        in_router_seconds=max(one.sent for one in mine) - first_bad,
        began=first_bad,
    )


def healthy_piece(world: World, seconds: float, seed: int) -> Piece:
    """Let users meet a healthy candidate; a cut is in `cuts`."""
    piece = Piece(name="healthy")
    release = world.new_candidate()
    rollout = begin_share(world, release)
    began = time.monotonic()
    with world.users(RPS, seed=seed) as asked:
        while time.monotonic() < began + seconds and world.share():
            time.sleep(0.1)
    if not world.share():
        entry = world.state.history()[-1]
        took = time.monotonic() - began
        cut = Cut(rollout=rollout, why=entry.why, began=began, in_record_seconds=took)
        piece.cuts.append(cut)
    world.state.roll_back(release)
    piece.met = met(asked())
    return piece
