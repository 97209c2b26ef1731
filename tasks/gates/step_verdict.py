"""Gate after a traffic step: the judge's numbers, held against the release's own plan.

Sample ratio and error bound are computed here again from the counts, so that a wrong judge is seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from tasks.contracts.catalogues import HIT
from tasks.contracts.gate_reports import Figure, Series
from tasks.contracts.json_types import Json
from tasks.gates.bounds import StepBounds
from tasks.gates.checks import Measurement, Payload, Suite, joined, measured
from tasks.gates.records import number, read_record
from tasks.gates.wording import in_words
from tasks.statistics.guardrails import rate_lower_bound
from tasks.statistics.sample_ratio import sample_ratio_p

BASIS_POINTS = 10_000
RATE_ERROR_RATE = 0.01  # how often a healthy candidate's rate is called too high, per step
VARIANTS = ("candidate", "stable")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Requests of the users of one variant."""

    users: int
    requests: int
    failed: int
    fell_back: int
    not_asked: int  # its slot was ejected: they never met it
    quantiles: Mapping[str, Mapping[str, Json]]  # p50_ms, p95_ms, p99_ms where there were requests


def suite(payload: Payload, wanted: StepBounds) -> Suite:
    """Return what is expected of one step."""
    verdict = read_record(payload.path / "verdict.json", "step_verdict")
    variants = cast("dict[str, Any]", verdict["variants"])
    candidate, stable = (_seen(variants[name]) for name in VARIANTS)
    place = int(number(verdict, "step") or 0) - 1
    if not 0 <= place < len(wanted.shares):
        return Suite(batches=(measured("plan", [_step_number(verdict, wanted)]),))
    ship = wanted.judgements[place] == "ship"
    guardrails = [
        _share(verdict, wanted, place),
        _sample_ratio(candidate, stable, wanted, place),
        _errors(candidate, stable, wanted),
        *_latency(candidate, stable, wanted),
    ]
    found = [*_users(candidate, stable, wanted, place), _decision(verdict, ship=ship)]
    if ship:
        found.append(_outcome(verdict, wanted))
    return joined(
        Suite(batches=(measured("guardrails", guardrails), measured("verdict", found))),
        _shown(verdict, candidate, stable, wanted, place),
    )


def _seen(record: Mapping[str, Any]) -> Seen:
    quantiles = {name: record[name] for name in ("p50_ms", "p95_ms", "p99_ms") if record.get(name)}
    counts = {name: int(record[name]) for name in ("users", "requests", "failed", "fell_back")}
    return Seen(**counts, not_asked=int(record.get("not_asked", 0)), quantiles=quantiles)


def _step_number(verdict: dict[str, Json], wanted: StepBounds) -> Measurement:
    return Measurement(
        name="step",
        value=number(verdict, "step"),
        minimum=1,
        maximum=len(wanted.shares),
        expected=f"a step of the plan, 1 to {len(wanted.shares)}",
    )


def _share(verdict: dict[str, Json], wanted: StepBounds, place: int) -> Measurement:
    planned = wanted.shares[place] / BASIS_POINTS
    found = number(verdict, "share_basis_points")
    return Measurement(
        name="share of users",
        value=None if found is None else found / BASIS_POINTS,
        minimum=planned,
        maximum=planned,
        unit="share",
        where="with the candidate",
    )


def _sample_ratio(candidate: Seen, stable: Seen, wanted: StepBounds, place: int) -> Measurement:
    p = sample_ratio_p(candidate.users, stable.users, wanted.shares[place] / BASIS_POINTS)
    return Measurement(
        name="sample ratio",
        value=p,
        minimum=wanted.sample_ratio_alpha,
        expected=f"p at least {wanted.sample_ratio_alpha:g}",
        where=f"({candidate.users:,} users with the candidate, {stable.users:,} with stable)",
        why="Users are not split as the router was told: no comparison of variants can be trusted.",
    )


def _errors(candidate: Seen, stable: Seen, wanted: StepBounds) -> Measurement:
    """Hold the candidate's errors against the plan, or against stable's own where it has more."""
    bad, asked = candidate.failed + candidate.fell_back, candidate.requests - candidate.not_asked
    bound = rate_lower_bound(bad, asked, RATE_ERROR_RATE)
    own = stable.failed / stable.requests if stable.requests else 0.0
    limit = max(wanted.max_error_ratio, wanted.max_latency_ratio * own)
    return Measurement(
        name="errors of the candidate",
        value=bound if asked else 0.0,
        maximum=limit,
        unit="share",
        expected=f"at most {in_words(limit, 'share')}",
        where=f"as lower bound ({candidate.failed} failed and {candidate.fell_back} taken over "
        f"by stable of {asked:,} requests)",
        why="The candidate's server fails or hangs: users were answered by stable.",
    )


