"""A rollout whose slots break and heal while everybody asks: what no history may bring about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tasks.contracts.requests import PLANS
from tasks.rollout.decide import Observation, RolloutStatus, Transition, next_status
from tasks.rollout.phases import Ask, Decision, Pause, Phase

PLAN = PLANS["replay"]  # 5 %, 25 %, 50 %
ALL = 10_000


class Rollout(RuleBasedStateMachine):
    """One model's rollout; what is seen of a slot is how it is."""

    def __init__(self) -> None:
        super().__init__()
        self.status = RolloutStatus(phase=Phase.EMPTY, has_stable=False)
        self.stable_up = True
        self.candidate_up = True

    def ask(self, ask: Ask, **others: object) -> Transition:
        """Ask in the world as it is, and ask again: an accepted command, repeated, changes nothing."""
        before = self.status
        seen = Observation(
            asked=ask,
            stable_ready=self.stable_up,
            candidate_ready=self.candidate_up,
            **others,  # type: ignore[arg-type]
        )
        found = next_status(PLAN, before, seen)
        again = next_status(PLAN, found.status, replace(seen, lease_lapsed=False))
        assert found.refused is not None or again.status == found.status
        self.status = found.status
        if before.paused_by is Pause.PERSON and self.status.phase is Phase.STEPPING:
            assert ask is Ask.RESUME, "somebody else ended a person's pause"
        self._follow_roles(before, ask, accepted=found.refused is None)
        return found

    def _follow_roles(self, before: RolloutStatus, ask: Ask, *, accepted: bool) -> None:
        if ask is Ask.PROMOTE and before.phase is not self.status.phase is Phase.SERVING:
            assert self.candidate_up, "a broken slot was made stable"
            self.stable_up = self.candidate_up
        if ask is Ask.HOTFIX and accepted:
            self.stable_up = True  # another slot is stable, and it answers
            self.status = self._looked_at()
        if ask is Ask.STAGE and before.phase is not self.status.phase:
            self.candidate_up = True  # a slot is staged only when it answers

    def _looked_at(self) -> RolloutStatus:
        seen = Observation(stable_ready=self.stable_up, candidate_ready=self.candidate_up)
        return next_status(PLAN, self.status, seen).status

    @initialize(has_stable=st.booleans())
    def begins_with_or_without_a_stable_release(self, has_stable: bool) -> None:
        if has_stable:
            self.status = RolloutStatus(phase=Phase.SERVING, has_stable=True)

    @rule(
        ask=st.sampled_from(Ask),
        step=st.one_of(st.none(), st.integers(0, 4)),
        decision=st.one_of(st.none(), st.sampled_from(Decision)),
    )
    def anybody_asks_anything(self, ask: Ask, step: int | None, decision: Decision | None) -> None:
        self.ask(ask, step=step, decision=decision)

    # The rules below ask what fits, so that histories get far.
    @precondition(lambda self: self.status.phase in {Phase.EMPTY, Phase.SERVING})
    @rule()
    def a_candidate_is_staged(self) -> None:
        self.ask(Ask.STAGE)

    @precondition(lambda self: self.status.phase in {Phase.STAGED, Phase.STEPPING, Phase.PAUSED})
    @rule(next_one=st.booleans())
    def the_step_or_the_next_one_begins(self, next_one: bool) -> None:
        self.ask(Ask.BEGIN_STEP, step=(self.status.step or 0) + next_one)

    @precondition(lambda self: self.status.step is not None)
    @rule(well=st.booleans())
    def the_step_is_judged(self, well: bool) -> None:
        last = self.status.step == len(PLAN.steps)
        good = Decision.SHIP if last else Decision.PROCEED
        decision = good if well else Decision.KEEP_CHAMPION
        self.ask(Ask.RECORD_VERDICT, step=self.status.step, decision=decision)

    @precondition(lambda self: self.status.phase is Phase.STEPPING)
    @rule()
    def the_keeper_cuts(self) -> None:
        self.ask(Ask.CUT, step=self.status.step)
        assert self.status.share == 0 or self.status.phase is Phase.HALTED

    @precondition(lambda self: self.status.phase in {Phase.STEPPING, Phase.PAUSED})
    @rule(ask=st.sampled_from([Ask.RENEW, Ask.PAUSE, Ask.RESUME]))
    def the_lease_is_renewed_or_a_person_pauses_or_resumes(self, ask: Ask) -> None:
        self.ask(ask)

    @precondition(lambda self: self.status.phase not in {Phase.EMPTY, Phase.SERVING})
    @rule(hotfix_up=st.booleans())
    def stable_is_hotfixed(self, hotfix_up: bool) -> None:
        before = self.status
        broken = before.phase is Phase.STEPPING and not (self.stable_up and self.candidate_up)
        found = self.ask(Ask.HOTFIX, hotfix_ready=hotfix_up)
        assert (found.refused is None) == (hotfix_up and before.has_stable and not broken)
        if found.refused is None:  # nothing that was judged is lost
            assert self.status.verdicts == before.verdicts
            if before.phase is not Phase.HALTED or self.candidate_up:  # nobody is moved
                assert self.status == before

    @precondition(lambda self: self.status.phase not in {Phase.EMPTY, Phase.SERVING})
    @rule(ask=st.sampled_from([Ask.PROMOTE, Ask.ROLL_BACK]))
    def the_release_ends(self, ask: Ask) -> None:
        self.ask(ask)

    @rule()
    def lease_lapses(self) -> None:
        self.ask(Ask.NOTHING, lease_lapsed=True)
        assert self.status.phase is not Phase.STEPPING

    @rule(stable_up=st.booleans(), candidate_up=st.booleans())
    def slots_break_or_heal(self, stable_up: bool, candidate_up: bool) -> None:
        halted = self.status.phase is Phase.HALTED
        self.stable_up, self.candidate_up = stable_up, candidate_up
        self.ask(Ask.NOTHING)  # the keeper looks all the time
        if halted and not stable_up:
            assert self.status.share == ALL, "a halted promotion went back to a dead stable"

    @invariant()
    def users_meet_the_candidate_in_a_step_where_both_slots_answer_or_halted_and_else_never(
        self,
    ) -> None:
        """Beside a broken stable only a step halts (ADR 12): staged or paused, it takes nobody."""
        if self.status.phase is Phase.STEPPING:
            assert self.stable_up
            assert self.candidate_up
            assert self.status.share == PLAN.steps[(self.status.step or 0) - 1].share_basis_points
        elif self.status.phase is Phase.HALTED:
            assert self.status.share == ALL
            assert self.candidate_up or not self.stable_up
        else:
            assert self.status.share == 0

    @invariant()
    def a_halted_promotion_stays_with_the_slot_that_answers_whatever_is_asked(self) -> None:
        if self.status.phase is not Phase.HALTED or self.stable_up:
            return
        for ask in Ask:
            for step in (None, 1, 2, 3):
                seen = Observation(
                    asked=ask,
                    step=step,
                    decision=Decision.ROLL_BACK,
                    lease_lapsed=True,
                    stable_ready=False,
                    candidate_ready=self.candidate_up,
                )
                after = next_status(PLAN, self.status, seen).status
                promoted = ask is Ask.PROMOTE and after.phase is Phase.SERVING
                # With both slots dead nobody loses an answer by a person's rollback.
                given_up = ask is Ask.ROLL_BACK and not self.candidate_up
                assert after.share == ALL or promoted or given_up

    @invariant()
    def every_state_can_be_aborted(self) -> None:
        seen = Observation(
            asked=Ask.ROLL_BACK, stable_ready=self.stable_up, candidate_ready=self.candidate_up
        )
        left = next_status(PLAN, self.status, seen)
        if left.refused is not None:  # a rollback would end at a dead stable: the other way out
            assert self.candidate_up
            assert not self.stable_up
            left = next_status(PLAN, self.status, replace(seen, asked=Ask.PROMOTE))
        assert left.refused is None
        assert left.status.phase in {Phase.EMPTY, Phase.SERVING}
        assert (left.status.share, left.status.verdicts) == (0, {})


