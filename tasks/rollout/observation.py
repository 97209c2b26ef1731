"""What was seen in a traffic step: the judge's whole input (`step_observation/3`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, cast

from tasks.contracts.catalogues import HIT
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import check_format, parse_object, pretty_json
from tasks.contracts.requests import TrafficPlan, parse_utc, plan_from_record
from tasks.rollout.assignment import NUM_BUCKETS
from tasks.rollout.step_sums import Outcomes, VariantSums
from tasks.rollout.step_users import NEITHER
from tasks.statistics.guardrails import Quantile, quantile
from tasks.statistics.user_means import UserMeans

QUANTILE_ERROR_RATE = 0.01
NEWEST = 3
HOTFIX_SETTLES_SECONDS = 2.0  # until every request meets the new stable


class Variant(StrEnum):
    """What a user was assigned to, whoever answered in the end."""

    CANDIDATE = "candidate"
    STABLE = "stable"


@dataclass(frozen=True, kw_only=True)
class VariantSeen:
    """Requests of the users assigned to one variant in one step."""

    users: int
    requests: int
    not_asked: int  # its slot was ejected just then: stable answered at once
    failed: int  # asked, and the user got its error
    fell_back: int  # asked, and another slot answered before the time limit of one try
    slow: int  # asked, and the answer came after that limit, whoever gave it
    answered: int  # its own slot gave the answer
    p50_ms: Quantile | None
    p95_ms: Quantile | None
    p99_ms: Quantile | None
    stable_too: int = 0  # asked, and the user got stable's refusal or error of the same request

    @property
    def asked(self) -> int:
        """Return how many requests met the variant's own slot."""
        return self.requests - self.not_asked


@dataclass(frozen=True, kw_only=True)
class ApartSeen:
    """Requests of a step's users that no bucket could have brought to the candidate: in no arm."""

    users: int = 0  # some of them may be in an arm by other requests
    requests: int = 0


@dataclass(frozen=True, kw_only=True)
class CutSeen:
    """The ledger entry of a step that was cut while it baked."""

    sequence: int
    at: str
    who: str
    why: str


@dataclass(frozen=True, kw_only=True)
class HotfixSeen:
    """The ledger entry by which stable became another release in the middle of the step."""

    sequence: int
    at: str
    instead_of: int  # release numbers
    now: int
    left_out: int = 0  # requests from before: they met another stable


@dataclass(frozen=True, kw_only=True)
class StepObservation:
    """The numbers of one step; outcomes are of users who meet the candidate for the first time."""

    model: str
    release_id: str
    rollout: str
    salt: str
    step: int  # 1 is the first
    share: int  # basis points
    earlier_share: int  # the largest share of the steps before
    plan: TrafficPlan
    candidate: VariantSeen
    stable: VariantSeen
    candidate_outcome: UserMeans  # buckets from the earlier share up to this one
    stable_outcome: UserMeans  # buckets above this share
    requests_without_outcome: int
    cut: CutSeen | None = None
    hotfix: HotfixSeen | None = None  # the last one
    outcome: str = HIT
    apart: ApartSeen = ApartSeen()

    def to_text(self) -> str:
        """Return `observation.json` as text."""
        return pretty_json({"format": f"step_observation/{NEWEST}", **asdict(self)})

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> StepObservation:
        """Read an observation; errors name `where`."""
        record = parse_object(text, where)
        number = check_format(record, "step_observation", NEWEST, where)
        raw = cast("dict[str, Any]", {k: v for k, v in record.items() if k != "format"})
        try:
            for variant in Variant:
                raw[variant] = _variant(raw[variant])
                raw[f"{variant}_outcome"] = UserMeans(**raw[f"{variant}_outcome"])
            cut = raw.get("cut")  # since format 2
            raw["cut"] = None if cut is None else CutSeen(**cut)
            hotfix = raw.get("hotfix")
            raw["hotfix"] = None if hotfix is None else HotfixSeen(**hotfix)
            raw["apart"] = ApartSeen(**raw.get("apart", {}))  # since format 3
            return cls(**{**raw, "plan": plan_from_record(raw["plan"], where)})
        except (KeyError, TypeError) as error:
            message = f"{where}: expected a complete step_observation/{number}, found: {error!r}"
            raise BadRequestError(message) from error


