"""Whether a candidate harms, judged while it serves, by bounds that hold at every look at once.

Three rates are held against the plan: tries that failed, answers over the time limit of one try,
and slow answers. Each is a Bernoulli confidence sequence; one starts at every reading, so that a
change is seen within requests and not diluted by the hours before it. All starts and all looks of a
step together call a healthy candidate harmful at most once in 1 / ERROR_RATE steps per rate.

A request whose last try failed too is held against nobody: that try is stable's, so stable was
asked the very same and answered no better. Shares of the two variants could not tell a client's
faults from a candidate that alone fails as often; they are for trouble that hits either by chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import cast

from tasks.contracts.json_types import Json
from tasks.contracts.requests import TrafficPlan
from tasks.rollout.envoy_stats import SlotCounts, VariantCounts
from tasks.rollout.routes import FALLBACK_RETRIES
from tasks.statistics.bernoulli_sequence import log_evidence_above, lower_bound, start_weight

ERROR_RATE = 0.001
MAX_SLOW_SHARE = 0.05  # what a p95 within the plan's bound leaves over it
READ_SECONDS = 0.25
LAG_READINGS = 1  # Envoy counts times a little later than tries given up
MIN_STABLE_REQUESTS = 100  # fewer say nothing about stable's p99
RUN_LENGTH = 5  # failures in a row after which Envoy ejects a slot (`routes`)
RUN_READINGS = 3
GOES_ON_READINGS = 4  # a second: what takes long for less than that may be a scheduler's whim
LOOKED_BACK_READINGS = 16  # long enough to see beyond an ejection, in which nobody is asked
MOST = 0.5
MIN_EXPECTED = 4  # answers of stable in that time, below which none is no sign of anything


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was counted since the watch began; `moment` counts readings since the step began."""

    moment: int
    candidate: VariantCounts = field(default_factory=VariantCounts)
    stable: VariantCounts = field(default_factory=VariantCounts)
    slot: SlotCounts = field(default_factory=SlotCounts)


@dataclass(frozen=True, kw_only=True)
class Harm:
    """Why a candidate is cut, and the numbers that made it so."""

    check: str
    events: int
    trials: int
    limit: float
    surely_above: float
    stable_events: int
    stable_trials: int
    seconds: float
    error_rate: float

    def __str__(self) -> str:
        """Return the sentence of the ledger."""
        return (
            f"{self.check}: {self.events} of the {self.trials} requests that met the candidate in "
            f"{self.seconds:g} s, above {self.surely_above:.2%} for sure at every look (error rate "
            f"{self.error_rate:g}); at most {self.limit:.2%} expected; "
            f"stable {self.stable_events} of {self.stable_trials}"
        )

    def numbers(self) -> dict[str, Json]:
        """Return the numbers of the ledger."""
        return cast("dict[str, Json]", asdict(self))


@dataclass(frozen=True, kw_only=True)
class _Rate:
    """One rate: the candidate's events since each reading but the last, and stable's at a reading."""

    name: str
    limit: float
    events: Sequence[int]
    stable: Callable[[Reading], int]


def find_harm(
    readings: Sequence[Reading], plan: TrafficPlan, per_try_timeout_ms: float
) -> Harm | None:
    """Return the harm that the readings of a step show, oldest first; None while there is none."""
    if len(readings) <= LAG_READINGS:
        return None
    rates = _rates(readings, plan, per_try_timeout_ms)
    if _stable_stands_still(readings):
        rates = rates[:1]  # the machine may: what took long is judged when stable goes on
    for rate in rates:
        if rate is not rates[0] and not (_goes_on(rate) or _is_all_there_is(rate, readings)):
            continue
        for place in range(len(readings) - 1):
            harm = _judged(rate, plan, readings, place)
            if harm is not None:
                return harm
    return _run_of_failures(readings, plan, rates)


def _goes_on(rate: _Rate) -> bool:
    """Return whether there were such events both now and a second ago."""
    if len(rate.events) < GOES_ON_READINGS:
        return False
    since = rate.events[-GOES_ON_READINGS:]
    return since[-1] > 0 and since[0] > since[1]


def _is_all_there_is(rate: _Rate, readings: Sequence[Reading]) -> bool:
    """Return whether most of what was asked since a second ago or longer came to this, to the end.

    A slot that hangs is ejected, and then nobody asks it for a while: what comes before and after
    the ejection are one trouble unless good answers lie between them.
    """
    newest = len(readings) - 1
    if newest < GOES_ON_READINGS or rate.events[-1] == 0:
        return False
    for place in range(max(0, newest - LOOKED_BACK_READINGS), newest - GOES_ON_READINGS + 1):
        events = rate.events[place]
        asked = readings[-1].slot.asked - readings[place].slot.asked
        if events > rate.events[place + 1] and events >= MOST * asked:
            return True
    return False


def _stable_stands_still(readings: Sequence[Reading]) -> bool:
    first, end = readings[0], readings[-1]
    recent = readings[max(0, len(readings) - 1 - RUN_READINGS)]
    usual = (end.stable.completed - first.stable.completed) / (end.moment - first.moment)
    expected = usual * (end.moment - recent.moment)
    found = end.stable.completed - recent.stable.completed
    return expected >= MIN_EXPECTED and found < expected / 2


def slow_bound_ms(stable: VariantCounts, plan: TrafficPlan, per_try_timeout_ms: float) -> float:
    """Return above which time an answer is slow: the plan's ratio times stable's p99, or its floor."""
    if stable.timed < MIN_STABLE_REQUESTS:
        return per_try_timeout_ms
    p99 = min(bound for bound, number in stable.within_ms.items() if number >= 0.99 * stable.timed)
    return min(max(plan.max_latency_ratio * p99, plan.min_latency_bound_ms), per_try_timeout_ms)