def moves() -> Iterator[Callable[[Rollout], object]]:
    """Everything that may be asked or happen next."""

    def asked(ask: Ask, **others: object) -> Callable[[Rollout], object]:
        return lambda world: world.ask(ask, **others)

    simple = set(Ask) - {Ask.BEGIN_STEP, Ask.RECORD_VERDICT, Ask.CUT}
    yield from (asked(ask) for ask in simple)
    yield asked(Ask.HOTFIX, hotfix_ready=False)
    yield asked(Ask.NOTHING, lease_lapsed=True)
    for step in range(1, len(PLAN.steps) + 1):
        yield asked(Ask.BEGIN_STEP, step=step)
        yield asked(Ask.CUT, step=step)
        for decision in Decision:
            yield asked(Ask.RECORD_VERDICT, step=step, decision=decision)
    for stable_up, candidate_up in product((True, False), repeat=2):
        yield lambda world, up=(stable_up, candidate_up): world.slots_break_or_heal(*up)


def test_in_no_state_that_can_be_reached_do_users_meet_the_candidate_otherwise() -> None:
    """All states, not a sample: what the machine above draws seldom is looked at as well."""
    world = Rollout()
    reached: dict[str, tuple[RolloutStatus, bool, bool]] = {}
    waiting = [
        (RolloutStatus(phase=Phase.EMPTY, has_stable=False), True, True),
        (RolloutStatus(phase=Phase.SERVING, has_stable=True), True, True),
    ]
    every = list(moves())
    while waiting:
        start = waiting.pop()
        for move in every:
            world.status, world.stable_up, world.candidate_up = start
            move(world)
            world.users_meet_the_candidate_in_a_step_where_both_slots_answer_or_halted_and_else_never()
            found = (world.status, world.stable_up, world.candidate_up)
            if reached.setdefault(key(found), found) is found:
                waiting.append(found)
    assert {status.phase for status, _, _ in reached.values()} == set(Phase)


