"""Gates of a classifier of pictures: trained, compressed, bundled, evaluated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from tasks.contracts.catalogues import FIRST_RELEASE_RECIPES, Material
from tasks.contracts.gate_reports import Figure, Series
from tasks.contracts.json_types import Json
from tasks.gates.checks import (
    Batch,
    Measurement,
    Payload,
    Suite,
    joined,
    measured,
    not_null,
    unique,
)
from tasks.gates.model_measurements import (
    allowed_ratio,
    bytes_on_disk,
    finite_losses,
    loss_rebound,
    none_of,
)
from tasks.gates.picture_bounds import (
    ClassifierBounds,
    ClassifierBundleBounds,
    ClassifierCompressionBounds,
    ClassifierEvaluationBounds,
)
from tasks.gates.records import number, read_record
from tasks.gates.saved_model_signatures import Signature, Tensor, read_signatures
from tasks.gates.tensor_files import not_finite, read_tensors
from tasks.gates.wording import in_words
from tasks.models.npz_files import arrays_of
from tasks.statistics.bootstrap import PairedDifference, holm, mean_interval, paired_difference

MODEL = "model"
FIRST = FIRST_RELEASE_RECIPES[Material.PICTURES]
ALWAYS_THERE = ("majority_class", "class_means")
WARMUP = "assets.extra/tf_serving_warmup_requests"

Record = dict[str, Json]


def trained(payload: Payload, wanted: ClassifierBounds) -> Suite:
    """Return what is expected of weights, curve and select-period accuracy."""
    report = read_record(payload.path / "report.json", "classifier_report")
    curve = read_record(payload.path / "curve.json", "learning_curve")
    epochs = [cast("Record", epoch) for epoch in cast("list[Json]", curve["epochs"])]
    scores = cast("Record", report["select_accuracy"])
    model, majority = number(scores, MODEL), number(scores, FIRST)
    files = {MODEL: payload.path / "model.safetensors"}
    files |= {name: payload.path / f"baselines/{name}.safetensors" for name in ALWAYS_THERE}
    found = [_finite(f"weights of {name}", path) for name, path in files.items()]
    numbers = sum(tensor.size for _, tensor in read_tensors(files[MODEL]))
    told = number(report, "numbers")
    found += [
        Measurement(name="recipe", value=str(report.get("recipe")), equals=wanted.recipe),
        Measurement(
            name="numbers in the model",
            value=numbers,
            minimum=told,
            maximum=told,
            unit="count",
            expected=f"{in_words(told, 'count')}, as the report says",
        ),
        _better_than_majority(model, majority, wanted),
        *_learning(epochs, wanted),
    ]
    figure = Figure(
        title="Accuracy on the select period",
        shape="bars",
        labels=tuple(scores),
        series=(Series(name="accuracy", values=tuple(number(scores, n) for n in scores)),),
        note="Used to choose; the evaluation gate tests on the gate period.",
    )
    shown = {
        "recipe": wanted.recipe,
        "select accuracy": in_words(model),
        "parameters": in_words(number(report, "parameters"), "count"),
        "epochs": str(len(epochs)),
    }
    return Suite(batches=(measured("training", found),), figures=(figure,), key_figures=shown)


def _finite(name: str, path: Path) -> Measurement:
    bad, _, where = not_finite(path)
    return Measurement(
        name=name,
        value=bad,
        maximum=0,
        unit="count",
        expected="finite numbers",
        where=where,
        why="A weight that is no number: lower the learning rate.",
    )


def _better_than_majority(
    model: float | None, majority: float | None, wanted: ClassifierBounds
) -> Measurement:
    if wanted.recipe == FIRST:
        return Measurement(name="select accuracy", value=model, above=0.0)
    return Measurement(
        name="select accuracy",
        value=model,
        above=majority if majority is not None else float("inf"),
        expected="more than the majority class's",
        where=f"({in_words(majority)})",
        why="Not even one answer for every picture was beaten.",
    )


def _learning(epochs: list[Record], wanted: ClassifierBounds) -> list[Measurement]:
    losses = [number(epoch, "loss") for epoch in epochs]
    known = [loss for loss in losses if loss is not None]
    found = [finite_losses(losses)]
    if len(known) > 1:
        found.append(loss_rebound(known, wanted.max_loss_rebound))
    return found


def compressed(payload: Payload, wanted: ClassifierCompressionBounds) -> Suite:
    """Return what is expected of bytes, answers and golden pictures."""
    record = read_record(payload.path / "compression.json", "classifier_compression")
    models = {n: cast("Record", m) for n, m in cast("Any", record["models"]).items()}
    model = models[MODEL]
    fp32, now = number(model, "weights_bytes_fp32"), number(model, "weights_bytes")
    most = allowed_ratio(fp32, wanted)
    least = wanted.min_same_class if wanted.compression != "none" else 1.0
    found = [
        Measurement(name="recipe", value=str(record.get("recipe")), equals=wanted.compression),
        Measurement(
            name="bytes of the weights",
            value=None if now is None or not fp32 else now / fp32,
            maximum=most,
            unit="share",
            expected=f"at most {in_words(most, 'share')} of fp32",
            where=f"({in_words(now, 'bytes')} of {in_words(fp32, 'bytes')})",
        ),
        *(
            Measurement(
                name=f"the same class by {name}",
                value=number(one, "same_class"),
                minimum=least,
                unit="share",
                severity="critical" if name == MODEL else "warning",
                expected=f"for at least {in_words(least, 'share')} of golden pictures",
                why="Compression changes the answers: choose another recipe.",
            )
            for name, one in models.items()
        ),
        *_golden_arrays(payload.path, wanted),
    ]
    found += [
        _finite(f"weights and scales of {name}", _place(payload.path, name) / "weights.safetensors")
        for name in models
    ]
    shown = {
        "recipe": wanted.compression,
        "weights": in_words(now, "bytes"),
        "of fp32": in_words(number(model, "weights_ratio"), "share"),
        "the same class": in_words(number(model, "same_class"), "share"),
    }
    return Suite(batches=(measured("compression", found),), key_figures=shown)


def _place(folder: Path, name: str) -> Path:
    return folder / (MODEL if name == MODEL else f"baselines/{name}")


def _golden_arrays(folder: Path, wanted: ClassifierCompressionBounds) -> list[Measurement]:
    with arrays_of(folder / "golden.npz", "golden_pictures/1") as arrays:
        items, scores = arrays[f"{MODEL}__items"], arrays[f"{MODEL}__scores"]
        real = arrays["target"] != "edge"
    classes = np.arange(items.shape[1])
    return [
        Measurement(
            name="golden pictures",
            value=int(real.sum()),
            minimum=wanted.min_golden_requests,
            unit="count",
        ),
        none_of("golden scores", int((~np.isfinite(scores)).sum()), "finite numbers"),
        none_of(
            "golden scores that do not sum to 1",
            int((np.abs(scores.sum(axis=1) - 1) > 1e-4).sum()),
            "probabilities",
        ),
        none_of(
            "golden answers",
            int((np.sort(items, axis=1) != classes).any(axis=1).sum()),
            "every class once in an answer",
        ),
    ]


def bundle(payload: Payload, wanted: ClassifierBundleBounds) -> Suite:
    """Return what is expected of certificate, signature, files and golden answers."""
    record = read_record(payload.path / "bundle.json", "classifier_bundle")
    certificate = read_record(payload.path / "parity.json", "parity_certificate")
    names = (MODEL, *sorted(cast("Record", record["baselines"])))
    side, classes = int(number(record, "side") or 0), len(cast("Any", record["class_names"]))
    found = [*_parity(certificate, wanted)]
    for name in names:
        found += _served(_place(payload.path, name), name, side, classes)
    found += bytes_on_disk(payload.path / MODEL, record, wanted)
    found += _golden_lines(payload.path, record, wanted)
    agreeing, requests = number(certificate, "agreeing"), number(certificate, "requests")
    shown = {
        "same classes": f"{agreeing or 0:,.0f} of {requests or 0:,.0f}",
        "worst difference": in_words(number(certificate, "worst_score_difference")),
        "SavedModel": in_words(number(record, "bytes"), "bytes"),
        "of fp32": in_words(number(record, "ratio"), "share"),
    }
    return Suite(batches=(measured("bundle", found),), key_figures=shown)


def _parity(certificate: Record, wanted: ClassifierBundleBounds) -> list[Measurement]:
    baselines = cast("dict[str, Record]", certificate.get("baselines") or {})
    slices = cast("dict[str, Record]", certificate.get("slices") or {})
    made_up = cast("Record", certificate.get("made_up") or {})
    asked = {"": certificate, ", made-up pictures": made_up}
    asked |= {f" of {name}": one for name, one in baselines.items()}
    asked |= {f", {name}": one for name, one in slices.items()}
    found = []
    for name, one in asked.items():
        requests, agreeing = number(one, "requests"), number(one, "agreeing")
        allowed = max(1.0, (requests or 0) * (1 - wanted.min_agreement))
        found.append(
            Measurement(
                name=f"the trained model's classes{name}",
                value=None if requests is None or agreeing is None else requests - agreeing,
                maximum=allowed,
                unit="count",
                expected=f"at most {allowed:g} of {requests or 0:,.0f} answered differently",
                why="What is served is not what was trained and evaluated.",
            )
        )
    found.append(
        Measurement(
            name="worst score difference",
            value=number(certificate, "worst_score_difference"),
            maximum=wanted.max_score_difference,
            why="TensorFlow computes another number: an operator was lowered wrongly.",
        )
    )
    return found


def expected_signatures(side: int, classes: int) -> Mapping[str, Signature]:
    """Return what clients call: pictures of `side` x `side` bytes in, all classes out."""
    return MappingProxyType(
        {
            "serving_default": Signature(
                inputs={"images": Tensor(dtype="uint8", shape=(-1, side, side))},
                outputs={
                    "classes": Tensor(dtype="string", shape=(-1, classes)),
                    "scores": Tensor(dtype="float32", shape=(-1, classes)),
                },
                optional=frozenset(),
            )
        }
    )


def _served(place: Path, name: str, side: int, classes: int) -> list[Measurement]:
    path = place / "saved_model.pb"
    present = read_signatures(path) if path.is_file() else {}
    return [
        Measurement(
            name=f"signatures of {name}",
            value=_in_words(present),
            equals=_in_words(expected_signatures(side, classes)),
            why="Clients call this signature by these names, types and sizes.",
        ),
        none_of(f"missing warm-up of {name}", int(not (place / WARMUP).is_file()), "none"),
        none_of(
            f"files of {name} that differ in each run",
            int((place / "fingerprint.pb").exists()),
            "no fingerprint.pb",
        ),
    ]


def _in_words(signatures: Mapping[str, Signature]) -> str:
    def listed(tensors: Mapping[str, Tensor]) -> str:
        return ", ".join(
            f"{name} {tensors[name].dtype}{list(tensors[name].shape or ())}"
            for name in sorted(tensors)
        )

    return "; ".join(
        f"{name}: {listed(one.inputs)} -> {listed(one.outputs)}"
        for name, one in sorted(signatures.items())
    )


def _golden_lines(
    folder: Path, record: Record, wanted: ClassifierBundleBounds
) -> list[Measurement]:
    text = (folder / "golden.jsonl").read_text(encoding="utf-8")
    names = sorted(str(name) for name in cast("list[str]", record["class_names"]))
    answers = [json.loads(line)["items"] for line in text.splitlines()]
    odd = sum(sorted(items) != names for items in answers)
    return [
        Measurement(
            name="golden answers",
            value=len(answers),
            minimum=wanted.min_golden_requests,
            unit="count",
        ),
        none_of("golden answers of other classes", odd, "every class once"),
    ]


def evaluation(payload: Payload, wanted: ClassifierEvaluationBounds) -> Suite:
    """Return what is expected of the comparisons, then of the rows that they rest on."""
    frame = pq.read_table(payload.path / "rows.parquet").to_pandas()
    known = [str(n).removeprefix("right_") for n in frame if str(n).startswith("right_")]
    baselines = [name for name in known if name not in {"candidate", "champion"}]
    rows = Batch(
        name="rows",
        frame=frame[["picture", "class", "answer", "right_candidate"]],
        checks=(not_null("picture"), unique("picture"), not_null("class"), not_null("answer")),
        row_noun="pictures",
        example="picture",
    )
    parts = [_amount(frame, baselines, wanted)]
    parts += _against_baselines(frame, baselines, wanted)
    parts += _against_champion(frame, wanted) if wanted.has_champion else []
    low, mean, high = _interval(frame, "candidate")
    names = ["candidate", *(["champion"] if wanted.has_champion else []), *baselines]
    ends = [_interval(frame, name) for name in names]
    figure = Figure(
        title="Accuracy per model",
        shape="intervals",
        labels=tuple(names),
        series=(
            Series(
                name="accuracy",
                values=tuple(mean for _, mean, _ in ends),
                low=tuple(low for low, _, _ in ends),
                high=tuple(high for _, _, high in ends),
            ),
        ),
        note="95 % intervals over pictures of the gate period; the same pictures for all.",
    )
    shown = {
        "pictures": in_words(len(frame), "count"),
        "accuracy": f"{mean:.4f} ({low:.4f} to {high:.4f})",
    }
    return joined(
        Suite(batches=(measured("accuracy", parts), rows)),
        Suite(batches=(), figures=(figure,), key_figures=shown),
    )


def _right(frame: pd.DataFrame, model: str) -> Any:
    column = f"right_{model}"
    if column not in frame:
        return np.full(len(frame), np.nan)
    return frame[column].to_numpy(dtype=np.float64, na_value=np.nan)


def _interval(frame: pd.DataFrame, model: str) -> tuple[float, float, float]:
    values = _right(frame, model)
    if len(values) < 2 or not np.isfinite(values).all():
        return 0.0, 0.0, 0.0
    found = mean_interval(values)
    return found.lower, found.mean, found.upper


def _versus(frame: pd.DataFrame, model: str, alpha: float) -> PairedDifference | None:
    ours, theirs = _right(frame, "candidate"), _right(frame, model)
    if len(ours) < 2 or not np.isfinite(ours - theirs).all():
        return None
    return paired_difference(ours, theirs, confidence=1 - 2 * alpha)


def _amount(
    frame: pd.DataFrame, baselines: list[str], wanted: ClassifierEvaluationBounds
) -> Measurement:
    missing = sorted(set(ALWAYS_THERE) - set(baselines))
    return Measurement(
        name="pictures asked of all models",
        value=0 if missing else len(frame),
        minimum=wanted.min_pictures,
        unit="count",
        where=f"(missing: {', '.join(missing)})" if missing else "",
    )


def _against_baselines(
    frame: pd.DataFrame, baselines: list[str], wanted: ClassifierEvaluationBounds
) -> list[Measurement]:
    if wanted.recipe == FIRST:  # the opponent of later releases has nothing to beat
        return []
    names = [name for name in baselines if name != wanted.recipe]
    found = {name: _versus(frame, name, wanted.alpha) for name in names}
    p_values = holm({n: 1.0 if d is None else d.p_superior for n, d in found.items()})
    return [
        Measurement(
            name=f"better than {name}",
            value=p_values[name],
            maximum=wanted.alpha,
            expected=f"p at most {wanted.alpha:g} (Holm over {len(names)})",
            where=_where(frame, name, found[name]),
            why="A model that does not beat a simple rule is not worth its cost.",
        )
        for name in names
    ]


def _where(frame: pd.DataFrame, name: str, found: PairedDifference | None) -> str:
    if found is None:
        return "(not every picture has an answer of both)"
    ours, theirs = _interval(frame, "candidate")[1], _interval(frame, name)[1]
    return f"(accuracy {ours:.4f} against {theirs:.4f}, difference {found.mean:+.4f})"


def _against_champion(frame: pd.DataFrame, wanted: ClassifierEvaluationBounds) -> list[Measurement]:
    whole = _versus(frame, "champion", wanted.alpha)
    found = [
        Measurement(
            name="not worse than the champion",
            value=None if whole is None else whole.lower,
            above=-wanted.margin,
            expected=f"lower bound of the difference above {-wanted.margin:g}",
            where=_where(frame, "champion", whole),
            why="The candidate may have lost more than the margin allows.",
        )
    ]
    for name in sorted(set(frame["class"].dropna())):
        rows = _about(frame, name)
        one = _versus(rows, "champion", wanted.alpha)
        found.append(
            Measurement(
                name=f"{name} not proven worse",
                value=None if one is None else one.upper,
                minimum=-wanted.slice_margin,
                expected=f"upper bound of the difference at least {-wanted.slice_margin:g}",
                where=f"over {len(rows):,} pictures that are {name}, or that either model calls so",
                why=f"What is told of {name} is worse, however other classes gain.",
            )
        )
    return found


def _about(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows that are of a class, or that candidate or champion put into it.

    By its own pictures alone a model that answers one class to everything would be the best at that class.
    """
    said = [frame["class"] == name, frame["answer"] == name]
    if "answer_champion" in frame:  # since an evaluation keeps it
        said.append(frame["answer_champion"] == name)
    return frame[np.logical_or.reduce([one.fillna(value=False).to_numpy(bool) for one in said])]
