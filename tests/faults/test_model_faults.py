"""Faults in features, training, compression and bundling: stopped before any user meets them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tasks.contracts.stages import ArtifactKind, Stage
from tests.faults.after import Scene, Tally, nothing_runs_after, stopped_as_said
from tests.faults.fault_table import Fault, faults_of
from tests.faults.line import Hop, Release
from tests.faults.plants import (
    TailLoss,
    disturb_weights,
    flip_a_byte,
    periods_relabelled,
    sequences_shuffled,
    swap_signatures,
)
from tests.faults.shop import Shop

KIND = ArtifactKind
MARGIN = 0.005  # of the plan: what a candidate may lose in NDCG@10


def _of_features(release: Release, fault: str, change: Callable[[Path], None]) -> Hop | None:
    assert release.go_until(Stage.BUILD_FEATURES) is None
    release.plant(KIND.FEATURE_SET, fault, change)
    return release.gate(KIND.FEATURE_SET)


def relabelled(release: Release) -> Hop | None:
    return _of_features(release, "relabelled", periods_relabelled)


def shuffled(release: Release) -> Hop | None:
    return _of_features(release, "shuffled", sequences_shuffled)


def trained_on_shuffled(release: Release) -> Hop | None:
    assert release.go_until(Stage.BUILD_FEATURES) is None
    release.plant_made(Stage.TRAIN_MODEL, "shuffled", {"features": sequences_shuffled})
    return release.gate(KIND.TRAINED_MODEL) or release.go_until(Stage.EVALUATE_MODEL)


def worse_on_tail(release: Release) -> Hop | None:
    """Plant it in fp32, beside a champion in fp32: rounding would move what little is lost."""
    line = release.line
    champion = line.again(release, "tail-champion", compression="none")
    assert champion.go_until(Stage.BUNDLE_MODEL) is None
    release.address = line.against(
        line.again(release, "tail-candidate", compression="none"), champion
    ).address
    assert release.go_until(Stage.TRAIN_MODEL) is None
    sound = TailLoss(release.path(KIND.FEATURE_SET), release.path(KIND.TRAINED_MODEL))
    release.plant(KIND.TRAINED_MODEL, "tail", lambda folder: sound.write(folder, 2 * MARGIN))
    return release.gate(KIND.TRAINED_MODEL) or release.go_until(Stage.EVALUATE_MODEL)


def weights_disturbed(release: Release) -> Hop | None:
    assert release.go_until(Stage.COMPRESS_MODEL) is None
    weights = "model/weights.safetensors"
    release.plant(
        KIND.COMPRESSED_MODEL, "disturbed", lambda folder: disturb_weights(folder / weights, 0.5)
    )
    return release.gate(KIND.COMPRESSED_MODEL) or release.go_until(Stage.BUNDLE_MODEL)


def bytes_changed(release: Release) -> Hop | None:
    assert release.go_until(Stage.BUNDLE_MODEL) is None
    release.plant(KIND.SERVING_BUNDLE, "bytes", lambda _folder: None)  # a copy that may be spoilt
    assert release.gate(KIND.SERVING_BUNDLE) is None
    (data,) = (release.path(KIND.SERVING_BUNDLE) / "model/variables").glob("*.data*")
    flip_a_byte(data)
    return release.pass_through(Stage.EVALUATE_MODEL)


def signature_swapped(release: Release) -> Hop | None:
    assert release.go_until(Stage.BUNDLE_MODEL) is None
    release.plant(
        KIND.SERVING_BUNDLE, "signature", lambda folder: swap_signatures(folder / "model")
    )
    return release.gate(KIND.SERVING_BUNDLE)


PLANTS: Mapping[str, Callable[[Release], Hop | None]] = MappingProxyType(
    {
        "periods_relabelled": relabelled,
        "features_shuffled": shuffled,
        "trained_on_shuffled": trained_on_shuffled,
        "worse_on_tail": worse_on_tail,
        "weights_disturbed": weights_disturbed,
        "bytes_changed": bytes_changed,
        "signature_swapped": signature_swapped,
    }
)


@pytest.mark.parametrize("fault", faults_of("model"), ids=lambda fault: fault.planted)
def test_it_is_stopped_where_the_table_says_and_users_keep_the_old_model(
    fault: Fault, scene: Scene, shop: Shop, tally: Tally
) -> None:
    began = time.monotonic()
    release = scene.line.request(fault.key, shop, "markov")
    stop = stopped_as_said(fault, PLANTS[fault.key](release))
    nothing_runs_after(stop, release)
    scene.users_keep_the_old_model()
    tally.note(fault, f"exit {int(stop.code)} after {time.monotonic() - began:.1f} s")
    if fault.key == "worse_on_tail":
        _only_tail_users_lose(release, tally, fault)


def _only_tail_users_lose(release: Release, tally: Tally, fault: Fault) -> None:
    rows: pd.DataFrame = pq.read_table(release.path(KIND.EVALUATION) / "rows.parquet").to_pandas()
    lost = (rows["ndcg_candidate"] - rows["ndcg_champion"]).groupby(rows["slice"]).mean()
    assert -2.1 * MARGIN < lost["tail"] <= -2 * MARGIN
    assert lost.drop("tail").min() > -MARGIN
    users = json.dumps(rows["slice"].value_counts().to_dict())
    tally.note(fault, f"difference {lost['tail']:+.4f} on tail; users {users}")


def test_every_model_fault_of_the_table_has_its_plant() -> None:
    assert [fault.key for fault in faults_of("model")] == list(PLANTS)
