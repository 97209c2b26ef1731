"""What a release is asked to do: the sealed ReleaseRequest and the plans inside it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Literal, cast

from tasks.contracts.artifacts import Address
from tasks.contracts.catalogues import COMPRESSIONS, DATASETS, NATIVE_RECIPES, Material, recipes_of
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, check_format, parse_object, pretty_json
from tasks.contracts.stages import ArtifactKind
from tasks.contracts.store_urls import demand_no_credentials

MAX_STEPS = 8
MODEL_NAME = re.compile(r"(?!router$)[a-z][a-z0-9-]{0,39}")  # state/router is the router's own
RELEASE_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,119}")
# What a rollback may name beside a release's number or id: who has that role.
CANDIDATE = "candidate"
STABLE = "stable"

Judgement = Literal["guardrails", "ship"]
Hypothesis = Literal["superiority", "noninferiority"]


def _demand(condition: bool, expected: str, found: object) -> None:
    if not condition:
        message = f"release request: expected {expected}, found {found!r:.200}"
        raise BadRequestError(message)


def parse_utc(text: str) -> datetime:
    """Parse an ISO 8601 time that says UTC; anything else is a bad request."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        message = f"time: expected ISO 8601 in UTC such as 2026-01-31T00:00:00Z, found {text!r}"
        raise BadRequestError(message) from error
    _demand(moment.utcoffset() == timedelta(0), "a time in UTC (ending in Z)", text)
    return moment


@dataclass(frozen=True, kw_only=True)
class TrafficStep:
    """One step of a rollout: a share of users, how long it bakes, what is judged after it."""

    share_basis_points: int  # users in buckets below this (of 10,000) get the candidate
    judgement: Judgement
    bake_seconds: int  # longest bake; a replay that has run out of requests ends it early
    min_users: int  # per variant; fewer is no verdict
    replay_share: float = 0.0  # share of the replayed period that this step may use

    def __post_init__(self) -> None:
        """Refuse impossible steps."""
        share = self.share_basis_points
        _demand(0 < share <= 5000, "0 < share_basis_points <= 5000 (50 %)", share)
        _demand(self.judgement in {"guardrails", "ship"}, "guardrails or ship", self.judgement)
        _demand(self.bake_seconds > 0, "bake_seconds > 0", self.bake_seconds)
        _demand(self.min_users > 0, "min_users > 0", self.min_users)
        _demand(0 <= self.replay_share <= 1, "0 <= replay_share <= 1", self.replay_share)


@dataclass(frozen=True, kw_only=True)
class TrafficPlan:
    """How a candidate meets users: up to eight steps, monotone, the last one decides to ship."""

    name: str
    steps: tuple[TrafficStep, ...]
    hypothesis: Hypothesis = "noninferiority"
    margin: float = 0.02  # absolute, of the outcome's mean per user (hit@10, right class)
    error_rate: float = 0.05  # one-sided, spent over the plan's looks
    max_error_ratio: float = 0.01  # share of failed candidate requests
    max_latency_ratio: float = 3.0  # candidate's p95 over stable's
    min_latency_bound_ms: float = 50.0  # no latency refusal below this p95
    sample_ratio_alpha: float = 0.0005
    lease_seconds: int = 600

    def __post_init__(self) -> None:
        """Refuse plans that shrink, are too long, or never decide."""
        shares = [step.share_basis_points for step in self.steps]
        _demand(0 < len(shares) <= MAX_STEPS, f"1 to {MAX_STEPS} traffic steps", len(shares))
        _demand(shares == sorted(set(shares)), "steps with growing shares", shares)
        _demand(self.steps[-1].judgement == "ship", "a last step that judges ship", shares)
        ships = [step for step in self.steps if step.judgement == "ship"]
        _demand(len(ships) == 1, "exactly one ship step", len(ships))
        _demand(self.hypothesis in {"superiority", "noninferiority"}, "a hypothesis", self.name)
        _demand(0 <= self.margin < 1, "0 <= margin < 1", self.margin)
        _demand(0 < self.error_rate < 0.5, "0 < error_rate < 0.5", self.error_rate)
        self._demand_limits()
        _demand(self.lease_seconds > 0, "lease_seconds > 0", self.lease_seconds)
        replayed = sum(step.replay_share for step in self.steps)
        _demand(replayed <= 1.000001, "replay_share summing to at most 1", replayed)

    def _demand_limits(self) -> None:
        """Refuse limits that no candidate can keep, or that nobody can judge by."""
        errors, slower, floor = (
            self.max_error_ratio,
            self.max_latency_ratio,
            self.min_latency_bound_ms,
        )
        _demand(0 < errors < 1, "0 < max_error_ratio < 1", errors)
        _demand(1 <= slower < math.inf, "a finite max_latency_ratio from 1 on", slower)
        _demand(0 <= floor < math.inf, "a finite min_latency_bound_ms from 0 on", floor)
        alpha = self.sample_ratio_alpha
        _demand(0 < alpha < 1, "0 < sample_ratio_alpha < 1", alpha)


