from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tasks.contracts.errors import BadRequestError
from tasks.contracts.stages import ArtifactKind
from tasks.gates.bounds import TrainingBounds

KIND = ArtifactKind.TRAINED_MODEL
BOUNDS = TrainingBounds(recipe="blended_transformer")
SCORES = {"model": 0.12, "popularity": 0.05, "personal_frequency": 0.09, "markov": 0.08}
LEFT_OUT = dict.fromkeys(("item_knn", "ease", "ials"), "too many items") | {
    "first_order_markov": "not asked for"
}
CURVE = ((3.0, 0.06), (2.5, 0.08), (2.4, 0.079))  # (loss, select NDCG@10)


@pytest.fixture
def verdict(judge, tmp_path):
    def run(weights=None, scores=SCORES, curve=CURVE, bounds=BOUNDS, baselines=None, **report):
        tensors = {"items.weight": np.ones((11, 4), np.float32), "bias": np.ones(11, np.float32)}
        tensors |= weights or {}
        (tmp_path / "baselines").mkdir()
        save_file(tensors, tmp_path / "model.safetensors")
        for name in baselines or ("popularity", "personal_frequency", "markov"):
            save_file({"w": np.ones(11, np.float32)}, tmp_path / f"baselines/{name}.safetensors")
        epochs = [
            {"epoch": n, "loss": loss, "select_ndcg10": ndcg}
            for n, (loss, ndcg) in enumerate(curve, start=1)
        ]
        record = {
            "format": "training_report/1",
            "recipe": bounds.recipe,
            "num_items": 10,
            "parameters": sum(tensor.size for tensor in tensors.values()),
            "blend_weights": [0.4, 0.2, 0.3, 0.1],
            "select_ndcg10": scores,
            "baselines_left_out": LEFT_OUT,
            **report,
        }
        (tmp_path / "report.json").write_text(json.dumps(record))
        curve_record = {"format": "learning_curve/1", "epochs": epochs}
        (tmp_path / "curve.json").write_text(json.dumps(curve_record))
        return judge(KIND, bounds)

    return run


def test_a_model_that_learnt_passes_with_its_curve(verdict) -> None:
    report = verdict()
    assert report.passed, report.sentence
    assert [figure.title for figure in report.figures] == [
        "NDCG@10 on the select period",
        "Training loss by epoch",
        "Select NDCG@10 by epoch",
    ]


def test_the_report_says_which_baselines_are_left_out_and_why(verdict) -> None:
    assert verdict().key_figures["baselines left out"] == (
        "item_knn, ease, ials (too many items); first_order_markov (not asked for)"
    )


def test_a_weight_that_is_no_number_is_refused_with_its_tensor(verdict) -> None:
    report = verdict(weights={"bias": np.full(11, np.nan, np.float32)})
    assert report.sentence == (
        "Gate 'trained_model' refused: 1 of 14 failed - weights of model: finite numbers expected, "
        "11 found (e.g. in tensor bias) - A weight that is no number: lower the learning rate."
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    (
        (
            {"scores": {**SCORES, "model": 0.05}},
            "select NDCG@10: more than popularity's expected, 0.05 found (popularity 0.05)",
        ),
        (
            {"curve": ((3.0, 0.01), (2.9, 0.02))},
            "select NDCG@10 of the network alone: more than popularity's expected, 0.02 found",
        ),
        (
            {"curve": ((3.0, 0.06), (2.5, 0.08), (3.6, 0.07))},
            "last loss over the lowest: at most 1.20 x expected, 1.44 x found",
        ),
        (
            {"curve": ((3.0, 0.06), (float("nan"), 0.08))},
            "losses: finite numbers expected, 1 found",
        ),
        (
            {"baselines": ("popularity",)},
            "baselines missing: none expected, 2 found (markov, personal_frequency)",
        ),
        (
            {"baselines_left_out": {}},
            "baselines missing: none expected, 4 found (ease, first_order_markov, ials, item_knn)",
        ),
        (
            {"num_items": 12},
            "tensors over all items: at least one with 13 rows (items and padding) expected, 0",
        ),
        ({"parameters": 54}, "parameters: 54, as the report says expected, 55 found"),
        ({"recipe": "markov"}, "recipe: blended_transformer expected, markov found"),
        (
            {"scores": {"popularity": 0.05, "model": None}},
            "select NDCG@10: more than popularity's expected, nothing found",
        ),
    ),
)
def test_a_planted_fault_is_refused_and_named(verdict, changes, sentence) -> None:
    report = verdict(**changes)
    assert not report.passed
    assert sentence in report.sentence, report.sentence


def test_a_blend_without_its_network_warns(verdict) -> None:
    report = verdict(blend_weights=[0.7, 0.3, 0.0, 0.0])
    assert report.passed, report.sentence
    assert [check.name for check in report.warnings] == ["the network's share in the blend"]


def test_popularity_need_not_beat_itself(verdict) -> None:
    report = verdict(
        bounds=TrainingBounds(recipe="popularity"),
        scores={"model": 0.05, "popularity": 0.05},
        curve=(),
        blend_weights=None,
    )
    assert report.passed, report.sentence
    assert report.note == "fitted by counting: there is no learning curve"


def test_a_file_that_is_no_tensor_file_is_a_bad_request(verdict, tmp_path, judge) -> None:
    verdict()
    (tmp_path / "model.safetensors").write_bytes(b"\x01\0\0\0\0\0\0\0x")
    with pytest.raises(BadRequestError, match=r"model\.safetensors: expected safetensors"):
        judge(KIND, BOUNDS)
