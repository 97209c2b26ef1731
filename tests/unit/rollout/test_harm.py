"""The keeper's judgement of a step: readings of counts in, harm or none out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tasks.contracts.requests import PLANS
from tasks.rollout.envoy_stats import SlotCounts, VariantCounts
from tasks.rollout.harm import Harm, Reading, find_harm, slow_bound_ms

PLAN = PLANS["replay"]  # 1 % errors, p95 to 3 times stable's or 50 ms
TRY_MS = 150.0
BOUNDS = (10.0, 40.0, 140.0, 1000.0)


def times(fast: int, slow: int = 0, late: int = 0) -> dict[float, int]:
    """Counts up to each bound: 10 ms, 40 ms (all fast ones), 140 ms (slow), 1 s (given up)."""
    return dict(zip(BOUNDS, (fast, fast, fast + slow, fast + slow + late), strict=True))


def history(
    turns: Sequence[tuple[int, int, int, int]],
    *,
    first: int = 0,
    stable: tuple[int, ...] = (20, 0, 0),
) -> list[Reading]:
    """Readings of turns: (good, failed, slow, late) of the candidate; stable's (good, bad, late)."""
    readings = [Reading(moment=first)]
    good = failed = slow = late = 0
    for number, turn in enumerate(turns, start=1):
        good, failed, slow, late = (
            a + b for a, b in zip((good, failed, slow, late), turn, strict=True)
        )
        met, bad, tardy = (number * count for count in stable)
        readings.append(
            Reading(
                moment=first + number,
                candidate=VariantCounts(
                    completed=good + failed + slow + late,
                    retried=failed + late,
                    within_ms=times(good + failed, slow, late),
                ),
                stable=VariantCounts(
                    completed=met + bad + tardy, failed=bad, within_ms=times(met + bad, 0, tardy)
                ),
                slot=SlotCounts(asked=good + failed + slow + late),
            )
        )
    return readings


def harm(turns: Sequence[tuple[int, int, int, int]], **others: object) -> Harm | None:
    """Look at every reading, as the keeper does; return the first harm."""
    readings = history(turns, **others)  # type: ignore[arg-type]
    found = (find_harm(readings[: end + 1], PLAN, TRY_MS) for end in range(len(readings)))
    return next((one for one in found if one is not None), None)


QUIET = (12, 0, 0, 0)  # a quarter of a second at 50 requests a second
NOTHING = (0, 0, 0, 0)  # ejected


@pytest.mark.parametrize(
    ("turns", "check"),
    (
        pytest.param([QUIET] * 40 + [(2, 9, 0, 0), NOTHING], "errors", id="failing all at once"),
        pytest.param([QUIET] * 4 + [(10, 2, 0, 0)] * 40, "errors", id="one in six failing"),
        pytest.param(
            [(97, 3, 0, 0)] * 100, "errors", id="three in a hundred failing, from the beginning"
        ),
        pytest.param(
            [QUIET] * 240 + [(0, 12, 0, 0), NOTHING],
            "errors",
            id="failing all at once, after a minute without a fault",
        ),
        pytest.param([QUIET] * 40 + [(0, 0, 0, 12)] * 4, "of one try", id="hanging for a second"),
        pytest.param([QUIET] * 40 + [(6, 0, 0, 6)] * 12, "of one try", id="hanging half the time"),
        pytest.param([QUIET] * 40 + [(0, 0, 12, 0)] * 4, "slower than", id="ten times slower"),
        pytest.param([(4, 0, 1, 0)] * 120, "slower than", id="one in five slow"),
    ),
)
def test_a_candidate_is_harmful_when_it_is(
    turns: Sequence[tuple[int, int, int, int]], check: str
) -> None:
    found = harm(turns)
    assert found is not None
    assert check in found.check
    assert found.surely_above > found.limit
    assert found.events <= found.trials


