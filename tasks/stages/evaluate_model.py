"""ServingBundle + FeatureSet -> Evaluation: candidate, champion and baselines on the same users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.bundling.classifier_evaluation import Classified, classify
from tasks.bundling.evaluation import (
    ask_all,
    ask_next_types,
    baselines_left_out,
    candidate,
    contestants,
    reads_types,
)
from tasks.contracts.catalogues import Material
from tasks.contracts.columns import Period
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, pretty_json
from tasks.contracts.stage_io import Outcome, StageContext
from tasks.contracts.stages import ArtifactKind
from tasks.models.event_types import types_in_train
from tasks.models.interactions import Examples, Interactions
from tasks.models.next_type import chain_chances, score_types, share_chances
from tasks.models.pictures import Pictures
from tasks.models.popularity_slices import SLICES, user_slices
from tasks.models.profile_definition import LAST_TYPES
from tasks.statistics.bootstrap import holm, mean_interval, paired_difference
from tasks.statistics.ranking import Gains, mean_by_user

READS: Mapping[str, ArtifactKind] = MappingProxyType(
    {
        "bundle": ArtifactKind.SERVING_BUNDLE,
        "features": ArtifactKind.FEATURE_SET,
        "champion?": ArtifactKind.SERVING_BUNDLE,
    }
)
GATED: frozenset[str] = frozenset({"bundle", "features"})
PRODUCES = ArtifactKind.EVALUATION

CANDIDATE, CHAMPION = "candidate", "champion"
METRICS = ("ndcg", "hit")
CONFIDENCE = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _UserRows:
    """One row per user with examples: the mean metrics of every model."""

    user_ids: NDArray[np.str_]  # [R]
    slices: NDArray[np.str_]  # [R]
    examples: NDArray[np.int64]  # [R]
    columns: Mapping[str, Floats]  # "ndcg_candidate" -> [R]
    models: tuple[str, ...]

    def ndcg(self, model: str) -> Floats:
        """Return [R] of one model."""
        return self.columns[f"ndcg_{model}"]


def configure(context: StageContext) -> dict[str, Json]:
    """Return the plan whose margin the summary quotes."""
    plan = context.the_release().evaluation
    return {"margin": plan.margin, "confidence": CONFIDENCE, "period": Period.GATE.label}


def run(context: StageContext) -> Outcome:
    """Write `rows.parquet` and `summary.json`."""
    if context.the_release().material is Material.PICTURES:
        return _evaluate_classifier(context)
    interactions = Interactions.load(context.inputs["features"].path / "interactions.npz")
    rows = _rows(context, interactions, Period.GATE)
    if len(rows.user_ids) < 2:
        message = (
            f"evaluation: expected at least 2 users with a history and a gate period, found "
            f"{len(rows.user_ids)}; release a longer time of events"
        )
        raise BadRequestError(message)
    _write_rows(context, rows)
    summary = _summary(context, rows)
    if interactions.order_only:
        last_out = _rows(context, interactions, Period.CANARY)
        summary["reported_only"] = {
            "what": "last-out NDCG@10 on the canary position, full ranking; no gate reads it",
            "users": len(last_out.user_ids),
            "ndcg10": {name: _rounded(last_out.ndcg(name).mean()) for name in last_out.models},
        }
    left_out = baselines_left_out(context.inputs["bundle"].path)
    if np.count_nonzero(types_in_train(interactions)) > 1:
        summary["event_types"] = _of_types(context, interactions)
    else:
        left_out["markov_of_types"] = "all events of the train period are of one type"
    summary["baselines_left_out"] = left_out
    (context.out / "summary.json").write_text(pretty_json(summary), encoding="utf-8")
    means = [f"{name} {rows.ndcg(name).mean():.4f}" for name in rows.models]
    ending = "; the candidate is the champion: already serving" if _is_champion(context) else ""
    return Outcome(sentence=f"NDCG@10 over {len(rows.user_ids)} users: {', '.join(means)}{ending}")


def _of_types(context: StageContext, interactions: Interactions) -> dict[str, Json]:
    """Return what no gate reads: how chain and shares foretell the next type, and a candidate that reads types."""
    bundle, examples = context.inputs["bundle"].path, interactions.examples(Period.GATE)
    chances: dict[str, Floats] = {
        "markov_of_types": chain_chances(interactions, examples, LAST_TYPES),
        "shares_of_types": share_chances(interactions, examples),
    }
    asked: dict[str, Json] = {}
    if reads_types(bundle):
        chances[CANDIDATE] = ask_next_types(bundle, interactions, examples)
        asked["ndcg_without_types"] = _without_types(context, interactions, examples)
    found = {name: score_types(one, interactions, examples) for name, one in chances.items()}
    return {
        "what": "no gate reads it",
        **asked,
        "next_type": {name: None if one is None else one.record() for name, one in found.items()},
    }


def _without_types(
    context: StageContext, interactions: Interactions, examples: Examples
) -> dict[str, Json]:
    """Return what a candidate that reads types is worth to clients that send none."""
    plain = candidate(context.inputs["bundle"].path, with_types=False)
    gains = ask_all([plain], interactions, examples, context.progress)[CANDIDATE]
    by_user = mean_by_user(gains.ndcg, examples.user, interactions.num_users)
    users = np.bincount(examples.user, minlength=interactions.num_users) > 0
    return _mean(by_user[users])


def _is_champion(context: StageContext) -> bool:
    champion = context.inputs.get(CHAMPION)
    if champion is None:
        return False
    return champion.manifest.content == context.inputs["bundle"].manifest.content


def _rows(context: StageContext, interactions: Interactions, period: Period) -> _UserRows:
    examples = interactions.examples(int(period))
    champion = context.inputs.get(CHAMPION)
    same = _is_champion(context)
    other = champion.path if champion is not None and not same else None
    asked = contestants(context.inputs["bundle"].path, other)
    found = ask_all(asked, interactions, examples, context.progress)
    if same:
        found[CHAMPION] = found[CANDIDATE]
    return _by_user(interactions, examples, found)


def _by_user(
    interactions: Interactions, examples: Examples, found: Mapping[str, Gains]
) -> _UserRows:
    counts = np.bincount(examples.user, minlength=interactions.num_users)
    users = np.flatnonzero(counts)
    columns = {
        f"{metric}_{model}": mean_by_user(
            getattr(gains, metric), examples.user, interactions.num_users
        )[users]
        for model, gains in found.items()
        for metric in METRICS
    }
    return _UserRows(
        user_ids=interactions.user_ids[users],
        slices=np.asarray(SLICES)[user_slices(interactions, examples)[users]],
        examples=counts[users].astype(np.int64),
        columns=columns,
        models=tuple(found),
    )


def _write_rows(context: StageContext, rows: _UserRows) -> None:
    table: dict[str, Any] = {
        "user_id": pa.array(rows.user_ids.tolist(), pa.string()),
        "slice": pa.array(rows.slices.tolist(), pa.string()),
        "examples": pa.array(rows.examples),
    }
    for model in dict.fromkeys([CANDIDATE, CHAMPION, *rows.models]):
        for metric in METRICS:
            values = rows.columns.get(f"{metric}_{model}")
            empty = pa.nulls(len(rows.user_ids), pa.float64())
            table[f"{metric}_{model}"] = empty if values is None else pa.array(values)
    pq.write_table(pa.table(table), context.out / "rows.parquet", compression="zstd")


def _summary(context: StageContext, rows: _UserRows) -> dict[str, Json]:
    everybody = np.ones(len(rows.user_ids), np.bool_)
    return {
        "format": "evaluation_summary/1",
        "period": Period.GATE.label,
        "confidence": CONFIDENCE,
        "users": len(rows.user_ids),
        "examples": int(rows.examples.sum()),
        "already_serving": _is_champion(context),
        "models": {
            name: {metric: _mean(rows.columns[f"{metric}_{name}"]) for metric in METRICS}
            for name in rows.models
        },
        "differences": _differences(rows, everybody, context.the_release().evaluation.margin),
        "slices": {name: _slice(rows, rows.slices == name) for name in SLICES},
    }


def _differences(rows: _UserRows, chosen: NDArray[np.bool_], margin: float) -> dict[str, Json]:
    """Return candidate minus every other model; Holm over the baselines."""
    found = {
        name: paired_difference(
            rows.ndcg(CANDIDATE)[chosen], rows.ndcg(name)[chosen], confidence=CONFIDENCE
        )
        for name in rows.models
        if name != CANDIDATE
    }
    adjusted = holm({n: d.p_superior for n, d in found.items() if n != CHAMPION})
    return {
        name: {
            **{key: _rounded(value) for key, value in asdict(difference).items()},
            "users": difference.users,
            "p_superior": _rounded(difference.p_superior),
            "p_superior_holm": _rounded(adjusted[name]) if name in adjusted else None,
            "p_noninferior": _rounded(difference.p_noninferior(margin)),
        }
        for name, difference in found.items()
    }


def _slice(rows: _UserRows, chosen: NDArray[np.bool_]) -> dict[str, Json]:
    users = int(chosen.sum())
    means = {name: _mean(rows.ndcg(name)[chosen]) for name in rows.models} if users > 1 else {}
    return {"users": users, "ndcg": cast("Json", means)}


def _mean(values: Floats) -> dict[str, Json]:
    interval = mean_interval(values, confidence=CONFIDENCE)
    return {key: _rounded(value) for key, value in asdict(interval).items()}


def _rounded(value: float) -> float:
    """Return nine significant digits: enough for people, and the same on every machine."""
    return float(f"{value:.9g}")


def _evaluate_classifier(context: StageContext) -> Outcome:
    """Ask every picture of the gate period, and no other; a row says who named its class."""
    pictures = Pictures.load(context.inputs["features"].path)
    champion, same = context.inputs.get(CHAMPION), _is_champion(context)
    found = classify(
        context.inputs["bundle"].path,
        champion.path if champion is not None and not same else None,
        pictures,
        pictures.rows(Period.GATE),
        context.progress,
    )
    if same:
        found.answers[CHAMPION] = found.answers[CANDIDATE]
    _write_picture_rows(context, found)
    summary = _classifier_summary(context, found)
    (context.out / "summary.json").write_text(pretty_json(summary), encoding="utf-8")
    means = [f"{name} {found.right(name).mean():.4f}" for name in found.answers]
    ending = "; the candidate is the champion: already serving" if same else ""
    return Outcome(sentence=f"accuracy on {len(found.rows)} pictures: {', '.join(means)}{ending}")


def _write_picture_rows(context: StageContext, found: Classified) -> None:
    table: dict[str, Any] = {
        "picture": pa.array([f"picture-{row:05d}" for row in found.rows], pa.string()),
        "class": pa.array(found.target.tolist(), pa.string()),
        "answer": pa.array(found.answers[CANDIDATE].tolist(), pa.string()),
        "answer_champion": pa.nulls(len(found.rows), pa.string())
        if CHAMPION not in found.answers
        else pa.array(found.answers[CHAMPION].tolist(), pa.string()),
    }
    for model in dict.fromkeys([CANDIDATE, CHAMPION, *found.answers]):
        there = model in found.answers
        values = found.right(model) if there else None
        empty = pa.nulls(len(found.rows), pa.float64())
        table[f"right_{model}"] = empty if values is None else pa.array(values)
    pq.write_table(pa.table(table), context.out / "rows.parquet", compression="zstd")


def _classifier_summary(context: StageContext, found: Classified) -> dict[str, Json]:
    margin = context.the_release().evaluation.margin
    differences: dict[str, Json] = {}
    for name in found.answers:
        if name != CANDIDATE:
            difference = paired_difference(
                found.right(CANDIDATE), found.right(name), confidence=CONFIDENCE
            )
            differences[name] = {
                **{key: _rounded(value) for key, value in asdict(difference).items()},
                "p_superior": _rounded(difference.p_superior),
                "p_noninferior": _rounded(difference.p_noninferior(margin)),
            }
    classes: dict[str, Json] = {}
    for name in sorted(set(found.target.tolist())):
        chosen = found.target == name
        classes[str(name)] = {
            "pictures": int(chosen.sum()),
            "recall": {m: _rounded(found.right(m)[chosen].mean()) for m in found.answers},
        }
    return {
        "format": "classifier_evaluation/1",
        "period": Period.GATE.label,
        "confidence": CONFIDENCE,
        "pictures": len(found.rows),
        "already_serving": _is_champion(context),
        "models": {name: {"accuracy": _mean(found.right(name))} for name in found.answers},
        "differences": differences,
        "classes": classes,
    }
