"""Plots of a release: learning curve, NDCG@10 against baselines, traffic, and shadow comparisons."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

mpl.use("Agg")

DPI = 110
INK, GRID = "#22303c", "#d9e1e8"
COLOURS = {"candidate": "#0b7285", "champion": "#e8590c", "stable": "#e8590c"}
BASELINE = "#868e96"
STEP_SHADES = ("#f1f3f5", "#ffffff")
Z_95 = 1.959964
MAX_SPANS = 20_000


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One point of a learning curve."""

    epoch: int
    loss: float
    score: float  # on the select period


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When a request came, in spans of the sum that it is counted in, and to which arm and step."""

    span: int
    variant: str
    step: int


@dataclass(kw_only=True)
class Traffic:
    """Requests of the experiment counted as they come: by span of time, variant and traffic step.

    Spans double when there are too many of them, so that a rollout of weeks takes no more memory.
    """

    seconds: float = 0.125  # of a span
    counts: Counter[Moment] = field(default_factory=Counter)
    steps: dict[int, tuple[float, float]] = field(default_factory=dict)  # first and last request

    def add(self, time: float, variant: str, step: int) -> None:
        """Count one request; `time` is in unix seconds."""
        first, last = self.steps.get(step, (time, time))
        self.steps[step] = (min(first, time), max(last, time))
        self.counts[Moment(span=int(time // self.seconds), variant=variant, step=step)] += 1
        while len(self.counts) > MAX_SPANS:
            self._double()

    def _double(self) -> None:
        wider: Counter[Moment] = Counter()
        for moment, count in self.counts.items():
            wider[replace(moment, span=moment.span // 2)] += count
        self.seconds, self.counts = 2 * self.seconds, wider

    @property
    def begin(self) -> float:
        """Return the time of the first request, in unix seconds."""
        return min(first for first, _ in self.steps.values())

    @property
    def end(self) -> float:
        """Return the time of the last request, in unix seconds."""
        return max(last for _, last in self.steps.values())

    def by_variant(self) -> dict[str, Counter[float]]:
        """Return each variant's requests by the middle of their span, in seconds since the first."""
        found: defaultdict[str, Counter[float]] = defaultdict(Counter)
        for moment, count in self.counts.items():
            middle = (moment.span + 0.5) * self.seconds
            found[moment.variant][min(max(middle, self.begin), self.end) - self.begin] += count
        return dict(found)

    def candidates_share(self, step: int) -> float:
        """Return the share 0..1 of a step's requests that were the candidate's."""
        inside = {moment: n for moment, n in self.counts.items() if moment.step == step}
        mine = sum(n for moment, n in inside.items() if moment.variant == "candidate")
        return mine / sum(inside.values())


@dataclass(frozen=True, kw_only=True)
class ShadowSeen:
    """How candidate and stable ranked the same mirrored requests."""

    compared: int
    overlap_counts: Sequence[int]  # rankings by the share of common items: 0, 10, .. 100 %
    overlap: float  # mean
    same_first: float  # share of requests for which both put the same first
    rank_biased_overlap: float  # mean
    score_differences: Mapping[str, float]  # quantile -> candidate minus stable
    of_classes: bool = False  # all classes are in every answer: only the first says something


def learning_curve(epochs: Sequence[Epoch], path: Path, metric: str = "NDCG@10") -> None:
    """Draw loss and the select period's metric by epoch."""
    best = max(epochs, key=lambda point: point.score)
    figure, axes = _figure(
        f"Learning curve: best {metric} {best.score:.4f} after epoch {best.epoch}"
    )
    numbers = [point.epoch for point in epochs]
    axes.plot(numbers, [point.loss for point in epochs], color=BASELINE, marker="o", label="loss")
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss", color=BASELINE)
    axes.xaxis.get_major_locator().set_params(integer=True)
    other = axes.twinx()
    scores = [point.score for point in epochs]
    other.plot(numbers, scores, color=COLOURS["candidate"], marker="o", label=metric)
    other.set_ylabel(f"{metric} on the select period", color=COLOURS["candidate"])
    _quiet(other)
    _save(figure, path)