@pytest.mark.parametrize(
    "turns",
    (
        pytest.param([], id="that was never asked"),
        pytest.param([QUIET] * 200, id="without a fault"),
        pytest.param([QUIET] * 40 + [(11, 1, 0, 0)] + [QUIET] * 100, id="with a single failure"),
        pytest.param([(0, 1, 0, 0)], id="that failed at its very first request"),
        pytest.param([(200, 1, 0, 0)] * 100, id="failing at half the rate that the plan accepts"),
        pytest.param([(96, 0, 4, 0)] * 100, id="slow in four of a hundred"),
        pytest.param([QUIET] * 40 + [(9, 0, 0, 3)] + [QUIET] * 40, id="with a short stall"),
        pytest.param(
            [QUIET] * 40 + [(0, 0, 0, 12)] * 3 + [QUIET] * 40, id="with a stall below a second"
        ),
    ),
)
def test_a_healthy_candidate_is_one(turns: Sequence[tuple[int, int, int, int]]) -> None:
    assert harm(turns) is None


def test_trouble_that_stable_has_as_well_is_not_held_against_the_candidate() -> None:
    failing = [QUIET] * 4 + [(0, 12, 0, 0)] * 8
    assert harm(failing, stable=(19, 1, 0)) is not None
    assert harm(failing, stable=(10, 10, 0)) is None
    stalled = [(6, 0, 0, 6)] * 12
    assert harm(stalled, stable=(20, 0, 0)) is not None
    assert harm(stalled, stable=(10, 0, 10)) is None


def test_trouble_of_stable_counts_by_grpc_too() -> None:
    both = history([(10, 2, 0, 0)] * 20, stable=(20, 4, 0))
    by_grpc = [
        replace(one, stable=replace(one.stable, failed=0, failed_rpcs=one.stable.failed))
        for one in both
    ]
    assert find_harm(both, PLAN, TRY_MS) is None
    assert find_harm(by_grpc, PLAN, TRY_MS) is None
    alone = [replace(one, stable=replace(one.stable, failed=0)) for one in both]
    assert find_harm(alone, PLAN, TRY_MS) is not None


def in_vain(readings: Sequence[Reading], shared: Sequence[int]) -> list[Reading]:
    """Add requests that no slot answers well: three tries given up each, and quick."""
    found, total = [], 0
    for one, more in zip(readings, (0, *shared), strict=True):
        total += more
        candidate = replace(
            one.candidate,
            completed=one.candidate.completed + total,
            retried=one.candidate.retried + 3 * total,
            exhausted=total,
            within_ms={bound: number + total for bound, number in one.candidate.within_ms.items()},
        )
        slot = replace(one.slot, asked=one.slot.asked + 2 * total)
        found.append(replace(one, candidate=candidate, slot=slot))
    return found


def first_harm(readings: Sequence[Reading]) -> Harm | None:
    found = (find_harm(readings[: end + 1], PLAN, TRY_MS) for end in range(len(readings)))
    return next((one for one in found if one is not None), None)


@pytest.mark.parametrize("shared", ([1] * 80, [0, 0, 0, 12] * 20), ids=("a few", "in bursts"))
def test_requests_that_stable_answers_no_better_are_held_against_nobody(shared: list[int]) -> None:
    readings = in_vain(history([QUIET] * 80), shared)
    assert first_harm(readings) is None
    alone = [
        replace(one, candidate=replace(one.candidate, exhausted=0)) for one in readings
    ]  # the same tries given up, but stable answered in the end
    assert first_harm(alone) is not None


def test_what_the_candidate_alone_fails_is_seen_among_what_stable_fails_too() -> None:
    failing = [QUIET] * 40 + [(2, 10, 0, 0)] * 2
    found = first_harm(in_vain(history(failing), [1] * 42))
    assert found is not None
    assert (found.check, found.events) == ("errors", 10 - 3)  # less those of the newest reading


