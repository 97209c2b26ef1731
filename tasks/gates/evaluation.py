"""Gate after evaluation: tests on per-user rows against champion and baselines, nothing else.

A candidate must beat popularity, the windowed Markov chain and, where items are taken again, personal
frequency, where they are not, item-kNN, EASE and iALS; never itself. Popularity, which a first release
ships so that later ones have an opponent, has to beat none and is only looked at for sanity. Any other
baseline is shown beside them, with a warning where the candidate is not proven better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.contracts.catalogues import FIRST_RELEASE_RECIPE
from tasks.contracts.gate_reports import Figure, Series, Severity
from tasks.contracts.json_types import Json
from tasks.gates.bounds import EvaluationBounds
from tasks.gates.checks import (
    Batch,
    Measurement,
    Payload,
    Suite,
    between,
    joined,
    measured,
    not_null,
    one_of,
    unique,
)
from tasks.gates.records import read_record
from tasks.gates.wording import in_words, left_out_in_words
from tasks.statistics.bootstrap import PairedDifference, holm, mean_interval, paired_difference
from tasks.statistics.planner import Precision, plan_precision

SLICES = ("head", "mid", "tail")
MODELS_ALWAYS_THERE = ("popularity", "markov")
METRIC = "NDCG@10"
COMPARED_ONLY = ("first_order_markov",)
COMPARED_ONLY_WHERE_REPEATED = ("item_knn", "ease", "ials")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """NDCG@10 per user of the candidate and of every opponent."""

    frame: pd.DataFrame
    baselines: tuple[str, ...]

    def ndcg(self, model: str) -> NDArray[np.float64]:
        """Return [users], NaN where the model was not asked."""
        column = f"ndcg_{model}"
        if column not in self.frame:
            return np.full(len(self.frame), np.nan)
        return self.frame[column].to_numpy(dtype=np.float64, na_value=np.nan)

    def versus(self, model: str, alpha: float, rows: NDArray[np.bool_]) -> PairedDifference | None:
        """Compare candidate and `model` on the users of `rows`; each end is one-sided at `alpha`.

        None where there are fewer than two users, or one whom not both were asked about.
        """
        ours, theirs = self.ndcg("candidate")[rows], self.ndcg(model)[rows]
        if len(ours) < 2 or not np.isfinite(ours - theirs).all():
            return None
        return paired_difference(ours, theirs, confidence=1 - 2 * alpha)

    def interval(self, model: str) -> tuple[float, float, float]:
        """Return (low, mean, high) of a 95 % interval for the mean over users, 0 if unknown."""
        values = self.ndcg(model)
        if len(values) < 2 or not np.isfinite(values).all():
            return 0.0, 0.0, 0.0
        found = mean_interval(values)
        return found.lower, found.mean, found.upper

    def everybody(self) -> NDArray[np.bool_]:
        """Return [users], all of them chosen."""
        return np.ones(len(self.frame), dtype=np.bool_)


def suite(payload: Payload, wanted: EvaluationBounds) -> Suite:
    """Return what is expected of the comparisons, then of the rows that they rest on."""
    frame = pq.read_table(payload.path / "rows.parquet").to_pandas()
    known = [name.removeprefix("ndcg_") for name in frame if str(name).startswith("ndcg_")]
    baselines = tuple(name for name in known if name not in {"candidate", "champion"})
    rows = Rows(frame=frame, baselines=baselines)
    parts = [_champion(rows, wanted)] if wanted.has_champion else []
    parts += [_baselines(rows, wanted), _compared(rows, wanted), _sanity(rows, wanted)]
    return joined(*parts, _rows(rows, wanted), _left_out(payload))


def _left_out(payload: Payload) -> Suite:
    summary = read_record(payload.path / "summary.json", "evaluation_summary")
    found = cast("dict[str, Json]", summary.get("baselines_left_out") or {})
    return Suite(batches=(), key_figures=left_out_in_words(found))


def _rows(rows: Rows, wanted: EvaluationBounds) -> Suite:
    needed = ["candidate", *(["champion"] if wanted.has_champion else [])]
    needed += sorted({*MODELS_ALWAYS_THERE, *rows.baselines})
    columns = [f"{metric}_{model}" for metric in ("ndcg", "hit") for model in needed]
    batch = Batch(
        name="rows",
        frame=rows.frame,
        checks=(
            not_null("user_id"),
            unique("user_id"),
            one_of("slice", SLICES),
            between("examples", minimum=1, unit="count"),
            *(not_null(column) for column in columns),
            *(between(column, minimum=0, maximum=1) for column in columns),
        ),
        row_noun="users",
        example="user_id",
    )
    users = Measurement(name="users", value=len(rows.frame), minimum=wanted.min_users, unit="count")
    figures = {"users": in_words(len(rows.frame), "count")}
    for model in ("candidate", *(["champion"] if wanted.has_champion else [])):
        figures[f"{METRIC} {model}"] = f"{rows.interval(model)[1]:.4f}"
    return Suite(
        batches=(batch, measured("amount", [users])),
        figures=(_models(rows, wanted),),
        key_figures=figures,
    )


def demanded_baselines(rows: Rows, wanted: EvaluationBounds) -> tuple[str, ...]:
    """Return the baselines that the candidate must beat."""
    if wanted.recipe == FIRST_RELEASE_RECIPE:
        return ()
    shown_only = _compared_only(rows)
    return tuple(name for name in rows.baselines if name not in {wanted.recipe, *shown_only})


def _compared_only(rows: Rows) -> tuple[str, ...]:
    """Return the baselines that need not be beaten; personal frequency is there where items are taken again."""
    repeated = "personal_frequency" in rows.baselines
    names = (*COMPARED_ONLY, *(COMPARED_ONLY_WHERE_REPEATED if repeated else ()))
    return tuple(name for name in names if name in rows.baselines)


def _baselines(rows: Rows, wanted: EvaluationBounds) -> Suite:
    measurements = _better_than(demanded_baselines(rows, wanted), rows, wanted, "critical")
    if not measurements:
        return Suite(
            batches=(), note="popularity is the opponent of later releases: nothing to beat"
        )
    return Suite(batches=(measured("baselines", measurements),))


def _compared(rows: Rows, wanted: EvaluationBounds) -> Suite:
    if wanted.recipe == FIRST_RELEASE_RECIPE:
        return Suite(batches=())
    names = tuple(name for name in _compared_only(rows) if name != wanted.recipe)
    found = _better_than(names, rows, wanted, "warning")
    return Suite(batches=(measured("compared baselines", found),) if found else ())


def _better_than(
    names: tuple[str, ...], rows: Rows, wanted: EvaluationBounds, severity: Severity
) -> list[Measurement]:
    found = {name: rows.versus(name, wanted.alpha, rows.everybody()) for name in names}
    p_values = holm({n: 1.0 if d is None else d.p_superior for n, d in found.items()})
    return [
        Measurement(
            name=f"better than {name}",
            value=p_values[name],
            maximum=wanted.alpha,
            severity=severity,
            expected=f"p at most {wanted.alpha:g} (Holm over {len(names)})",
            where=_against(rows, name, found[name]),
            why="A model that does not beat a simple rule is not worth its cost.",
        )
        for name in names
    ]


def _against(rows: Rows, name: str, found: PairedDifference | None) -> str:
    if found is None:
        return "(not every user has an answer of both)"
    ours, theirs = float(rows.ndcg("candidate").mean()), float(rows.ndcg(name).mean())
    return f"({METRIC} {ours:.4f} against {theirs:.4f}, difference {found.mean:+.4f})"


def _sanity(rows: Rows, wanted: EvaluationBounds) -> Suite:
    low, mean, _ = rows.interval("candidate")
    sound = Measurement(
        name="candidate answers",
        value=low,
        above=0.0,
        # On 113 users of a big shop popularity gets nothing right, and is still the first opponent.
        severity="warning" if wanted.recipe == FIRST_RELEASE_RECIPE else "critical",
        expected=f"{METRIC} above 0 with 95 % confidence",
        where=f"as lower end, mean {mean:.4f}",
        why="Nearly no user got anything right: ids or order of the answers are wrong.",
    )
    return Suite(batches=(measured("sanity", [sound]),))


def _champion(rows: Rows, wanted: EvaluationBounds) -> Suite:
    whole = rows.versus("champion", wanted.alpha, rows.everybody())
    found = _whole(rows, whole, wanted)
    slices = {
        name: rows.versus("champion", wanted.alpha, rows.frame["slice"].to_numpy() == name)
        for name in SLICES
    }
    for name, difference in slices.items():
        if difference is not None:
            found += _slice(name, difference, wanted)
    shown = {"all": whole, **slices}
    kept = {name: difference for name, difference in shown.items() if difference is not None}
    figure = Figure(
        title=f"Candidate minus champion, {METRIC}",
        shape="intervals",
        labels=tuple(f"{name} ({d.users:,} users)" for name, d in kept.items()),
        series=(
            Series(
                name="difference",
                values=tuple(d.mean for d in kept.values()),
                low=tuple(d.lower for d in kept.values()),
                high=tuple(d.upper for d in kept.values()),
            ),
        ),
        bound=-wanted.margin,
        note=f"{1 - 2 * wanted.alpha:.0%} intervals over users, paired.",
    )
    same = whole is not None and whole.mean == whole.standard_error == 0
    return Suite(
        batches=(measured("champion", found),),
        figures=(figure,) if kept else (),
        note="the candidate answers exactly as the champion does" if same else "",
    )


def _whole(
    rows: Rows, whole: PairedDifference | None, wanted: EvaluationBounds
) -> list[Measurement]:
    """Return precision and non-inferiority over all users."""
    plan = _precision(whole, wanted.margin, wanted)
    where = _against(rows, "champion", whole)
    low = None if whole is None else whole.lower
    noninferior = Measurement(
        name="not worse than the champion",
        value=low,
        above=-wanted.margin,
        expected=f"lower bound of the difference above {-wanted.margin:g}",
        where=where,
        why="The candidate may have lost more than the margin allows.",
    )
    # Proven better, a candidate needs no more users: precision is for telling equal from worse.
    better = whole is not None and whole.lower > 0
    precise = Measurement(
        name="users enough for a verdict",
        value=None if whole is None else whole.standard_error,
        maximum=None if better else plan.limit,
        minimum=0,
        expected="any standard error: the candidate is better beyond doubt"
        if better
        else f"standard error at most {plan.limit:.2g} "
        f"(margin / {1 / wanted.max_standard_error_share:.2g})",
        where=""
        if better or whole is None
        else f"with {plan.users:,} users ({plan.users_that_would_do:,} users would do)",
        why="With so few users an equal model would often be refused: gate on a longer period.",
    )
    return [precise, noninferior]


def _precision(
    found: PairedDifference | None, margin: float, wanted: EvaluationBounds
) -> Precision:
    return plan_precision(
        users=0 if found is None else found.users,
        standard_error=math.nan if found is None else found.standard_error,
        margin=margin,
        largest_share=wanted.max_standard_error_share,
    )


def _slice(name: str, found: PairedDifference, wanted: EvaluationBounds) -> list[Measurement]:
    """Return two tests: not worse by the wide margin, and not proven worse by the narrow one.

    A slice with too few users to tell an equal model from a worse one only warns in the first.
    """
    plan = _precision(found, wanted.slice_margin, wanted)
    where = f"over {found.users:,} users (difference {found.mean:+.4f})"
    return [
        Measurement(
            name=f"{name} items not worse",
            value=found.lower,
            above=-wanted.slice_margin,
            severity="warning" if plan.refused else "critical",
            expected=f"lower bound of the difference above {-wanted.slice_margin:g}",
            where=where,
            why=f"Users of {name} items may lose more than the margin allows.",
        ),
        Measurement(
            name=f"{name} items not proven worse",
            value=found.upper,
            minimum=-wanted.margin,
            expected=f"upper bound of the difference at least {-wanted.margin:g}",
            where=where,
            why=f"Users of {name} items lose, however the others gain.",
        ),
    ]


def _models(rows: Rows, wanted: EvaluationBounds) -> Figure:
    names = ("candidate", *(["champion"] if wanted.has_champion else []), *rows.baselines)
    ends = [rows.interval(name) for name in names]
    return Figure(
        title=f"{METRIC} per model",
        shape="intervals",
        labels=names,
        series=(
            Series(
                name=METRIC,
                values=tuple(mean for _, mean, _ in ends),
                low=tuple(low for low, _, _ in ends),
                high=tuple(high for _, _, high in ends),
            ),
        ),
        note="95 % intervals over users of the gate period; the same users for all.",
    )
