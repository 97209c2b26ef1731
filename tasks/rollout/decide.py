"""The next status of a rollout: a pure and total function with no clock and no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from tasks.contracts.requests import TrafficPlan
from tasks.rollout.assignment import NUM_BUCKETS
from tasks.rollout.phases import Ask, Decision, Pause, Phase


@dataclass(frozen=True, kw_only=True)
class RolloutStatus:
    """Phase, step (1 is the first) and the candidate's share of users in basis points."""

    phase: Phase
    has_stable: bool
    step: int | None = None
    share: int = 0
    verdicts: Mapping[int, Decision] = field(default_factory=dict)
    paused_by: Pause | None = None  # only a lapse's pause ends when the lease is renewed

    @property
    def refused(self) -> bool:
        """Return whether a step was cut or judged unfavourably: then only a rollback is left."""
        return any(not decision.favourable for decision in self.verdicts.values())


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What is asked and what was seen; a field says the worst that is known."""

    asked: Ask = Ask.NOTHING
    step: int | None = None
    decision: Decision | None = None
    lease_lapsed: bool = False
    stable_ready: bool = True
    candidate_ready: bool = True
    hotfix_ready: bool = True


@dataclass(frozen=True, kw_only=True)
class Transition:
    """The next status; `refused` says why what was asked did not happen."""

    status: RolloutStatus
    refused: str | None = None
    may_pass: bool = False  # a refusal for which nothing must be rolled back


def next_status(plan: TrafficPlan | None, now: RolloutStatus, seen: Observation) -> Transition:
    """Return what follows; safety is looked at before anything that is asked."""
    safe = _safe(now, seen)
    # After an emergency nothing else happens, but leaving a rollout may always be asked.
    if safe != now and seen.asked is not Ask.ROLL_BACK:
        refused = None if seen.asked is Ask.NOTHING else f"the rollout just became {safe.phase}"
        return Transition(status=safe, refused=refused, may_pass=seen.asked in _TRIED_AGAIN)
    return _ANSWERS[seen.asked](plan, safe, seen)


def _safe(now: RolloutStatus, seen: Observation) -> RolloutStatus:
    if now.phase is Phase.HALTED and seen.stable_ready and not seen.candidate_ready:
        return _paused(now, Pause.SLOT)
    if now.phase is not Phase.STEPPING:
        return now
    if not seen.candidate_ready:
        return _paused(now, Pause.SLOT)
    if not seen.stable_ready:
        # The candidate is the only healthy copy: stable would fail every user it still has.
        return replace(now, phase=Phase.HALTED, share=NUM_BUCKETS, paused_by=None)
    if seen.lease_lapsed:
        return _paused(now, Pause.LEASE)
    return now


def _nothing(_plan: TrafficPlan | None, now: RolloutStatus, _seen: Observation) -> Transition:
    return Transition(status=now)


def _stage(_plan: TrafficPlan | None, now: RolloutStatus, _seen: Observation) -> Transition:
    if now.phase is Phase.STAGED:
        return Transition(status=now)
    if now.phase not in {Phase.EMPTY, Phase.SERVING}:
        return _refuse(now, "another release is in progress")
    return Transition(status=RolloutStatus(phase=Phase.STAGED, has_stable=now.has_stable))


def _begin_step(plan: TrafficPlan | None, now: RolloutStatus, seen: Observation) -> Transition:
    if plan is None:
        return _refuse(now, "the release has no traffic plan")
    refusal = _why_no_step(plan, now, seen)
    if refusal is not None:
        may_pass = now.phase is Phase.HALTED or refusal == _why_not_served(seen)
        return _refuse(now, refusal, may_pass=may_pass)
    step = seen.step or 1
    if now.step is not None and step < now.step:
        return Transition(status=now)  # a task that runs again after its step is over
    if step == now.step and step in now.verdicts:
        return Transition(status=now)
    if now.paused_by is Pause.PERSON:
        return Transition(status=replace(now, step=step))  # it begins paused: a person resumes
    return Transition(status=_stepping(plan, now, step))


def _why_no_step(plan: TrafficPlan, now: RolloutStatus, seen: Observation) -> str | None:
    if now.phase not in {Phase.STAGED, Phase.STEPPING, Phase.PAUSED}:
        return f"expected a staged candidate, found phase {now.phase} ({now.phase.meaning})"
    if not now.has_stable:
        return "there is no stable release to compare with; promote the first release directly"
    return _why_not_served(seen) or _why_not_this_step(plan, now, seen.step)


def _why_not_served(seen: Observation) -> str | None:
    """Return why nobody may meet the candidate: beside a broken stable it would be judged alone."""
    if not seen.candidate_ready:
        return "the candidate's slot does not answer"
    return None if seen.stable_ready else "stable's slot does not answer"


def _why_not_this_step(plan: TrafficPlan, now: RolloutStatus, step: int | None) -> str | None:
    if step is None or not 1 <= step <= len(plan.steps):
        return f"plan {plan.name} has steps 1 to {len(plan.steps)}, found step {step}"
    reached = now.step or 0
    if step > reached + 1:
        return f"the next step is {reached + 1}, found step {step}"
    judged = now.verdicts.get(step - 1)
    if step == reached + 1 and step > 1 and judged is not Decision.PROCEED:
        return f"step {step} needs the verdict {Decision.PROCEED} on step {step - 1}"
    return None


def _stepping(plan: TrafficPlan, now: RolloutStatus, step: int) -> RolloutStatus:
    share = plan.steps[step - 1].share_basis_points
    return replace(now, phase=Phase.STEPPING, step=step, share=share, paused_by=None)


def _record_verdict(_plan: TrafficPlan | None, now: RolloutStatus, seen: Observation) -> Transition:
    if seen.step is None or seen.decision is None:
        return _refuse(now, "expected a step and a decision about it")
    said = now.verdicts.get(seen.step)
    if said is not None:
        other = f"step {seen.step} was judged differently: {said}, now {seen.decision}"
        return Transition(status=now) if said is seen.decision else _refuse(now, other)
    if seen.step != now.step:
        return _refuse(now, f"the step in progress is {now.step}, found a verdict on {seen.step}")
    judged = replace(now, verdicts={**now.verdicts, seen.step: seen.decision})
    if not seen.decision.favourable and now.phase in {Phase.STEPPING, Phase.PAUSED}:
        judged = _paused(judged, Pause.VERDICT)
    return Transition(status=judged)


def _renew(plan: TrafficPlan | None, now: RolloutStatus, seen: Observation) -> Transition:
    if now.paused_by is not Pause.LEASE or _why_not_resumed(plan, now, seen) is not None:
        return Transition(status=now)  # the next renewal asks again
    return _resume(plan, now, seen)


def _pause(_plan: TrafficPlan | None, now: RolloutStatus, _seen: Observation) -> Transition:
    if now.paused_by is Pause.VERDICT:
        return Transition(status=now)  # for good already
    if now.phase in {Phase.STEPPING, Phase.PAUSED}:
        return Transition(status=_paused(now, Pause.PERSON))
    return _refuse(now, f"expected a step in progress, found phase {now.phase}")


def _paused(now: RolloutStatus, paused_by: Pause) -> RolloutStatus:
    return replace(now, phase=Phase.PAUSED, share=0, paused_by=paused_by)


def _cut(_plan: TrafficPlan | None, now: RolloutStatus, seen: Observation) -> Transition:
    if now.phase not in {Phase.STEPPING, Phase.PAUSED} or now.step is None:
        return _refuse(now, f"expected a step in progress, found phase {now.phase}")
    if seen.step != now.step:
        return _refuse(now, f"the step in progress is {now.step}, found a cut of {seen.step}")
    # Harm outweighs a verdict that was favourable before it: nothing resumes, nothing ships.
    verdicts = {**now.verdicts, now.step: Decision.ROLL_BACK}
    return Transition(status=replace(_paused(now, Pause.VERDICT), verdicts=verdicts))


def _resume(plan: TrafficPlan | None, now: RolloutStatus, seen: Observation) -> Transition:
    if now.phase is Phase.STEPPING:
        return Transition(status=now)
    refusal = _why_not_resumed(plan, now, seen)
    if plan is None or now.step is None or refusal is not None:
        return _refuse(now, refusal or "the release has no traffic plan")
    return Transition(status=_stepping(plan, now, now.step))


def _why_not_resumed(plan: TrafficPlan | None, now: RolloutStatus, seen: Observation) -> str | None:
    if now.phase is not Phase.PAUSED or now.step is None or plan is None:
        return f"expected a paused step, found phase {now.phase}"
    if not 1 <= now.step <= len(plan.steps):
        return f"plan {plan.name} has steps 1 to {len(plan.steps)}, found step {now.step}"
    verdict = now.verdicts.get(now.step)
    if verdict is not None and not verdict.favourable:
        return f"the verdict on step {now.step} is {verdict}"
    return _why_not_served(seen)


def _hotfix(_plan: TrafficPlan | None, now: RolloutStatus, seen: Observation) -> Transition:
    """Allow another release of stable: nobody's assignment, share or verdict changes by it."""
    if now.phase in {Phase.EMPTY, Phase.SERVING}:
        return _refuse(now, "no experiment is in progress: release it as usual")
    if not now.has_stable:
        return _refuse(now, "there is no stable release to replace")
    if not seen.hotfix_ready:
        return _refuse(now, "the hotfix's slot does not answer")
    return Transition(status=now)


