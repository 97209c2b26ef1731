"""The judge: a pure function from the observation of a step to its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.contracts.catalogues import HIT
from tasks.contracts.json_types import pretty_json
from tasks.rollout.harm import MAX_SLOW_SHARE
from tasks.rollout.observation import (
    CutSeen,
    HotfixSeen,
    StepObservation,
    VariantSeen,
    share_of_users,
)
from tasks.rollout.phases import Decision
from tasks.statistics.guardrails import rate_lower_bound
from tasks.statistics.planner import visible_effect
from tasks.statistics.sample_ratio import sample_ratio_p
from tasks.statistics.sequential import look_levels
from tasks.statistics.user_means import Difference, welch

RATE_ERROR_RATE = 0.01  # how often a healthy candidate's rate is called too high, per step
MIN_ANSWERED_SHARE = 0.9
PLANNED_POWER = 0.8
LOOKS = (1.0,)  # shares of the ship step's data at which it is tested: once, when it has baked


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was checked; `passed` is None where there is too little to tell."""

    name: str
    expected: str
    found: str
    passed: bool | None


@dataclass(frozen=True, kw_only=True)
class Effect:
    """The test of the outcome: candidate minus stable, means per user."""

    candidate_mean: float
    stable_mean: float
    candidate_users: int
    stable_users: int
    difference: float
    standard_error: float
    lower_bound: float
    upper_bound: float
    tested_bound: float  # the difference must be above it
    p: float
    level: float
    visible_effect: float  # the smallest distance to the bound that the test sees at 80 % power


@dataclass(frozen=True, kw_only=True)
class StepVerdict:
    """What was decided and why (`step_verdict/1`)."""

    observation: StepObservation
    decision: Decision
    checks: tuple[Check, ...]
    sentences: tuple[str, ...]
    effect: Effect | None = None

    def to_text(self) -> str:
        """Return `verdict.json` as text."""
        seen = self.observation
        step = seen.plan.steps[seen.step - 1]
        return pretty_json(
            {
                "format": "step_verdict/1",
                "model": seen.model,
                "release_id": seen.release_id,
                "rollout": seen.rollout,
                "step": seen.step,
                "steps": len(seen.plan.steps),
                "share_basis_points": seen.share,
                "judgement": step.judgement,
                "decision": self.decision.value,
                "favourable": self.decision.favourable,
                "checks": [asdict(check) for check in self.checks],
                "effect": None if self.effect is None else asdict(self.effect),
                "variants": {
                    "candidate": _counts(seen.candidate),
                    "stable": _counts(seen.stable),
                },
                "sentences": list(self.sentences),
                **({} if seen.outcome == HIT else {"outcome": seen.outcome}),
                **({"apart": asdict(seen.apart)} if seen.apart.requests else {}),
            }
        )


def _counts(seen: VariantSeen) -> dict[str, Any]:
    """Return what a verdict says of a variant; one of before `stable_too` reads as it did."""
    counts = asdict(seen)
    return counts if seen.stable_too else {k: v for k, v in counts.items() if k != "stable_too"}


def judge(seen: StepObservation) -> StepVerdict:
    """Judge guardrails, and at the ship step the outcome; inconclusive keeps the champion."""
    step = seen.plan.steps[seen.step - 1]
    guardrails: tuple[Check, ...] = (
        _sample_ratio(seen),
        _errors(seen),
        _slow(seen),
        _latency(seen),
    )
    enough = _enough_users(seen)
    if seen.hotfix is not None:
        guardrails = (_hotfix(seen.hotfix), *guardrails)
    if seen.cut is not None:
        return _verdict(seen, Decision.ROLL_BACK, (_cut(seen.cut), enough, *guardrails))
    if any(check.passed is False for check in guardrails):
        return _verdict(seen, Decision.ROLL_BACK, (enough, *guardrails))
    if not enough.passed:
        return _verdict(seen, Decision.KEEP_CHAMPION, (enough, *guardrails))
    if step.judgement == "guardrails":
        return _verdict(seen, Decision.PROCEED, (enough, *guardrails))
    met = _met(seen)
    effect = measure_effect(seen)
    decision = _ship(effect) if met.passed else Decision.KEEP_CHAMPION
    checks = (enough, *guardrails, met, _outcome(seen, effect))
    return _verdict(seen, decision, checks, effect=effect)


def _cut(cut: CutSeen) -> Check:
    found = f"cut by {cut.who} at {cut.at} (ledger entry {cut.sequence}): {cut.why}"
    return Check(name="not cut", expected="no cut while it baked", found=found, passed=False)


