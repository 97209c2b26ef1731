"""Run one stage of a small release in a process of its own: `small_release.py STAGE FOLDER`.

The stage reads its inputs from FOLDER/<input> and writes FOLDER/<its product>. `make` writes a
feature set of 60 users with habits and a trained blend without training.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.adapters.artifact_store import payload_entries
from tasks.contracts.artifacts import Manifest, artifact_key, content_digest
from tasks.contracts.requests import ReleaseRequest, plan_named
from tasks.contracts.stage_io import StageContext, StageInput
from tasks.contracts.stages import Stage
from tasks.models.interactions import EventRows, Interactions
from tasks.models.profile_definition import (
    Attribute,
    ProfileDefinition,
    next_types_by_last_two,
    shares_in_train,
)

ITEMS, USERS, STEPS = 150, 60, 14
PERIOD_OF_STEP = [0] * 9 + [1] * 2 + [2] * 2 + [3]


def interactions(*, typed: bool = False) -> Interactions:
    """Return users who take two of their own five habits each step, and a stray item.

    All are purchases, or, typed, of a type that follows from step and item.
    """
    generator = np.random.default_rng(4)
    rows = []
    for user in range(USERS):
        habits = generator.integers(1, ITEMS + 1, 5)
        for step in range(STEPS):
            chosen = {*generator.choice(habits, 2).tolist(), int(generator.integers(0, ITEMS + 1))}
            rows += [(user, item, step) for item in sorted(chosen)]
    users, items, steps = np.asarray(rows).T
    return Interactions.from_rows(
        EventRows(
            item_ids=np.asarray([f"item-{place}" for place in range(1, ITEMS + 1)]),
            user_ids=np.asarray([f"user-{place}" for place in range(USERS)]),
            user=users,
            item=items,
            basket=steps,
            event_type=(steps + items) % 4 if typed else np.full(len(users), 3),
            time=steps * 86400,
            period=np.asarray(PERIOD_OF_STEP)[steps],
            repeats_allowed=True,
            baskets=True,
            order_only=False,
        )
    )


def profile_definition(known: Interactions) -> ProfileDefinition:
    """Return categories of twenty items each, the last ten without, and two price bands."""
    place = np.arange(ITEMS + 1)
    labelled = {
        "category": (
            [f"aisle {n}" for n in range(7)],
            np.where(place > 140, 0, (place + 19) // 20),
        ),
        "price": (["up to 2", "above 2"], np.where(place == 0, 0, 1 + place % 2)),
    }
    return ProfileDefinition(
        attributes={
            name: Attribute(
                labels=tuple(labels),
                codes=codes.astype(np.int16),
                shares=shares_in_train(known, codes.astype(np.int16), len(labels)),
            )
            for name, (labels, codes) in labelled.items()
        },
        next_types=next_types_by_last_two(known),
        price_bounds=np.asarray([2.0]),
        prior_events=5.0,
        timed=True,
    )


def make(folder: Path, *, typed: bool = False) -> None:
    """Write the feature set and the trained model, which reads the types of events if `typed`."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from tasks.models.profile_definition import PROFILE_DEFINITION_FILE
    from tasks.models.registry import build_model, save_model
    from tasks.training.baselines import (
        fit_markov,
        fit_personal_frequency,
        fit_popularity,
    )
    from tasks.training.recipes import MarkovSettings

    known = interactions(typed=typed)
    features, trained = folder / "features", folder / "trained"
    features.mkdir(parents=True)
    known.save(features / "interactions.npz")
    table = {"item_index": list(range(1, ITEMS + 1)), "item_id": known.item_ids.tolist()}
    pq.write_table(pa.table(table), features / "items.parquet")
    profile_definition(known).save(features / PROFILE_DEFINITION_FILE)
    fitted: dict[str, tuple[Any, Any]] = {
        "popularity": fit_popularity(known),
        "personal_frequency": fit_personal_frequency(known, 0.97),
        "markov": fit_markov(known, MarkovSettings(neighbours=16, last_items=20)),
    }
    for name, (model, arguments) in fitted.items():
        save_model(model, name, arguments, trained / "baselines", name)
    torch.manual_seed(0)
    arguments = {
        "num_items": ITEMS,
        "steps": 10,
        "width": 32,
        "layers": 2,
        "heads": 2,
        "dropout": 0.0,
        **({"event_types": True} if typed else {}),
    }
    network = build_model("transformer", arguments)
    for name, tensor in network.state_dict().items():
        if name.startswith("typed"):  # large enough for types to be seen in every answer
            tensor.copy_(torch.randn(tensor.shape))
    save_model(network, "transformer", arguments, trained)
    report = {
        "format": "training_report/1",
        "max_length": 24,
        "exclude_seen": False,
        "baselines_left_out": {"ease": "not fitted here"},
    }
    (trained / "report.json").write_text(json.dumps(report))


def stage_input(path: Path) -> StageInput:
    """Return a folder as an input with a true content digest."""
    files = payload_entries(path)
    content, stage = content_digest(files), Stage.BUILD_FEATURES
    manifest = Manifest(
        kind=importlib.import_module("tasks.contracts.stages").ArtifactKind.FEATURE_SET,
        key=artifact_key(stage, {}, {"content": content}, "code"),
        stage=stage,
        inputs={},
        config={"content": content},
        code="code",
        files=files,
        content=content,
    )
    return StageInput(address=str(manifest.address), manifest=manifest, path=path)


def run(stage: str, folder: Path, product: str, **inputs: str) -> None:
    """Run one stage module on folders."""
    module = importlib.import_module(f"tasks.stages.{stage}")
    (folder / product).mkdir()
    (folder / "work").mkdir(exist_ok=True)
    context = StageContext(
        inputs={name: stage_input(folder / place) for name, place in inputs.items()},
        out=folder / product,
        work=folder / "work",
        progress=lambda _sentence, _share: None,
        store_url="file:///nowhere",
        release=ReleaseRequest(
            release_id="small",
            model="small",
            dataset="complete-journey",
            as_of="2018-01-02T00:00:00Z",
            recipe="transformer",
            compression="int8",
            plan=plan_named("replay"),
        ),
    )
    module.configure(context)
    print(module.run(context).sentence)


def main(stage: str, folder: Path) -> None:
    """Run `stage`; the TensorFlow stages must end without torch in the process."""
    if stage == "make":
        make(folder)
    elif stage == "compress":
        run("compress_model", folder, "compressed", model="trained", features="features")
        assert "tensorflow" not in sys.modules
    elif stage == "bundle":
        run("bundle_model", folder, "bundle", model="compressed")
    elif stage == "evaluate":
        run("evaluate_model", folder, "evaluation", bundle="bundle", features="features")
    elif stage == "evaluate-champion":
        names = {"bundle": "bundle", "features": "features", "champion": "bundle"}
        run("evaluate_model", folder, "against", **names)
    elif stage == "evaluate-order-only":
        (folder / "ordered").mkdir()
        without_time = replace(interactions(typed=True), order_only=True)
        without_time.save(folder / "ordered" / "interactions.npz")
        run("evaluate_model", folder, "order-only", bundle="bundle", features="ordered")
    if stage not in {"make", "compress"}:
        assert "torch" not in sys.modules, "torch was imported in a TensorFlow stage"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
