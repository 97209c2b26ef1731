"""What the candidate ranks otherwise than stable: sums and samples over mirrored requests."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, check_format, parse_object, pretty_json
from tasks.statistics.compared_rankings import (
    PERSISTENCE,
    overlap_at,
    rank_biased_overlap,
    stability_index,
)

SHADOW_REPORT = "shadow.json"  # in the traffic folder of its rollout
DEPTHS = (1, 5, 10)  # of classes only the first counts: a classifier ranks them all
MAX_ROWS = 8  # of one request: who asks for hundreds of users counts no more than others
SAMPLE = 5000  # values kept of each kind, drawn evenly from all
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
SEED = 7


class Ranking(NamedTuple):
    """One user's answer, best first; scores are absent where the model gives none."""

    items: tuple[str, ...]
    scores: tuple[float, ...]


def rankings_in(body: Any) -> list[Ranking]:
    """Return the rankings in an answer of `:predict`, by column or by row; none where there is none."""
    try:
        if "outputs" in body:
            items = _ranked(body["outputs"])
            scores = body["outputs"].get("scores") or [[] for _ in items]
        else:
            items = [_ranked(row) for row in body["predictions"]]
            scores = [row.get("scores") or [] for row in body["predictions"]]
        return [
            Ranking(tuple(map(str, row)), tuple(map(float, values)))
            for row, values in list(zip(items, scores, strict=True))[:MAX_ROWS]
        ]
    except (LookupError, TypeError, ValueError, AttributeError):
        return []


def _ranked(outputs: Any) -> Any:
    """Return what is ranked: a recommender's items or a classifier's classes."""
    return outputs["items"] if "items" in outputs else outputs["classes"]


@dataclass(kw_only=True)
class Sample:
    """At most SAMPLE values, each of all with the same chance to be kept (Vitter's algorithm R)."""

    values: list[float] = field(default_factory=list)
    seen: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))  # noqa: S311

    def add(self, value: float) -> None:
        """Keep the value, or one of those before it."""
        self.seen += 1
        if len(self.values) < SAMPLE:
            self.values.append(value)
            return
        place = self.chance.randrange(self.seen)
        if place < SAMPLE:
            self.values[place] = value

    def quantiles(self) -> dict[str, Json]:
        """Return the quantiles, empty where there is no value."""
        if not self.values:
            return {}
        found = np.quantile(self.values, QUANTILES)
        return {
            f"{share:g}": round(float(value), 6)
            for share, value in zip(QUANTILES, found, strict=True)
        }


@dataclass(kw_only=True)
class Comparison:
    """All comparisons of one candidate with one stable release."""

    model: str
    candidate: int  # release numbers
    stable: int
    since: str
    compared: int = 0  # rankings
    equal: int = 0  # of them, the same items in the same order
    overlap: dict[int, float] = field(default_factory=lambda: dict.fromkeys(DEPTHS, 0.0))
    overlap_counts: list[int] = field(default_factory=lambda: [0] * 11)  # of the deepest, in tenths
    rbo: Sample = field(default_factory=Sample)
    rbo_sum: float = 0.0
    differences: Sample = field(default_factory=Sample)  # of the scores of items that both rank
    candidate_scores: Sample = field(default_factory=Sample)
    stable_scores: Sample = field(default_factory=Sample)

    def add(self, candidate: Ranking, stable: Ranking) -> None:
        """Compare two answers to one request."""
        self.compared += 1
        self.equal += candidate.items == stable.items
        for depth in DEPTHS:
            self.overlap[depth] += overlap_at(candidate.items, stable.items, depth)
        deepest = overlap_at(candidate.items, stable.items, DEPTHS[-1])
        self.overlap_counts[round(deepest * 10)] += 1
        rbo = rank_biased_overlap(candidate.items, stable.items)
        self.rbo_sum += rbo
        self.rbo.add(rbo)
        for value in candidate.scores:
            self.candidate_scores.add(value)
        for value in stable.scores:
            self.stable_scores.add(value)
        known = dict(zip(stable.items, stable.scores, strict=False))
        for item, score in zip(candidate.items, candidate.scores, strict=False):
            if item in known:
                self.differences.add(score - known[item])

    def to_record(self, dropped: Mapping[str, int]) -> dict[str, Json]:
        """Return the report (`shadow_report/1`)."""
        number = max(1, self.compared)
        psi = stability_index(self.stable_scores.values, self.candidate_scores.values)
        return {
            "format": "shadow_report/1",
            "model": self.model,
            "candidate": self.candidate,
            "stable": self.stable,
            "since": self.since,
            "compared": self.compared,
            "equal": self.equal,
            "dropped": dict(dropped),
            "overlap": {
                str(depth): round(total / number, 6) for depth, total in self.overlap.items()
            },
            "overlap_counts": list(self.overlap_counts),
            "rank_biased_overlap": {
                "persistence": PERSISTENCE,
                "mean": round(self.rbo_sum / number, 6),
                "quantiles": self.rbo.quantiles(),
            },
            "score_differences": self.differences.quantiles(),
            "score_stability_index": None if psi != psi else round(psi, 6),  # noqa: PLR0124  NaN
        }


@dataclass(frozen=True, kw_only=True)
class ShadowReport:
    """What metrics and plots take from a report."""

    model: str
    candidate: int
    stable: int
    compared: int
    equal: int
    dropped: Mapping[str, int]
    overlap: Mapping[str, float]
    overlap_counts: Sequence[int]
    rbo: float
    rbo_quantiles: Mapping[str, float]
    score_differences: Mapping[str, float]
    score_stability_index: float | None

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> ShadowReport:
        """Read a report; errors name `where`."""
        record: Any = parse_object(text, where)
        check_format(record, "shadow_report", 1, where)
        try:
            return cls(
                **{name: record[name] for name in ("model", "candidate", "stable")},
                **{name: record[name] for name in ("compared", "equal", "dropped", "overlap")},
                overlap_counts=record["overlap_counts"],
                rbo=record["rank_biased_overlap"]["mean"],
                rbo_quantiles=record["rank_biased_overlap"]["quantiles"],
                score_differences=record["score_differences"],
                score_stability_index=record["score_stability_index"],
            )
        except (KeyError, TypeError) as error:
            message = f"{where}: expected a complete shadow_report/1, found: {error!r}"
            raise BadRequestError(message) from error


def report_text(comparison: Comparison, dropped: Mapping[str, int]) -> str:
    """Return `shadow.json` of a rollout as text."""
    return pretty_json(comparison.to_record(dropped))
