"""compress -> bundle -> evaluate as separate processes, twice, with other hash seeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tasks.adapters.artifact_store import payload_entries
from tasks.bundling.served_model import LoadedModel

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = Path(__file__).with_name("small_release.py")
pytestmark = [pytest.mark.trial, pytest.mark.timeout(900)]


def run(stage: str, folder: Path, hash_seed: int) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": str(hash_seed),
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [sys.executable, "-W", "ignore", str(SCRIPT), stage, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    for stage in (
        "make",
        "compress",
        "bundle",
        "evaluate",
        "evaluate-champion",
        "evaluate-order-only",
    ):
        run(stage, folder, hash_seed=1)
    return folder


def record(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_other_hash_seeds_make_the_same_bytes(release: Path, tmp_path: Path) -> None:
    for name in ("features", "trained"):
        (tmp_path / name).symlink_to(release / name)
    for stage in ("compress", "bundle", "evaluate"):
        run(stage, tmp_path, hash_seed=99)
    for name in ("compressed", "bundle", "evaluation"):
        assert payload_entries(tmp_path / name) == payload_entries(release / name)
    assert len(payload_entries(release / "bundle")) >= 15


def test_every_golden_user_gets_torchs_top_ten(release: Path) -> None:
    parity = record(release / "bundle" / "parity.json")
    assert parity["format"] == "parity_certificate/1"
    assert parity["requests"] == 60
    for certificate in (parity, *parity["baselines"].values()):
        assert certificate["agreeing"] == certificate["requests"]
        assert certificate["made_up"]["agreeing"] == certificate["made_up"]["requests"] == 4
        assert certificate["finite"]
        assert certificate["worst_score_difference"] < 1e-5


def test_profiles_are_served_as_torch_and_numpy_have_them(release: Path) -> None:
    profile = record(release / "bundle" / "parity.json")["profile"]
    assert profile["requests"] == 63  # sixty users, a cold one and two more that nobody made
    assert profile["worst_difference_from_torch"] < 1e-6
    assert profile["worst_difference_from_numpy"] < 1e-6
    assert profile["miscounted_unknown_items"] == 0
    served = record(release / "bundle" / "bundle.json")
    assert served["profile"]["parts"] == ["category", "price", "days"]
    assert served["signatures"]["profile"]["outputs"] == {
        "categories": "string[None, 7]",
        "category_shares": "float32[None, 7]",
        "days_since_last": "float32[None]",
        "events": "int64[None]",
        "next_types": "float32[None, 4]",
        "price_shares": "float32[None, 2]",
        "recent_events": "int64[None, 3]",
        "steps": "int64[None]",
        "unknown_items": "int64[None]",
    }


def test_the_bundle_holds_no_fingerprint_and_says_its_true_size(release: Path) -> None:
    bundle = release / "bundle"
    assert not list(bundle.rglob("fingerprint.pb"))
    files = [bundle / "model/saved_model.pb", *(bundle / "model/variables").iterdir()]
    sizes = record(bundle / "bundle.json")
    assert sizes["bytes"] == sum(path.stat().st_size for path in files)
    assert 0 < sizes["profile_bytes"] < sizes["bytes"] < sizes["fp32_bytes"]


def test_evaluation_has_one_row_per_user_and_nulls_for_no_champion(release: Path) -> None:
    rows = pq.read_table(release / "evaluation" / "rows.parquet").to_pandas()
    assert rows.user_id.is_unique
    assert rows.ndcg_champion.isna().all()
    assert set(rows["slice"]) <= {"head", "mid", "tail"}
    # Each user has two steps in the gate period.
    assert rows.examples.tolist() == [2] * 60
    models = ("candidate", "markov", "personal_frequency", "popularity")
    for model in models:
        assert rows[f"ndcg_{model}"].between(0, 1).all()
    summary = record(release / "evaluation" / "summary.json")
    for model in models:
        mean = summary["models"][model]["ndcg"]["mean"]
        assert mean == pytest.approx(rows[f"ndcg_{model}"].mean(), abs=1e-8)


def test_the_summary_says_which_baselines_were_left_out_and_why(release: Path) -> None:
    assert record(release / "evaluation" / "summary.json")["baselines_left_out"] == {
        "ease": "not fitted here",
        "markov_of_types": "all events of the train period are of one type",
    }


def test_the_chain_of_types_stands_beside_a_candidate_that_reads_none(release: Path) -> None:
    summary = record(release / "order-only" / "summary.json")

    assert set(summary["event_types"]["next_type"]) == {"markov_of_types", "shares_of_types"}
    assert "ndcg_without_types" not in summary["event_types"]
    assert summary["baselines_left_out"] == {"ease": "not fitted here"}


def test_habits_are_found_by_personal_frequency_and_not_by_popularity(release: Path) -> None:
    models = record(release / "evaluation" / "summary.json")["models"]
    assert models["personal_frequency"]["ndcg"]["mean"] > 0.3
    assert models["popularity"]["ndcg"]["upper"] < models["personal_frequency"]["ndcg"]["lower"]


def test_a_candidate_that_is_the_champion_is_already_serving(release: Path) -> None:
    assert not record(release / "evaluation" / "summary.json")["already_serving"]
    assert record(release / "against" / "summary.json")["already_serving"]
    rows = pq.read_table(release / "against" / "rows.parquet").to_pandas()
    np.testing.assert_array_equal(rows.ndcg_candidate, rows.ndcg_champion)


def test_only_sets_without_time_report_the_last_out_position(release: Path) -> None:
    assert "reported_only" not in record(release / "evaluation" / "summary.json")
    ordered = record(release / "order-only" / "summary.json")
    # One step of each user is in the canary period; rows stay those of the gate period.
    assert ordered["reported_only"]["users"] == 60
    assert 0.3 < ordered["reported_only"]["ndcg10"]["personal_frequency"] <= 1
    gate, again = (
        pq.read_table(release / name / "rows.parquet") for name in ("evaluation", "order-only")
    )
    assert gate.equals(again)


def test_every_warmup_record_is_a_request_that_the_model_answers(release: Path) -> None:
    folder = release / "bundle" / "model"
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    batches = []
    with LoadedModel(folder) as model:
        for record_bytes in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record_bytes)
            request = log.predict_log.request
            inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
            answer = model.ask(request.model_spec.signature_name, inputs)
            batches.append((request.model_spec.signature_name, len(next(iter(answer.values())))))
    # 60 golden users: no batch of 64.
    assert batches == [
        ("serving_default", 1),
        ("serving_default", 8),
        ("serving_default", 1),
        ("recommend", 1),
        ("profile", 1),
    ]