def test_a_request_that_took_every_tries_time_is_not_discounted_twice() -> None:
    """Two of ten requests a turn fail, one is frozen in both slots: its three tries are late."""
    readings = history([(9, 2, 0, 0)] * 40)
    for place, one in enumerate(readings):
        times_of = {10.0: 11 * place, 590.0: 11 * place, 1000.0: 12 * place}
        frozen = replace(one.candidate, retried=5 * place, exhausted=place, within_ms=times_of)
        readings[place] = replace(one, candidate=frozen)
    assert "errors" in str(first_harm(readings))


def test_failures_that_went_on_to_users_count_though_no_try_was_given_up_but_for_its_time() -> None:
    """Three of a hundred answers break off after the limit, beside stable's try."""
    readings = history([(97, 0, 0, 3)] * 100)
    assert first_harm(readings) is None, "late ones alone are within the plan"
    broken = [
        replace(one, slot=replace(one.slot, passed_on=3 * place))
        for place, one in enumerate(readings)
    ]
    found = first_harm(broken)
    assert found is not None
    assert found.check == "errors"
    assert found.events <= 3 * 100, "each once"


def test_stables_late_times_count_before_its_answers_are_counted() -> None:
    readings = history([HANGS] * 6)
    assert find_harm(readings, PLAN, TRY_MS) is not None
    for place, one in enumerate(
        readings
    ):  # a stall as the step begins: all that is known are times
        late = VariantCounts(completed=0, within_ms=times(0, 0, 13 * place))
        readings[place] = replace(one, stable=late)
    assert find_harm(readings, PLAN, TRY_MS) is None


def test_what_takes_long_is_not_judged_while_stable_stands_still_too() -> None:
    readings = history([QUIET] * 40 + [(0, 0, 0, 12)] * 4)
    assert find_harm(readings, PLAN, TRY_MS) is not None
    still = [
        *readings[:-4],
        *(replace(one, stable=readings[-5].stable) for one in readings[-4:]),
    ]
    assert find_harm(still, PLAN, TRY_MS) is None
    failing = history([QUIET] * 40 + [(0, 12, 0, 0)] * 2)
    still = [*failing[:-2], *(replace(one, stable=failing[-3].stable) for one in failing[-2:])]
    assert find_harm(still, PLAN, TRY_MS) is not None, "what fails at once is no stall"


def test_an_ejection_after_five_failures_in_a_row_is_harm_however_good_it_was_before() -> None:
    readings = history([QUIET] * 400 + [(7, 5, 0, 0), NOTHING, NOTHING], first=100_000)
    assert find_harm(readings, PLAN, TRY_MS) is None
    ejected = [
        *readings[:-3],
        *(replace(one, slot=replace(one.slot, ejections=1)) for one in readings[-3:]),
    ]
    found = find_harm(ejected, PLAN, TRY_MS)
    assert found is not None
    assert found.check == "5 failures in a row, errors"
    # (.001 / 4812 requests) ** (1 / 5)
    assert found.surely_above == pytest.approx(0.0461, abs=1e-4)


HANGS = (0, 0, 0, 12)
EJECTED = [NOTHING] * 3


@pytest.mark.parametrize("first", (0, 100_000), ids=["from the beginning", "after seven hours"])
def test_a_candidate_that_hangs_is_found_when_it_hangs_again_after_its_ejection(first: int) -> None:
    until_the_ejection = [QUIET] * 40 + [HANGS, *EJECTED]
    assert harm(until_the_ejection, first=first) is None, "it may have been a scheduler's whim"
    found = harm([*until_the_ejection, (0, 0, 0, 5)], first=first)
    assert found is not None
    assert (found.check, found.events) == ("over the 150 ms of one try", 17)


@pytest.mark.parametrize(
    "turns",
    (
        pytest.param([HANGS, *EJECTED, *[QUIET] * 40], id="back and well after its ejection"),
        pytest.param(
            [HANGS, *EJECTED, *[QUIET] * 3, HANGS, *EJECTED, *[QUIET] * 40],
            id="stalled twice, with good answers in between",
        ),
        pytest.param([HANGS, NOTHING, (0, 0, 0, 5), *[QUIET] * 40], id="late for half a second"),
    ),
)
def test_a_candidate_that_stood_still_for_moments_is_not_cut(
    turns: Sequence[tuple[int, int, int, int]],
) -> None:
    assert harm([QUIET] * 40 + turns) is None