def against_baselines(
    users: Mapping[str, Any], path: Path, metric: str = "NDCG@10", who: str = "users"
) -> None:
    """Draw the metric's mean over the same users (or pictures) of each model, with 95 % intervals.

    `users` maps a model's name to an array [users]; NaN where the model was not asked.
    """
    rows = sorted(
        ((name, *_mean_and_reach(values)) for name, values in users.items()),
        key=lambda row: row[1],
    )
    figure, axes = _figure(f"{metric} on the gate period, same {who}, 95 % intervals")
    for place, (name, mean, reach) in enumerate(rows):
        colour = COLOURS.get(name, BASELINE)
        axes.errorbar(
            mean, place, xerr=reach, fmt="o", color=colour, capsize=4, markersize=7, linewidth=2
        )
        axes.annotate(
            f"{mean:.4f} ± {reach:.4f}",
            (mean + reach, place),
            textcoords="offset points",
            xytext=(8, 0),
            va="center",
            color=INK,
        )
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    right = max(mean + reach for _, mean, reach in rows)
    left = min(mean - reach for _, mean, reach in rows)
    axes.set_xlim(left - 0.1 * (right - left + 1e-9), right + 0.35 * (right - left + 1e-9))
    axes.set_xlabel(metric)
    _save(figure, path)


def has_numbers(values: Any) -> bool:
    """Say whether a model was asked for at least one user."""
    return values.dtype.kind == "f" and not bool(np.isnan(values).all())


def _mean_and_reach(values: Any) -> tuple[float, float]:
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array)]
    if len(array) < 2:
        return float(array.mean()) if len(array) else 0.0, 0.0
    return float(array.mean()), Z_95 * float(array.std(ddof=1)) / float(np.sqrt(len(array)))


def traffic(seen: Traffic, path: Path, bins: int = 60) -> None:
    """Draw requests per second by variant over the rollout, each step shaded and named."""
    figure, axes = _figure("Requests of the experiment by variant")
    edges = np.linspace(0, max(seen.end - seen.begin, 1e-3), bins + 1)
    width = edges[1] - edges[0]
    below = np.zeros(bins)
    for variant, counts in sorted(seen.by_variant().items(), reverse=True):
        rate = np.histogram(list(counts), edges, weights=list(counts.values()))[0] / width
        axes.bar(
            edges[:-1],
            rate,
            width,
            bottom=below,
            align="edge",
            color=COLOURS.get(variant, BASELINE),
            label=f"{variant}: {counts.total()} requests",
        )
        below += rate
    for place, (step, (first, last)) in enumerate(sorted(seen.steps.items())):
        starts, ends = first - seen.begin, last - seen.begin
        axes.axvspan(starts, ends, color=STEP_SHADES[place % 2], zorder=0)
        text = f"step {step}\n{seen.candidates_share(step):.0%} candidate"
        axes.text((starts + ends) / 2, below.max() * 1.04, text, ha="center", color=INK)
    axes.set_ylim(0, below.max() * 1.25)
    axes.set_xlabel("seconds since the first exposure")
    axes.set_ylabel("requests per second")
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, -0.12), ncols=2, frameon=False)
    _save(figure, path)


def shadow(seen: ShadowSeen, path: Path) -> None:
    """Draw how alike both slots answered mirrored requests: items in common, or the same class."""
    if seen.of_classes:
        title, what = f"the same class for {seen.same_first:.1%}", "class that both put first"
        same = round(seen.same_first * seen.compared)
        labels, counts = ["another", "the same"], [seen.compared - same, same]
    else:
        title = (
            f"{seen.overlap:.0%} of ten items in common, "
            f"rank-biased overlap {seen.rank_biased_overlap:.3f}"
        )
        what, counts = "items of the first ten that both show", list(seen.overlap_counts)
        labels = [str(place) for place in range(len(counts))]
    figure, axes = _figure(f"{seen.compared} mirrored requests: {title}")
    axes.bar(range(len(counts)), counts, color=COLOURS["candidate"])
    axes.set_xticks(range(len(counts)), labels)
    words = [f"{share} %: {value:+.3g}" for share, value in _percents(seen.score_differences)]
    scores = "no score in common" if not words else "score differences, " + ", ".join(words)
    axes.set_xlabel(f"{what}\n{scores}")
    axes.set_ylabel("mirrored requests")
    _save(figure, path)


def _percents(quantiles: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(f"{float(share) * 100:g}", value) for share, value in quantiles.items()]


def _figure(title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8, 4.5), dpi=DPI)
    axes = figure.subplots()
    axes.set_title(title, loc="left", color=INK, fontsize=12, pad=12)
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(b=True)
    _quiet(axes)
    return figure, axes


def _quiet(axes: Any) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(length=0, colors=INK)


def _save(figure: Figure, path: Path) -> None:
    # No software version and no time inside: equal figures have equal bytes.
    figure.savefig(path, bbox_inches="tight", metadata={"Software": None})
