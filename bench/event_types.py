"""A Transformer with and without event types on Taobao's sample: what types are worth, and how the next one is foretold.

Both recipes are trained on the same windows with the same seed and judged on the same select examples, which also stop the
training; gate and canary periods are not read. Peers in the same run: the Markov chain over the last two types and their shares,
both counted on the train period. `without types` is the same trained network asked as a client asks that does not know them.
usage: HEADRACE_DATA=folder python -m bench.event_types [--seed 1] [--recipes transformer typed_transformer]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import torch

from tasks.contracts.artifacts import Manifest
from tasks.contracts.catalogues import DATASETS
from tasks.contracts.columns import EVENT_TYPES, Period
from tasks.contracts.requests import ReleaseRequest, plan_named
from tasks.contracts.stage_io import StageContext, StageInput
from tasks.models.event_types import TYPES, next_types
from tasks.models.interactions import Interactions
from tasks.stages import build_features, ingest_events, train_model

DATASET = "taobao"


def context(folder: Path, inputs: dict[str, Path], recipe: str, seed: int) -> StageContext:
    """Return what a stage needs, without a store and without gates."""
    release = ReleaseRequest(
        release_id="bench",
        model=DATASETS[DATASET].default_model,
        dataset=DATASET,
        as_of=str(DATASETS[DATASET].as_of),
        recipe=recipe,
        compression="none",
        plan=plan_named("replay"),
        seed=seed,
    )
    manifest = cast("Manifest", None)  # stages read the payload; the runner checks manifests
    out, work = folder / "out", folder / "work"
    out.mkdir(parents=True)
    work.mkdir()
    return StageContext(
        inputs={
            name: StageInput(address=name, manifest=manifest, path=path)
            for name, path in inputs.items()
        },
        out=out,
        work=work,
        progress=lambda _sentence, _share: None,
        store_url="file:///nowhere",
        release=release,
    )


def features_in(folder: Path) -> Path:
    """Return the folder of the features of the sample."""
    events = context(folder / "events", {}, "popularity", 1)
    ingest_events.run(events)
    features = context(folder / "features", {"events": events.out}, "popularity", 1)
    build_features.run(features)
    return features.out


def trained(folder: Path, features: Path, recipe: str, seed: int) -> dict[str, Any]:
    """Return the report of a trained recipe, with its epochs and seconds."""
    one = context(folder, {"features": features}, recipe, seed)
    started = time.monotonic()
    train_model.run(one)
    report: dict[str, Any] = json.loads((one.out / "report.json").read_text("utf-8"))
    curve = json.loads((one.out / "curve.json").read_text("utf-8"))
    return report | {"epochs": len(curve["epochs"]), "seconds": time.monotonic() - started}


def main() -> None:
    """Print what was measured."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--recipes", nargs="+", default=["transformer", "typed_transformer"])
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        features = features_in(Path(scratch))
        known = Interactions.load(features / "interactions.npz")
        examples = known.examples(Period.SELECT)
        counts = torch.bincount(
            torch.from_numpy(next_types(known, examples).place), minlength=TYPES
        )
        print(f"{known.num_users} users, {known.num_items} items, {len(examples)} select examples")
        print(f"types of their events on known items {EVENT_TYPES}: {counts.tolist()}")
        for recipe in asked.recipes:
            report = trained(Path(scratch) / recipe, features, recipe, asked.seed)
            print(f"\n{recipe}: {report['epochs']} epochs, {report['seconds']:.0f} s")
            print(f"  select NDCG@10: {report['select_ndcg10']}")
            if "next_type" in report:
                print(f"  without types: {report['select_ndcg10_without_types']}")
                for name, scores in report["next_type"].items():
                    print(f"  next type, {name}: {scores}")


if __name__ == "__main__":
    main()