def _variant(raw: Mapping[str, Any]) -> VariantSeen:
    quantiles = {
        name: None if raw[name] is None else Quantile(**raw[name])
        for name in ("p50_ms", "p95_ms", "p99_ms")
    }
    return VariantSeen(**{**raw, **quantiles})


@dataclass(frozen=True, kw_only=True)
class StepFacts:
    """What the state record knows of a step when it begins (in `step.json`)."""

    model: str
    release_id: str
    rollout: str
    salt: str
    step: int
    candidate_colour: str
    per_try_timeout_ms: float
    plan: TrafficPlan
    outcome: str = HIT

    @property
    def share(self) -> int:
        """Return the candidate's share in basis points."""
        return self.plan.steps[self.step - 1].share_basis_points

    @property
    def earlier_share(self) -> int:
        """Return the largest share before this step: those users know the candidate already."""
        earlier = self.plan.steps[: self.step - 1]
        return max((step.share_basis_points for step in earlier), default=0)


def observe(
    facts: StepFacts,
    exposures: Iterable[Mapping[str, Any]],
    outcomes: Iterable[Mapping[str, Any]],
    hotfix: HotfixSeen | None = None,
) -> StepObservation:
    """Join exposures of a step with outcomes by request id; analysis is by assignment.

    Every exposure is a request, also where a client gave several the same id: its outcome is then
    the first one's. A step is judged against one stable release: what came before a hotfix is left
    out.
    """
    sums = {
        variant: VariantSums(colour=colour, per_try_timeout_ms=facts.per_try_timeout_ms)
        for variant, colour in ((Variant.CANDIDATE, facts.candidate_colour), (Variant.STABLE, None))
    }
    hits, without_outcome = Outcomes(outcomes), 0
    apart, apart_requests, left_out = set(), 0, 0
    since = None if hotfix is None else parse_utc(hotfix.at).timestamp() + HOTFIX_SETTLES_SECONDS
    for line in exposures:
        if line["step"] != facts.step:
            continue
        if line["variant"] == NEITHER:
            apart.add(line["user"])
            apart_requests += 1
        elif since is not None and line["time"] < since:
            left_out += 1
        else:
            variant = Variant(line["variant"])
            without_outcome += not hits.knows(line["request_id"])
            hit = hits.take(line["request_id"])
            is_new = variant is Variant.STABLE or line["bucket"] >= facts.earlier_share
            sums[variant].add(line, hit if is_new else None)
    return StepObservation(
        model=facts.model,
        release_id=facts.release_id,
        rollout=facts.rollout,
        salt=facts.salt,
        step=facts.step,
        share=facts.share,
        earlier_share=facts.earlier_share,
        plan=facts.plan,
        candidate=_seen(sums[Variant.CANDIDATE]),
        stable=_seen(sums[Variant.STABLE]),
        candidate_outcome=sums[Variant.CANDIDATE].users.means(),
        stable_outcome=sums[Variant.STABLE].users.means(),
        requests_without_outcome=without_outcome,
        hotfix=None if hotfix is None else replace(hotfix, left_out=left_out),
        outcome=facts.outcome,
        apart=ApartSeen(users=len(apart), requests=apart_requests),
    )


def _seen(sums: VariantSums) -> VariantSeen:
    quantiles = {
        name: quantile(sums.times, share, QUANTILE_ERROR_RATE)
        for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99))
    }
    return VariantSeen(
        users=len(sums.users.places),
        requests=sums.requests,
        not_asked=sums.not_asked,
        failed=sums.failed,
        fell_back=sums.fell_back,
        slow=sums.slow,
        answered=sums.answered,
        stable_too=sums.stable_too,
        **quantiles,
    )


def share_of_users(share: int) -> float:
    """Return a share in basis points as 0..1."""
    return share / NUM_BUCKETS
