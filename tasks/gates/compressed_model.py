"""Gate after compression: small enough, and nearly the same answers as before."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.contracts.gate_reports import Figure, Series
from tasks.contracts.json_types import Json
from tasks.gates.bounds import CompressionBounds
from tasks.gates.checks import Measurement, Payload, Suite, joined, measured
from tasks.gates.model_measurements import allowed_ratio, none_of
from tasks.gates.records import number, read_record
from tasks.gates.tensor_files import not_finite
from tasks.gates.wording import in_words
from tasks.models.npz_files import arrays_of

MODEL = "model"


def suite(payload: Payload, wanted: CompressionBounds) -> Suite:
    """Return what is expected of bytes, answers, weights and golden requests."""
    record = read_record(payload.path / "compression.json", "compression")
    models = {name: cast("dict[str, Json]", m) for name, m in cast("Any", record["models"]).items()}
    return joined(
        Suite(batches=(measured("size", _size(record, models, wanted)),)),
        Suite(batches=(measured("answers", _answers(models, wanted)),)),
        Suite(batches=(measured("weights", _weights(payload, models)),)),
        Suite(batches=(measured("golden requests", _golden(payload, wanted)),)),
        _shown(record, models),
    )


def _size(
    record: dict[str, Json], models: dict[str, dict[str, Json]], wanted: CompressionBounds
) -> list[Measurement]:
    model = models[MODEL]
    fp32, now = number(model, "weights_bytes_fp32"), number(model, "weights_bytes")
    return [
        Measurement(name="recipe", value=str(record.get("recipe")), equals=wanted.compression),
        Measurement(
            name="bytes of the weights",
            value=None if now is None or not fp32 else now / fp32,
            maximum=allowed_ratio(fp32, wanted),
            unit="share",
            expected=f"at most {in_words(allowed_ratio(fp32, wanted), 'share')} of fp32",
            where=f"({in_words(now, 'bytes')} of {in_words(fp32, 'bytes')})",
        ),
    ]


def _answers(models: dict[str, dict[str, Json]], wanted: CompressionBounds) -> list[Measurement]:
    least = wanted.min_overlap if wanted.compression != "none" else 1.0
    return [
        Measurement(
            name=f"top 10 of {name}",
            value=number(record, "top10_overlap"),
            minimum=least,
            unit="share",
            severity="critical" if name == MODEL else "warning",
            expected=f"at least {in_words(least, 'share')} of fp32's items",
            where=f"(the same first item for {in_words(number(record, 'top1_same'), 'share')})",
            why="Compression changes what users see: choose another recipe.",
        )
        for name, record in models.items()
    ]


def _weights(payload: Payload, models: dict[str, dict[str, Json]]) -> list[Measurement]:
    found = []
    for name in models:
        folder = payload.path / (MODEL if name == MODEL else f"baselines/{name}")
        bad, _, where = not_finite(folder / "weights.safetensors")
        found.append(
            Measurement(
                name=f"weights and scales of {name}",
                value=bad,
                maximum=0,
                unit="count",
                expected="finite numbers",
                where=where,
            )
        )
    return found


def _golden(payload: Payload, wanted: CompressionBounds) -> list[Measurement]:
    known = set(
        pq.read_table(payload.path / "items.parquet", columns=["item_index"])["item_index"]
        .to_numpy()
        .tolist()
    )
    with arrays_of(payload.path / "golden.npz", "golden_requests/1", "golden_requests/2") as arrays:
        items, scores = arrays[f"{MODEL}__items"], arrays[f"{MODEL}__scores"]
        asked = arrays["items"]
        real = arrays["history"] != "edge"
    unknown = ~np.isin(items, list(known)) & (items != 0)
    return [
        Measurement(
            name="golden requests of users",
            value=int(real.sum()),
            minimum=wanted.min_golden_requests,
            unit="count",
        ),
        none_of("golden scores", int((~np.isfinite(scores)).sum()), "finite numbers"),
        none_of("golden items", int(unknown.sum()), "items of the vocabulary"),
        none_of("golden answers", _repeated(items), "no item twice in an answer"),
        none_of(
            "golden answers in order",
            int((np.diff(scores, axis=1) > 0).any(axis=1).sum()),
            "scores that never rise",
        ),
        Measurement(
            name="different golden answers",
            value=len(np.unique(items[real], axis=0)) if real.any() else 0,
            minimum=1 if wanted.recipe == "popularity" else 2,
            unit="count",
            why="Every user gets the same answer: the history is not looked at.",
        ),
        none_of(
            "empty golden histories",
            int((asked[real] == 0).all(axis=1).sum()),
            "requests with history",
        ),
    ]


def _repeated(items: NDArray[Any]) -> int:
    """Return how many rows hold an item twice; 0 is an empty place."""
    ordered = np.sort(items, axis=1)
    again = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != 0)
    return int(again.any(axis=1).sum())


def _shown(record: dict[str, Json], models: dict[str, dict[str, Json]]) -> Suite:
    names = tuple(models)

    def of(key: str) -> tuple[float | None, ...]:
        return tuple(number(models[name], key) for name in names)

    figures = (
        Figure(
            title="Share of fp32's top-10 items kept",
            shape="bars",
            labels=names,
            series=(Series(name="kept", values=of("top10_overlap")),),
        ),
        Figure(
            title="Bytes of the weights",
            shape="bars",
            labels=names,
            series=(
                Series(name="fp32", values=of("weights_bytes_fp32")),
                Series(name=str(record.get("recipe")), values=of("weights_bytes")),
            ),
        ),
    )
    return Suite(
        batches=(),
        figures=figures,
        key_figures={
            "recipe": str(record.get("recipe")),
            "weights": in_words(number(models[MODEL], "weights_bytes"), "bytes"),
            "of fp32": in_words(number(models[MODEL], "weights_ratio"), "share"),
            "top 10 kept": in_words(number(models[MODEL], "top10_overlap"), "share"),
        },
    )