def test_one_that_hangs_at_two_requests_a_second_is_found_within_a_dozen() -> None:
    seldom = [(1, 0, 0, 0), NOTHING] * 40
    found = harm([*seldom, *[(0, 0, 0, 1), NOTHING] * 12])
    assert found is not None
    assert found.events == found.trials <= 12


def test_a_try_given_up_for_its_time_is_no_error_though_its_time_is_counted_later() -> None:
    readings = history([QUIET] * 40 + [(12, 0, 0, 3)])
    early = replace(readings[-1].candidate, within_ms=readings[-2].candidate.within_ms)
    readings[-1] = replace(readings[-1], candidate=early)
    assert find_harm(readings, PLAN, TRY_MS) is None
    late = history([QUIET] * 40 + [(12, 0, 0, 3), QUIET])
    assert find_harm(late, PLAN, TRY_MS) is None


def test_tries_of_stable_that_took_long_are_no_errors_of_the_candidate() -> None:
    """All is frozen for .4 s: 8 of the candidate's requests have two tries given up for time."""
    readings = history([QUIET] * 40 + [QUIET, QUIET])
    two = {10.0: 480, 40.0: 480, 140.0: 480, 290.0: 480, 440.0: 488, 1000.0: 488}
    for place in (-2, -1):
        frozen = replace(readings[place].candidate, retried=16, within_ms=two)
        readings[place] = replace(readings[place], candidate=frozen)
    assert find_harm(readings, PLAN, TRY_MS) is None
    one = {**two, 290.0: 488}  # had each of them taken less than two limits, 8 tries had failed
    for place in (-2, -1):
        failed = replace(readings[place].candidate, within_ms=one)
        readings[place] = replace(readings[place], candidate=failed)
    found = find_harm(readings, PLAN, TRY_MS)
    assert found is not None
    assert (found.check, found.events) == ("errors", 8)


def test_slow_is_three_times_stables_p99_but_never_below_the_plans_floor() -> None:
    quick = VariantCounts(completed=1000, within_ms=times(1000))
    assert slow_bound_ms(quick, PLAN, TRY_MS) == 50.0  # 3 x 10 ms is below the floor of 50 ms
    usual = VariantCounts(completed=1000, within_ms={10.0: 500, 40.0: 995, 1000.0: 1000})
    assert slow_bound_ms(usual, PLAN, TRY_MS) == 120.0  # 3 x 40 ms
    busy = VariantCounts(completed=1000, within_ms={10.0: 500, 140.0: 995, 1000.0: 1000})
    assert slow_bound_ms(busy, PLAN, TRY_MS) == 150.0  # no more than one try may take
    unknown = VariantCounts(completed=99, within_ms=times(99))
    assert slow_bound_ms(unknown, PLAN, TRY_MS) == 150.0


def test_a_candidate_at_the_plans_limits_is_cut_no_more_often_than_stated() -> None:
    draw = np.random.default_rng(5)
    cut = 0
    for _ in range(60):
        failed = draw.binomial(12, 0.01, 50)
        late = draw.binomial(12 - failed, 0.05)
        turns = [
            (12 - int(f) - int(t), int(f), 0, int(t)) for f, t in zip(failed, late, strict=True)
        ]
        cut += harm(turns) is not None
    assert cut <= 1  # 60 steps at 3 x .001: .2 expected


def test_the_ledger_gets_a_sentence_and_numbers() -> None:
    found = harm([QUIET] * 4 + [(0, 12, 0, 0), NOTHING])
    assert found is not None
    assert str(found).startswith("errors: 12 of the ")
    assert "at most 1.00% expected; stable 0 of" in str(found)
    assert found.numbers()["events"] == 12