def _rates(
    readings: Sequence[Reading], plan: TrafficPlan, per_try_timeout_ms: float
) -> tuple[_Rate, ...]:
    slow_ms = slow_bound_ms(readings[-1].stable, plan, per_try_timeout_ms)
    over = _since([one.candidate.slower_than(per_try_timeout_ms) for one in readings])
    # A try given up for its time is counted among the times, by now or soon; while stable takes
    # long as well, each further limit that a request took is another try.
    behind = [one.candidate.retried for one in readings[: len(readings) - LAG_READINGS]]
    given_up = [*_since(behind), *([0] * LAG_READINGS)]
    limits = [place * per_try_timeout_ms for place in range(1, FALLBACK_RETRIES + 1)]
    tardy = _since([sum(map(one.candidate.slower_than, limits)) for one in readings])
    shared = _since([_tries_in_vain(one.candidate, per_try_timeout_ms) for one in readings])
    # A try whose failure went on to the user is none that Envoy gave up.
    passed_on = _since([one.slot.passed_on for one in readings])
    return (
        _Rate(
            name="errors",
            limit=plan.max_error_ratio,
            events=[
                max(0, tries - late - max(0, vain)) + went_on
                for tries, late, vain, went_on in zip(
                    given_up, tardy, shared, passed_on, strict=True
                )
            ],
            stable=lambda reading: reading.stable.failures,
        ),
        _Rate(
            name=f"over the {per_try_timeout_ms:g} ms of one try",
            limit=MAX_SLOW_SHARE,
            events=over,
            stable=lambda reading: reading.stable.slower_than(per_try_timeout_ms),
        ),
        _Rate(
            name=f"slower than {slow_ms:g} ms",
            limit=MAX_SLOW_SHARE,
            events=_since([one.candidate.slower_than(slow_ms) for one in readings]),
            stable=lambda reading: reading.stable.slower_than(slow_ms),
        ),
    )


def _tries_in_vain(candidate: VariantCounts, per_try_timeout_ms: float) -> int:
    """Return the tries given up of requests that no slot answered well, but for the late ones.

    One that took the limit of all its tries is in the times already.
    """
    late = candidate.slower_than((FALLBACK_RETRIES + 1) * per_try_timeout_ms)
    return FALLBACK_RETRIES * max(0, candidate.exhausted - late)


def _since(totals: Sequence[int]) -> list[int]:
    """Return how much a total has grown since each reading but the last."""
    return [totals[-1] - total for total in totals[:-1]]


def _judged(rate: _Rate, plan: TrafficPlan, readings: Sequence[Reading], place: int) -> Harm | None:
    start, end = readings[place], readings[-1]
    events = rate.events[place]
    trials = max(events, end.slot.asked - start.slot.asked)
    if events <= rate.limit * trials:
        return None
    limit = _limit(rate, plan, start, end)
    level = ERROR_RATE * start_weight(start.moment)
    if limit >= 1 or log_evidence_above(events, trials, limit) < -math.log(level):
        return None
    bound = lower_bound(events, trials, level)
    return _harm(rate, (events, trials), (limit, bound), (start, end))


def _limit(rate: _Rate, plan: TrafficPlan, start: Reading, end: Reading) -> float:
    """Return the limit; trouble that stable has as well is not held against the candidate."""
    bad = rate.stable(end) - rate.stable(start)
    # Times are counted apart from answers, at other moments: after a stall there may be only times.
    met = max(bad, end.stable.completed - start.stable.completed)
    return max(rate.limit, plan.max_latency_ratio * bad / met if met else 0.0)


def _run_of_failures(
    readings: Sequence[Reading], plan: TrafficPlan, rates: Sequence[_Rate]
) -> Harm | None:
    """Return the harm in an ejection: five failures in a row, whatever was before them.

    At a rate of `limit` the chance of such a run is at most limit ** 5 at each request, so that
    it is ERROR_RATE at most as long as fewer than ERROR_RATE / limit ** 5 requests were asked.
    """
    place = max(0, len(readings) - 1 - RUN_READINGS)
    start, behind, end = readings[place], readings[-1 - LAG_READINGS], readings[-1]
    rate = rates[0]
    events = rate.events[place]
    if events < RUN_LENGTH or behind.slot.ejections == start.slot.ejections:
        return None
    certain = rate.limit**RUN_LENGTH * max(1, end.slot.asked) <= ERROR_RATE
    if not certain or any(_limit(one, plan, start, end) >= 1 for one in rates):
        return None
    trials = max(events, end.slot.asked - start.slot.asked)
    named = replace(rate, name=f"{RUN_LENGTH} failures in a row, {rate.name}")
    # Of a rate below this one, such a run would have been rarer than the error rate.
    bound = (ERROR_RATE / max(1, end.slot.asked)) ** (1 / RUN_LENGTH)
    return _harm(named, (events, trials), (rate.limit, bound), (start, end))


def _harm(
    rate: _Rate, seen: tuple[int, int], told: tuple[float, float], window: tuple[Reading, Reading]
) -> Harm:
    start, end = window
    return Harm(
        check=rate.name,
        events=seen[0],
        trials=seen[1],
        limit=told[0],
        surely_above=told[1],
        stable_events=rate.stable(end) - rate.stable(start),
        stable_trials=end.stable.completed - start.stable.completed,
        seconds=(end.moment - start.moment) * READ_SECONDS,
        error_rate=ERROR_RATE,
    )