def key(world: tuple[RolloutStatus, bool, bool]) -> str:
    status, *up = world
    return repr((replace(status, verdicts=dict(sorted(status.verdicts.items()))), *up))


TestRollout = Rollout.TestCase
TestRollout.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)

statuses = st.builds(
    RolloutStatus,
    phase=st.sampled_from(Phase),
    has_stable=st.booleans(),
    step=st.one_of(st.none(), st.integers(-2, 12)),
    share=st.integers(0, ALL),
    verdicts=st.dictionaries(st.integers(-2, 12), st.sampled_from(Decision), max_size=4),
    paused_by=st.one_of(st.none(), st.sampled_from(Pause)),
)
observations = st.builds(
    Observation,
    asked=st.sampled_from(Ask),
    step=st.one_of(st.none(), st.integers(-2, 12)),
    decision=st.one_of(st.none(), st.sampled_from(Decision)),
    lease_lapsed=st.booleans(),
    stable_ready=st.booleans(),
    candidate_ready=st.booleans(),
)


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.none(), st.sampled_from(list(PLANS.values()))), statuses, observations)
def test_every_status_that_can_be_written_down_has_an_answer(
    plan: object, now: RolloutStatus, seen: Observation
) -> None:
    found = next_status(plan, now, seen)  # type: ignore[arg-type]
    assert 0 <= found.status.share <= ALL
    if found.status.phase is Phase.STEPPING and now.phase is not Phase.STEPPING:
        assert found.status.share in {step.share_basis_points for step in plan.steps}  # type: ignore[attr-defined]
