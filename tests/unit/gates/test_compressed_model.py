from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from tasks.contracts.stages import ArtifactKind
from tasks.gates.bounds import CompressionBounds

KIND = ArtifactKind.COMPRESSED_MODEL
BOUNDS = CompressionBounds(recipe="blended_transformer", compression="int8")
MODEL = {
    "weights_bytes_fp32": 12_000_000,
    "weights_bytes": 3_200_000,
    "weights_ratio": 0.266667,
    "top10_overlap": 0.97,
    "top10_same_set": 0.8,
    "top1_same": 0.98,
}
REQUESTS, TOP, ITEMS = 120, 20, 50


def golden() -> dict[str, np.ndarray]:
    items = (np.arange(REQUESTS)[:, None] + np.arange(TOP)) % ITEMS + 1
    return {
        "format": np.asarray("golden_requests/1"),
        "items": np.ones((REQUESTS, 7), np.int64),
        "history": np.array(["short"] * (REQUESTS - 1) + ["edge"]),
        "model__items": items,
        "model__scores": np.tile(np.linspace(1, 0, TOP, dtype=np.float32), (REQUESTS, 1)),
    }


@pytest.fixture
def verdict(judge, tmp_path):
    def run(model=None, bounds=BOUNDS, arrays=None, scale=0.1, recipe=None):
        models = {"model": {**MODEL, **(model or {})}, "markov": MODEL}
        record = {"format": "compression/1", "recipe": recipe or bounds.compression}
        (tmp_path / "compression.json").write_text(json.dumps({**record, "models": models}))
        for name, folder in (("model", "model"), ("markov", "baselines/markov")):
            (tmp_path / folder).mkdir(parents=True)
            weights = {
                "codes": np.ones((5, 3), np.int8),
                "scale": np.full(5, scale if name == "model" else 0.1, np.float32),
            }
            save_file(weights, tmp_path / folder / "weights.safetensors")
        items = pd.DataFrame({"item_index": np.arange(1, ITEMS + 1, dtype=np.int32)})
        items.to_parquet(tmp_path / "items.parquet")
        np.savez(tmp_path / "golden.npz", **{**golden(), **(arrays or {})})
        return judge(KIND, bounds)

    return run


def test_a_well_compressed_model_passes(verdict) -> None:
    report = verdict()
    assert report.passed, report.sentence
    assert report.key_figures["of fp32"] == "26.7 %"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    (
        (
            {"model": {"weights_bytes": 4_800_000}},
            (
                "bytes of the weights: at most 30.0 % of fp32 expected, 40.0 % found "
                "(4.80 MB of 12.00 MB)"
            ),
        ),
        (
            {"model": {"top10_overlap": 0.62}},
            (
                "top 10 of model: at least 90.0 % of fp32's items expected, 62.0 % found "
                "(the same first item for 98.0 %)"
            ),
        ),
        (
            {"scale": np.inf},
            "weights and scales of model: finite numbers expected, 5 found (e.g. in tensor scale)",
        ),
        ({"recipe": "none"}, "recipe: int8 expected, none found"),
        (
            {"arrays": {"model__scores": np.full((REQUESTS, TOP), np.nan, np.float32)}},
            "golden scores: finite numbers expected, 2,400 found",
        ),
        (
            {"arrays": {"model__items": golden()["model__items"] + 5}},
            "golden items: items of the vocabulary expected, ",
        ),
        (
            {"arrays": {"model__items": np.ones((REQUESTS, TOP), np.int64)}},
            "golden answers: no item twice in an answer expected, 120 found",
        ),
        (
            {"arrays": {"model__items": np.tile(np.arange(1, TOP + 1), (REQUESTS, 1))}},
            "different golden answers: at least 2 expected, 1 found",
        ),
        (
            {"arrays": {"items": np.zeros((REQUESTS, 7), np.int64)}},
            "empty golden histories: requests with history expected, 119 found",
        ),
    ),
)
def test_a_planted_fault_is_refused_and_named(verdict, changes, sentence) -> None:
    report = verdict(**changes)
    assert not report.passed
    assert sentence in report.sentence, report.sentence


def test_a_small_model_has_little_to_save(verdict) -> None:
    report = verdict(model={"weights_bytes_fp32": 200_000, "weights_bytes": 120_000})
    assert report.passed, report.sentence


def test_without_compression_every_answer_stays(verdict) -> None:
    bounds = replace(BOUNDS, compression="none")
    report = verdict(bounds=bounds, model={"weights_bytes": 12_000_000})
    assert [check.name for check in report.failures] == ["top 10 of model"]
    assert report.failures[0].expected == "at least 100.0 % of fp32's items"