def _hotfix(hotfix: HotfixSeen) -> Check:
    """Mark a step whose stable changed: it is judged on what came after, by the same rules."""
    found = (
        f"release {hotfix.now} instead of {hotfix.instead_of} since {hotfix.at} (ledger entry "
        f"{hotfix.sequence}); {hotfix.left_out} requests from before are left out"
    )
    expected = "one stable release in all that is judged"
    return Check(name="stable hotfixed", expected=expected, found=found, passed=True)


def _ship(effect: Effect) -> Decision:
    if effect.p <= effect.level:
        return Decision.SHIP
    harmful = effect.upper_bound < min(effect.tested_bound, 0.0)
    return Decision.ROLL_BACK if harmful else Decision.KEEP_CHAMPION


def _enough_users(seen: StepObservation) -> Check:
    wanted = seen.plan.steps[seen.step - 1].min_users
    counts = [seen.candidate.users, seen.stable.users]
    if seen.plan.steps[seen.step - 1].judgement == "ship":
        counts += [seen.candidate_outcome.users, seen.stable_outcome.users]
    return Check(
        name="enough users",
        expected=f"at least {wanted} users per variant",
        found=f"{min(counts[0::2])} with the candidate, {min(counts[1::2])} with stable",
        passed=min(counts) >= wanted,
    )


def _sample_ratio(seen: StepObservation) -> Check:
    share = share_of_users(seen.share)
    p = sample_ratio_p(seen.candidate.users, seen.stable.users, share)
    alpha = seen.plan.sample_ratio_alpha
    return Check(
        name="sample ratio",
        expected=f"users split {share:.2%} to {1 - share:.2%} (alarm at p < {alpha:g})",
        found=f"{seen.candidate.users} to {seen.stable.users} users, p = {p:.3g}",
        passed=p >= alpha,
    )


def _errors(seen: StepObservation) -> Check:
    """Check what the candidate alone fails or refuses; `stable_too` is held against nobody.

    What only now and then fails is not paired with a failure of stable's: there its share counts.
    """
    candidate, stable, plan = seen.candidate, seen.stable, seen.plan
    own = stable.failed / stable.asked if stable.asked else 0.0
    limit = max(plan.max_error_ratio, plan.max_latency_ratio * own)
    bad = candidate.failed + candidate.fell_back
    bound = rate_lower_bound(bad, candidate.asked, RATE_ERROR_RATE)
    expected = f"at most {limit:.2%} of the requests that meet the candidate's slot fail there"
    if limit > plan.max_error_ratio:
        expected += f", {plan.max_latency_ratio:g} times stable's share"
    found = (
        f"{candidate.failed} failed and {candidate.fell_back} taken over by stable of "
        f"{candidate.asked}: above {bound:.2%} for sure (99 %); "
        f"{candidate.not_asked} more did not meet it, as it was ejected"
    )
    if candidate.stable_too:
        found += f"; {candidate.stable_too} of them stable refused or failed as well"
    passed = bound <= limit if candidate.asked else None
    return Check(name="errors", expected=expected, found=found, passed=passed)


def _slow(seen: StepObservation) -> Check:
    """Check the share of slow answers: the p95 alone would not see all of a hanging slot."""
    candidate, stable = seen.candidate, seen.stable
    own = stable.slow / stable.asked if stable.asked else 0.0
    limit = max(MAX_SLOW_SHARE, seen.plan.max_latency_ratio * own)
    bound = rate_lower_bound(candidate.slow, candidate.asked, RATE_ERROR_RATE)
    return Check(
        name="time limit",
        expected=(
            f"at most {limit:.2%} over the time limit of one try: {MAX_SLOW_SHARE:.0%}, "
            f"or {seen.plan.max_latency_ratio:g} times stable's share"
        ),
        found=(
            f"{candidate.slow} of {candidate.asked}: above {bound:.2%} for sure (99 %); "
            f"stable {stable.slow} of {stable.asked}"
        ),
        passed=bound <= limit if candidate.asked else None,
    )


def _met(seen: StepObservation) -> Check:
    """Check that users met the candidate: answers of stable would make it look like stable."""
    candidate = seen.candidate
    requests = candidate.requests - candidate.stable_too
    share = candidate.answered / requests if requests else 0.0
    return Check(
        name="answered by the candidate",
        expected=f"at least {MIN_ANSWERED_SHARE:.0%} of its users' requests",
        found=f"{candidate.answered} of {requests} ({share:.1%})",
        passed=share >= MIN_ANSWERED_SHARE,
    )


