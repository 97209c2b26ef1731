"""Counts of a step through restarts of Envoy and a hotfix of stable."""

from __future__ import annotations

from dataclasses import replace

from tasks.rollout.decide import RolloutStatus
from tasks.rollout.envoy_stats import SlotCounts, Statistics, VariantCounts, VariantName
from tasks.rollout.harm import Harm, find_harm
from tasks.rollout.harm_watch import HarmWatch, StepWatch, _Seen
from tasks.rollout.phases import Phase
from tasks.rollout.record import Colour, Roles, SlotContent, StateRecord
from tests.unit.rollout.test_harm import PLAN, TRY_MS, times

ROUNDS_BEFORE, ROUNDS_AFTER = 120, 40


def candidate(rounds: int, first: int = 0) -> VariantCounts:
    """After some quarters of a second: 12 good answers each, and in every third one late one."""
    good = 12 * rounds
    late = rounds // 3 - first // 3
    return VariantCounts(
        completed=good + late, retried=late, exhausted=rounds, within_ms=times(good, 0, late)
    )


def seen(found: VariantCounts, stable_rounds: int) -> _Seen:
    good = 20 * stable_rounds
    stable = VariantCounts(
        completed=good, failed_rpcs=stable_rounds, within_ms=times(good) if good else {}
    )
    return _Seen(candidate=found, stable=stable, slot=SlotCounts(asked=found.completed))


def test_what_was_late_before_envoy_was_started_again_is_no_error_afterwards() -> None:
    watch = StepWatch(step=("r2", 2, 0.0, 1))
    for moment in range(ROUNDS_BEFORE):
        watch.add(seen(candidate(moment), moment), moment)
        assert find_harm(watch.readings, PLAN, TRY_MS) is None
    # A new Envoy has no times until its first answers are counted.
    watch.add(seen(VariantCounts(), 0), ROUNDS_BEFORE)
    late = watch.readings[-1].candidate.slower_than(TRY_MS)
    assert late == watch.readings[-2].candidate.slower_than(TRY_MS) > 0
    for moment in range(1, ROUNDS_AFTER):
        watch.add(seen(candidate(moment), moment), ROUNDS_BEFORE + moment)
        assert find_harm(watch.readings, PLAN, TRY_MS) is None
    assert watch.readings[-1].candidate.slower_than(TRY_MS) == late + (ROUNDS_AFTER - 1) // 3


def test_what_began_anew_is_counted_from_there() -> None:
    watch = StepWatch(step=("r2", 2, 0.0, 1))
    watch.add(seen(candidate(0), 0), 0)
    for moment, rounds in enumerate((30, 60, 6, 12), start=1):
        watch.add(seen(candidate(rounds), rounds), moment)
    assert watch.readings[-1].stable.failed_rpcs == 60 + 12
    total = watch.readings[-1].candidate
    assert total.timed == candidate(60).timed + candidate(12).timed
    assert total.completed == candidate(60).completed + candidate(12).completed
    assert total.exhausted == 72


def test_failures_that_went_on_to_users_are_followed_through_a_keeper_that_counts_anew() -> None:
    watch = StepWatch(step=("r2", 2, 0.0, 1))
    for moment, number in enumerate((4, 6, 1, 2)):
        slot = SlotCounts(passed_on=number)
        watch.add(replace(seen(candidate(moment), moment), slot=slot), moment)
    assert watch.readings[-1].slot.passed_on == 2 + 2


def test_stables_grpc_errors_count_as_its_errors_though_its_routes_do_not_count_them() -> None:
    """Both slots fail three gRPC requests in twenty, each on its own: no fault of the candidate."""
    record = StateRecord(
        model="shop",
        roles=Roles(stable=Colour.BLUE, candidate=Colour.GREEN),
        slots={
            Colour.BLUE: SlotContent(release_id="first", release_number=1),
            Colour.GREEN: SlotContent(release_id="second", release_number=2),
        },
        status=RolloutStatus(phase=Phase.STEPPING, has_stable=True, step=1, share=2500),
        release_id="second",
        plan=PLAN,
        per_try_timeout_ms=TRY_MS,
    )

    def first_harm(stables_share: int) -> Harm | None:
        watch, found = HarmWatch(), None
        for moment in range(80):
            found = found or watch.harm(record, statistics(moment, stables_share), moment / 4)
        return found

    def statistics(moment: int, stables_share: int) -> Statistics:
        asked = 20 * moment
        counts = VariantCounts(completed=asked, within_ms=times(asked))
        names = [
            VariantName(model="shop", variant=variant, release_number=number)
            for variant, number in (("candidate", 2), ("stable", 1))
        ]
        return Statistics(
            variants={
                names[0]: replace(counts, retried=3 * moment),
                names[1]: replace(counts, failed_rpcs=stables_share * moment),
            },
            slots={("shop", Colour.GREEN): SlotCounts(asked=asked)},
        )

    assert first_harm(3) is None
    assert first_harm(0) is not None