def _step(
    percent: float, judgement: Judgement, bake: int, users: int, replay: float
) -> TrafficStep:
    return TrafficStep(
        share_basis_points=round(percent * 100),
        judgement=judgement,
        bake_seconds=bake,
        min_users=users,
        replay_share=replay,
    )


PLANS: MappingProxyType[str, TrafficPlan] = MappingProxyType(
    {
        plan.name: plan
        for plan in (
            TrafficPlan(
                name="replay",
                steps=(
                    _step(5, "guardrails", 300, 20, 0.15),
                    _step(25, "guardrails", 300, 20, 0.2),
                    _step(50, "ship", 600, 50, 0.65),
                ),
            ),
            TrafficPlan(  # each picture is asked once: a small share of few needs a longer first step
                name="replay-pictures",
                steps=(
                    _step(5, "guardrails", 300, 20, 0.4),
                    _step(25, "guardrails", 300, 20, 0.15),
                    _step(50, "ship", 600, 50, 0.45),
                ),
            ),
            TrafficPlan(
                name="day",
                steps=(
                    _step(1, "guardrails", 3600, 200, 0.0),
                    _step(5, "guardrails", 3 * 3600, 500, 0.0),
                    _step(25, "guardrails", 4 * 3600, 1000, 0.0),
                    _step(50, "ship", 16 * 3600, 1000, 0.0),
                ),
                hypothesis="noninferiority",
                margin=0.005,
            ),
            TrafficPlan(
                name="fortnight",
                steps=(
                    _step(1, "guardrails", 6 * 3600, 500, 0.0),
                    _step(5, "guardrails", 18 * 3600, 1000, 0.0),
                    _step(20, "guardrails", 24 * 3600, 2000, 0.0),
                    _step(50, "ship", 12 * 86400, 5000, 0.0),
                ),
                hypothesis="superiority",
                margin=0.0,
            ),
        )
    }
)