def _promote(plan: TrafficPlan | None, now: RolloutStatus, seen: Observation) -> Transition:
    if now.phase in {Phase.EMPTY, Phase.SERVING}:
        return _refuse(now, "expected a candidate, found none")
    needs_verdict = now.has_stable and now.phase is not Phase.HALTED
    last = None if plan is None else len(plan.steps)
    if needs_verdict and (last is None or now.verdicts.get(last) is not Decision.SHIP):
        return _refuse(now, f"expected the verdict {Decision.SHIP} on the plan's last step")
    if not seen.candidate_ready:
        return _refuse(now, "the candidate's slot does not answer", may_pass=True)
    if now.paused_by is Pause.PERSON:
        return _refuse(now, "a person paused it: resume it first", may_pass=True)
    return Transition(status=RolloutStatus(phase=Phase.SERVING, has_stable=True))


def _roll_back(_plan: TrafficPlan | None, now: RolloutStatus, seen: Observation) -> Transition:
    after = Phase.SERVING if now.has_stable else Phase.EMPTY
    if now.phase in {Phase.EMPTY, Phase.SERVING}:
        return Transition(status=now)
    if now.phase is Phase.HALTED and not seen.stable_ready and seen.candidate_ready:
        # Rolling back would send the users of the only healthy copy to a broken stable.
        return _refuse(now, "stable does not answer and the candidate does")
    return Transition(status=RolloutStatus(phase=after, has_stable=now.has_stable))


def _refuse(now: RolloutStatus, why: str, *, may_pass: bool = False) -> Transition:
    return Transition(status=now, refused=why, may_pass=may_pass)


_TRIED_AGAIN = frozenset({Ask.BEGIN_STEP, Ask.PROMOTE})  # by tasks that wait before each try


_ANSWERS: Mapping[Ask, Callable[[TrafficPlan | None, RolloutStatus, Observation], Transition]] = {
    Ask.NOTHING: _nothing,
    Ask.STAGE: _stage,
    Ask.BEGIN_STEP: _begin_step,
    Ask.RECORD_VERDICT: _record_verdict,
    Ask.RENEW: _renew,
    Ask.PAUSE: _pause,
    Ask.CUT: _cut,
    Ask.RESUME: _resume,
    Ask.HOTFIX: _hotfix,
    Ask.PROMOTE: _promote,
    Ask.ROLL_BACK: _roll_back,
}