def _latency(seen: StepObservation) -> Check:
    plan, candidate, stable = seen.plan, seen.candidate.p95_ms, seen.stable.p95_ms
    expected = (
        f"p95 at most {plan.max_latency_ratio:g} times stable's, "
        f"or at most {plan.min_latency_bound_ms:g} ms"
    )
    if candidate is None or stable is None:
        found = "a variant without requests"
        return Check(name="latency", expected=expected, found=found, passed=None)
    found = f"p95 {candidate.estimate:.1f} ms against {stable.estimate:.1f} ms"
    limit = plan.max_latency_ratio * (stable.estimate if stable.high is None else stable.high)
    passed = candidate.low <= max(limit, plan.min_latency_bound_ms)
    return Check(name="latency", expected=expected, found=found, passed=passed)


def measure_effect(seen: StepObservation) -> Effect:
    """Return the test of candidate minus stable on users who met the candidate just now."""
    candidate, stable = seen.candidate_outcome, seen.stable_outcome
    difference: Difference = welch(candidate, stable)
    level = look_levels(seen.plan.error_rate, LOOKS)[-1]
    bound = seen.plan.margin if seen.plan.hypothesis == "superiority" else -seen.plan.margin
    return Effect(
        candidate_mean=candidate.mean,
        stable_mean=stable.mean,
        candidate_users=candidate.users,
        stable_users=stable.users,
        difference=difference.estimate,
        standard_error=difference.standard_error,
        lower_bound=difference.lower_bound(level),
        upper_bound=difference.upper_bound(level),
        tested_bound=bound,
        p=difference.p_not_above(bound),
        level=level,
        visible_effect=visible_effect(
            standard_error=difference.standard_error, error_rate=level, power=PLANNED_POWER
        ),
    )


def _outcome(seen: StepObservation, effect: Effect) -> Check:
    return Check(
        name=seen.plan.hypothesis,
        expected=(
            f"{seen.outcome} per user more than {effect.tested_bound:+.3f} above stable's "
            f"(one-sided, error rate {effect.level:g}, one look)"
        ),
        found=(
            f"{effect.candidate_mean:.4f} ({effect.candidate_users} users) against "
            f"{effect.stable_mean:.4f} ({effect.stable_users} users): {effect.difference:+.4f}, "
            f"for sure above {effect.lower_bound:+.4f}, p = {effect.p:.3g}"
        ),
        passed=effect.p <= effect.level,
    )


_MEANINGS = {
    Decision.PROCEED: "the guardrails hold: the next step may begin",
    Decision.SHIP: "the candidate passed the plan's test: promote it",
    Decision.KEEP_CHAMPION: "no verdict for the candidate: the champion stays",
    Decision.ROLL_BACK: "the candidate harms: take it out",
}


def _verdict(
    seen: StepObservation,
    decision: Decision,
    checks: Sequence[Check],
    effect: Effect | None = None,
) -> StepVerdict:
    head = (
        f"Step {seen.step} of {len(seen.plan.steps)} of {seen.model} ({seen.rollout}, "
        f"{share_of_users(seen.share):.0%} of users): {_MEANINGS[decision]}."
    )
    marks = {True: "passed", False: "failed", None: "no verdict"}
    lines = [
        f"{c.name}: {marks[c.passed]}; expected {c.expected}; found {c.found}." for c in checks
    ]
    if effect is not None:
        lines.append(
            f"With this many users the test sees, four times in five, a candidate that is "
            f"{effect.visible_effect:.4f} above the tested bound."
        )
    if seen.apart.requests:
        lines.append(
            f"{seen.apart.requests} requests of {seen.apart.users} users are in neither variant: with a "
            "body too long to be asked again, or of no stated length, stable answers whatever the "
            "user's bucket."
        )
    return StepVerdict(
        observation=seen,
        decision=decision,
        checks=tuple(checks),
        sentences=(head, *lines),
        effect=effect,
    )


def verify_verdict(folder: Path) -> list[str]:
    """Return what is wrong with a sealed verdict: it must follow from its observation."""
    text = (folder / "observation.json").read_bytes()
    expected = judge(StepObservation.parse(text, "observation.json")).to_text()
    if (folder / "verdict.json").read_text(encoding="utf-8") == expected:
        return []
    return ["verdict.json: differs from what the judge makes of observation.json"]


def verdict_numbers(verdict: StepVerdict) -> dict[str, Any]:
    """Return the figures that go into the ledger."""
    seen = verdict.observation
    return {
        "users": {"candidate": seen.candidate.users, "stable": seen.stable.users},
        "requests": {"candidate": seen.candidate.requests, "stable": seen.stable.requests},
        "checks": {check.name: check.passed for check in verdict.checks},
        "effect": None if verdict.effect is None else asdict(verdict.effect),
    }