def _latency(candidate: Seen, stable: Seen, wanted: StepBounds) -> list[Measurement]:
    ours, theirs = candidate.quantiles.get("p95_ms"), stable.quantiles.get("p95_ms")
    if ours is None or theirs is None:
        return []
    high = number(theirs, "high") or number(theirs, "estimate") or 0.0
    limit = max(wanted.max_latency_ratio * high, wanted.min_latency_bound_ms)
    return [
        Measurement(
            name="p95 of the candidate",
            value=number(ours, "low"),
            maximum=limit,
            unit="ms",
            where=f"as lower bound (p95 {in_words(number(ours, 'estimate'), 'ms')}, stable's "
            f"{in_words(number(theirs, 'estimate'), 'ms')})",
            why="Users wait longer with the candidate than the plan allows.",
        )
    ]


def _users(candidate: Seen, stable: Seen, wanted: StepBounds, place: int) -> list[Measurement]:
    return [
        Measurement(
            name=f"users of {name}",
            value=seen.users,
            minimum=wanted.min_users[place],
            unit="count",
            why="Too few users for a verdict: bake longer.",
        )
        for name, seen in zip(VARIANTS, (candidate, stable), strict=True)
    ]


def _decision(verdict: dict[str, Json], *, ship: bool) -> Measurement:
    sentences = verdict.get("sentences")
    said = str(sentences[0]) if isinstance(sentences, list) and sentences else ""
    return Measurement(
        name="decision",
        value=str(verdict.get("decision")),
        equals="ship" if ship else "proceed",
        where=f"({said.rstrip('.')})" if said else "",
    )


def _outcome(verdict: dict[str, Json], wanted: StepBounds) -> Measurement:
    effect = verdict.get("effect")
    record = effect if isinstance(effect, dict) else {}
    words = "above stable's" if wanted.hypothesis == "superiority" else "not below stable's"
    found = ", ".join(
        f"{label} {in_words(number(record, name))}"
        for label, name in (
            ("candidate", "candidate_mean"),
            ("stable", "stable_mean"),
            ("difference", "difference"),
        )
    )
    level = number(record, "level")
    return Measurement(
        name="outcome",
        value=number(record, "p"),
        maximum=level if level is not None else -1.0,
        expected=f"{verdict.get('outcome', HIT)} {words} by a margin of {wanted.margin:g}, p at most {in_words(level)}",
        where=f"({found})",
        why="Inconclusive keeps the champion: nobody is harmed by the model that serves.",
    )


def _shown(
    verdict: dict[str, Json], candidate: Seen, stable: Seen, wanted: StepBounds, place: int
) -> Suite:
    figures = []
    rows = [
        (f"{variant} {name.removesuffix('_ms')}", quantile)
        for name in ("p50_ms", "p95_ms", "p99_ms")
        for variant, seen in zip(VARIANTS, (candidate, stable), strict=True)
        if (quantile := seen.quantiles.get(name)) is not None
    ]
    if rows:
        estimates = [number(q, "estimate") or 0.0 for _, q in rows]
        figures.append(
            Figure(
                title="Latency of answers, ms",
                shape="intervals",
                labels=tuple(label for label, _ in rows),
                series=(
                    Series(
                        name="ms",
                        values=tuple(estimates),
                        low=tuple(number(q, "low") or 0.0 for _, q in rows),
                        high=tuple(
                            number(q, "high") or e
                            for (_, q), e in zip(rows, estimates, strict=True)
                        ),
                    ),
                ),
                note="As users met it, with 99 % bounds.",
            )
        )
    effect = verdict.get("effect")
    if isinstance(effect, dict):
        figures.append(_effect(effect, str(verdict.get("outcome", HIT))))
    return Suite(
        batches=(),
        figures=tuple(figures),
        key_figures={
            "step": f"{place + 1} of {len(wanted.shares)}",
            "share": in_words(wanted.shares[place] / BASIS_POINTS, "share"),
            "users of candidate": in_words(candidate.users, "count"),
            "users of stable": in_words(stable.users, "count"),
            "decision": str(verdict.get("decision")).replace("_", " "),
        },
    )


def _effect(effect: Mapping[str, Json], outcome: str) -> Figure:
    return Figure(
        title=f"{outcome} per user, candidate minus stable",
        shape="intervals",
        labels=("difference",),
        series=(
            Series(
                name="difference",
                values=(number(effect, "difference") or 0.0,),
                low=(number(effect, "lower_bound") or 0.0,),
                high=(number(effect, "upper_bound") or 0.0,),
            ),
        ),
        bound=number(effect, "tested_bound"),
        note="The whole interval must lie right of the bound.",
    )
