"""Pictures from files to an evaluation, each stage in a process of its own, in torch and in Keras."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save

from tasks.adapters.artifact_store import payload_entries
from tasks.contracts.columns import Period
from tasks.contracts.requests import Champion, ReleaseRequest, plan_named
from tasks.contracts.stages import ArtifactKind
from tasks.gates.bounds import bounds_for
from tasks.gates.checks import Payload
from tasks.gates.run_gate import run_gate
from tasks.models.pictures import Pictures

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = Path(__file__).with_name("small_classifier.py")
TO_FEATURES = ("make", "ingest_events", "build_features")
TO_EVALUATION = ("train_model", "compress_model", "bundle_model", "evaluate_model")
RECIPES = ("residual_picture_net", "keras_two_convolutions")
pytestmark = [pytest.mark.trial, pytest.mark.timeout(900)]


def run(stage: str, folder: Path, recipe: str, hash_seed: int = 1) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": str(hash_seed),
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [sys.executable, "-W", "ignore", str(SCRIPT), stage, str(folder), recipe]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def run_all(stages: tuple[str, ...], folder: Path, recipe: str, hash_seed: int = 1) -> None:
    for stage in stages:
        done = run(stage, folder, recipe, hash_seed)
        assert done.returncode == 0, f"{stage}: {done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    run_all(TO_FEATURES, folder, RECIPES[0])
    return folder


@pytest.fixture(scope="module")
def releases(features: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {recipe: tmp_path_factory.mktemp(recipe) for recipe in RECIPES}
    for recipe, folder in folders.items():
        for name in ("data", "events", "features"):
            (folder / name).symlink_to(features / name)
        run_all(TO_EVALUATION, folder, recipe)
    return folders


def record(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_the_sets_own_test_pictures_are_the_gate_period_and_no_training_picture_is(
    features: Path,
) -> None:
    table = pq.read_table(features / "events" / "pictures.parquet").to_pandas()
    assert set(table[table.picture_id.str.startswith("test-")].period) == {"gate"}
    trained = table[table.picture_id.str.startswith("train-")]
    # 560 of each class: the last 500 are kept, 300 to select on and then 200 for canary traffic.
    assert trained.period.value_counts().to_dict() == {"train": 600, "select": 3000, "canary": 2000}


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_served_is_what_was_trained(releases: dict[str, Path], recipe: str) -> None:
    parity = record(releases[recipe] / "bundle" / "parity.json")
    for certificate in (parity, *parity["baselines"].values()):
        assert certificate["agreeing"] == certificate["requests"] == 400
        assert certificate["made_up"]["agreeing"] == 4
        assert certificate["worst_score_difference"] < 1e-5


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_model_learnt_and_each_row_says_so(releases: dict[str, Path], recipe: str) -> None:
    rows = pq.read_table(releases[recipe] / "evaluation" / "rows.parquet").to_pandas()
    summary = record(releases[recipe] / "evaluation" / "summary.json")
    np.testing.assert_array_equal(rows.right_candidate == 1, rows["class"] == rows.answer)
    assert rows.right_champion.isna().all()
    accuracy = {name: model["accuracy"]["mean"] for name, model in summary["models"].items()}
    assert accuracy["majority_class"] == 0.1
    assert accuracy["candidate"] == pytest.approx(rows.right_candidate.mean())
    assert summary["models"]["candidate"]["accuracy"]["lower"] > 0.2


def test_int8_makes_the_torch_network_small_and_keras_stays_as_trained(
    releases: dict[str, Path],
) -> None:
    torch, keras = (record(releases[recipe] / "compressed/compression.json") for recipe in RECIPES)
    assert torch["models"]["model"]["weights_ratio"] < 0.45
    assert torch["models"]["model"]["same_class"] > 0.97
    assert keras["models"]["model"]["weights_ratio"] == 1.0


def test_int8_of_a_keras_model_is_refused_with_the_next_step(
    releases: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("features", "trained"):
        (tmp_path / name).symlink_to(releases["keras_two_convolutions"] / name)
    done = run("compress_model", tmp_path, "residual_picture_net")  # which asks for int8
    assert done.returncode != 0
    assert "next step: release it with 'none'" in done.stderr


@pytest.mark.parametrize("recipe", RECIPES)
def test_other_hash_seeds_make_the_same_bytes(
    releases: dict[str, Path], tmp_path: Path, recipe: str
) -> None:
    for name in ("data", "features", "trained"):
        (tmp_path / name).symlink_to(releases[recipe] / name)
    run_all(("ingest_events", *TO_EVALUATION[1:]), tmp_path, recipe, hash_seed=99)
    for name in ("events", "compressed", "bundle", "evaluation"):
        assert payload_entries(tmp_path / name) == payload_entries(releases[recipe] / name)


# The gates on the very payloads, and on planted faults.

KINDS = {
    "events": ArtifactKind.VALIDATED_EVENTS,
    "features": ArtifactKind.FEATURE_SET,
    "trained": ArtifactKind.TRAINED_MODEL,
    "compressed": ArtifactKind.COMPRESSED_MODEL,
    "bundle": ArtifactKind.SERVING_BUNDLE,
    "evaluation": ArtifactKind.EVALUATION,
}
CHAMPION = Champion(release_number=1, release_id="r1", bundle=f"serving_bundle/{'a' * 64}")


def refused(folder: Path, product: str, recipe: str, **changed: Any) -> list[str]:
    """Return the names of the critical checks that fail."""
    release = ReleaseRequest(
        release_id="small",
        model="classifier",
        dataset="fashion-mnist",
        as_of="2026-01-01T00:00:00Z",
        recipe=recipe,
        compression="none" if recipe.startswith("keras") else "int8",
        plan=plan_named("replay"),
        **changed,
    )
    kind = KINDS[product]
    report = run_gate(
        kind,
        bounds_for(kind, release),
        Payload(path=folder / product),
        artifact=f"{kind.value}/{'a' * 64}",
        content="b" * 64,
    )
    return [check.name for check in report.failures]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_gate_passes_but_for_means_that_know_all_bars(
    releases: dict[str, Path], recipe: str
) -> None:
    found = {product: refused(releases[recipe], product, recipe) for product in KINDS}
    # A bar's height is its class: no network can be better than the mean pictures are.
    assert found.pop("evaluation") == ["better than class_means"]
    assert not any(found.values()), found


def test_test_pictures_that_were_trained_on_are_refused(features: Path, tmp_path: Path) -> None:
    shutil.copytree(features / "events", tmp_path / "events")
    path = tmp_path / "events" / "pictures.parquet"
    table = pq.read_table(path).to_pandas()
    trained, tested = table.index[table.period == "train"], table.index[table.period == "gate"]
    table.loc[tested[:7], "image"] = table.loc[trained[:7], "image"].to_numpy()
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), path)
    assert refused(tmp_path, "events", RECIPES[0]) == ["later pictures that training holds too"]


def test_inverted_later_pictures_are_refused(features: Path, tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    found = Pictures.load(features / "features")
    images = found.images.copy()
    images[found.rows(Period.GATE)] = 255 - images[found.rows(Period.GATE)]
    replace(found, images=images).save(tmp_path / "features")
    assert refused(tmp_path, "features", RECIPES[0]) == ["mean grey of gate against train"]


def test_a_weight_that_is_no_number_is_refused(releases: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(releases[RECIPES[0]] / "trained", tmp_path / "trained")
    path = tmp_path / "trained" / "model.safetensors"
    tensors = load_file(path)
    tensors["head.bias"] = np.full_like(tensors["head.bias"], np.nan)
    path.write_bytes(save(tensors))
    assert refused(tmp_path, "trained", RECIPES[0]) == ["weights of model"]


def test_a_candidate_worse_than_the_champion_is_refused_with_the_class_that_loses(
    releases: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(releases[RECIPES[0]] / "evaluation", tmp_path / "evaluation")
    path = tmp_path / "evaluation" / "rows.parquet"
    table = pq.read_table(path).to_pandas()
    table["right_champion"] = 1.0
    table["right_candidate"] = (table["class"] != "Bag").astype(float)
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), path)
    assert refused(tmp_path, "evaluation", RECIPES[0], champion=CHAMPION) == [
        "better than class_means",
        "not worse than the champion",
        "Bag not proven worse",
    ]