DEFAULT_PLANS: MappingProxyType[Material, str] = MappingProxyType(
    {Material.EVENTS: "replay", Material.PICTURES: "replay-pictures"}
)


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What the evaluation gate tests on per-user rows of the gate period."""

    margin: float = 0.005  # absolute NDCG@10 that a candidate may lose to the champion
    slice_margin: float = 0.02  # the same within head, mid and tail
    alpha: float = 0.05  # one-sided; Holm over baselines
    max_standard_error_share: float = 1 / 3.3  # of the margin: above it there is no verdict

    def __post_init__(self) -> None:
        """Refuse margins and levels that cannot be tested."""
        _demand(0 < self.margin < 1, "0 < margin < 1", self.margin)
        _demand(0 < self.slice_margin < 1, "0 < slice_margin < 1", self.slice_margin)
        _demand(0 < self.alpha < 0.5, "0 < alpha < 0.5", self.alpha)


@dataclass(frozen=True, kw_only=True)
class Champion:
    """Who serves now: read once, when the release is requested."""

    release_number: int
    release_id: str
    bundle: str  # address of its serving bundle
    events: str | None = None  # address of its validated events, for comparisons of volume

    def __post_init__(self) -> None:
        """Refuse addresses of another kind."""
        _demand(self.release_number > 0, "release_number > 0", self.release_number)
        kind = Address.parse(self.bundle).kind
        _demand(kind is ArtifactKind.SERVING_BUNDLE, "address of a serving_bundle", self.bundle)


@dataclass(frozen=True, kw_only=True)
class ReleaseRequest:
    """Everything that could change between two tries, pinned (format `release_request/1`)."""

    release_id: str
    model: str
    dataset: str
    as_of: str  # ISO 8601 UTC: events after it are in the future
    recipe: str
    compression: str
    plan: TrafficPlan
    seed: int = 1
    approval: bool = False
    events_url: str | None = None
    catalogue_url: str | None = None
    mapping_url: str | None = None
    champion: Champion | None = None
    evaluation: EvaluationPlan = field(default_factory=EvaluationPlan)

    def __post_init__(self) -> None:
        """Refuse unknown names and impossible combinations."""
        _demand(bool(RELEASE_ID.fullmatch(self.release_id)), "a plain release id", self.release_id)
        expected = "a model name of a-z, 0-9 and -, at most 40 long"
        _demand(bool(MODEL_NAME.fullmatch(self.model)), expected, self.model)
        _demand(self.dataset in DATASETS, f"a dataset of {sorted(DATASETS)}", self.dataset)
        recipes = sorted(recipes_of(self.material))
        _demand(self.recipe in recipes, f"a recipe of {recipes}", self.recipe)
        expected = f"a compression of {sorted(COMPRESSIONS)}"
        _demand(self.compression in COMPRESSIONS, expected, self.compression)
        as_trained = self.recipe not in NATIVE_RECIPES or self.compression == "none"
        expected = f"the compression none for {self.recipe}, which is exported natively"
        _demand(as_trained, expected, self.compression)
        _demand(0 <= self.seed < 2**31, "0 <= seed < 2^31", self.seed)
        parse_utc(self.as_of)
        for name in ("events_url", "catalogue_url", "mapping_url"):
            demand_no_credentials(getattr(self, name) or "", name)
        own = self.dataset == "events"
        expected = "events_url when the dataset is 'events'"
        _demand(bool(self.events_url) or not own, expected, self.events_url)
        urls = (self.events_url, self.catalogue_url, self.mapping_url)
        expected = "no events_url, catalogue_url or mapping_url unless the dataset is 'events'"
        _demand(own or not any(urls), expected, urls)

    @property
    def material(self) -> Material:
        """Return what the model is made from."""
        return DATASETS[self.dataset].material

    def to_text(self) -> str:
        """Return `request.json` as text."""
        return pretty_json({"format": "release_request/1", **asdict(self)})

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> ReleaseRequest:
        """Read a release request; errors name `where` and the field."""
        record = parse_object(text, where)
        check_format(record, "release_request", 1, where)
        values = {name: value for name, value in record.items() if name != "format"}
        known = {item.name for item in fields(cls)}
        _demand(set(values) <= known, f"{where}: only known fields", sorted(set(values) - known))
        try:
            return cls._from_values(values, where)
        except (KeyError, TypeError) as error:
            message = f"{where}: expected a complete release_request/1, found: {error}"
            raise BadRequestError(message) from error

    @classmethod
    def _from_values(cls, values: Mapping[str, Json], where: str) -> ReleaseRequest:
        raw = cast("dict[str, Any]", dict(values))
        plan = dict(raw["plan"])
        raw["plan"] = plan_from_record(plan, where)
        raw["evaluation"] = EvaluationPlan(**raw["evaluation"])
        champion = raw.get("champion")
        raw["champion"] = None if champion is None else Champion(**champion)
        return cls(**raw)


def plan_from_record(record: Mapping[str, Any], where: str) -> TrafficPlan:
    """Build a traffic plan from parsed JSON; an impossible one is a BadRequestError about `where`."""
    raw = dict(record)
    try:
        raw["steps"] = tuple(TrafficStep(**step) for step in raw["steps"])
        return TrafficPlan(**raw)
    except BadRequestError as error:
        message = f"{where}: {error}"
        raise BadRequestError(message) from error


def plan_named(name: str, bake_seconds: int | None = None) -> TrafficPlan:
    """Return the plan of that name, each bake cut to at most `bake_seconds` when given."""
    if name not in PLANS:
        message = f"traffic plan: expected one of {sorted(PLANS)}, found {name!r:.80}"
        raise BadRequestError(message)
    plan = PLANS[name]
    if bake_seconds is None:
        return plan
    steps = tuple(
        replace(step, bake_seconds=min(step.bake_seconds, bake_seconds)) for step in plan.steps
    )
    return replace(plan, steps=steps)
