"""A Transformer with and without event types, on Taobao's sample or a made-up shop: what types are worth, how the next is foretold.

Both recipes are trained on the same windows with the same seed and judged on the same select examples, which also stop the
training; gate and canary periods are not read. Peers in the same run: the Markov chain over the last two types and their shares,
both counted on the train period. `without types` is the same trained network asked as a client asks that does not know them.
In the made-up shop (`--made-up FOLDER`, its files are kept there for `headrace release --dataset events`) which item follows depends on
the item and on what was done with it, but for one event in ten, and the type on the type before: a network that uses types must gain.
usage: HEADRACE_DATA=folder python -m bench.event_types [--made-up FOLDER [--users 500]] [--seed 1] [--recipes transformer typed_transformer]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from tasks.contracts.artifacts import Manifest
from tasks.contracts.catalogues import DATASETS
from tasks.contracts.columns import EVENT_TYPES, Period
from tasks.contracts.requests import ReleaseRequest, plan_named
from tasks.contracts.stage_io import StageContext, StageInput
from tasks.models.event_types import TYPES, next_types
from tasks.models.interactions import Interactions
from tasks.stages import build_features, ingest_events, train_model

EVENTS, ITEMS = "events.parquet", "items.csv"
SHOP_ITEMS, SHELF, USER_EVENTS, SHOP_DAYS = 150, 15, 70, 60
NEXT_TYPE = {  # of the made-up shop: what is done next, and how often
    "view": (("view", "cart", "favourite"), (0.4, 0.4, 0.2)),
    "favourite": (("view", "cart"), (0.8, 0.2)),
    "cart": (("purchase", "view"), (0.7, 0.3)),
    "purchase": (("view", "favourite"), (0.9, 0.1)),
}


def make_up(folder: Path, users: int) -> None:
    """Write events and items of a shop where types matter."""
    draw = np.random.default_rng(7)
    shelves = np.arange(SHOP_ITEMS).reshape(-1, SHELF)
    follows = {kind: draw.permuted(shelves, axis=1).ravel() for kind in NEXT_TYPE}
    follows["cart"] = np.arange(SHOP_ITEMS)  # what is in the cart is looked at again, or bought
    rows = []
    for user in range(users):
        item, kind, hours = int(draw.integers(SHOP_ITEMS)), "view", float(draw.uniform(0, 24))
        for _ in range(USER_EVENTS):
            if hours < SHOP_DAYS * 24:
                rows.append((f"user-{user}", f"item-{item}", kind, hours))
            stray = draw.random() < 0.1
            item = int(draw.integers(SHOP_ITEMS)) if stray else int(follows[kind][item])
            kinds, chances = NEXT_TYPE[kind]
            kind = str(draw.choice(kinds, p=chances))
            hours += float(draw.exponential(24)) + 0.01
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "event_type", "hours"])
    frame["timestamp"] = pd.Timestamp("2026-05-01", tz="UTC") + pd.to_timedelta(frame.hours, "h")
    frame["timestamp"] = frame.timestamp.dt.floor("s").astype("datetime64[us, UTC]")
    folder.mkdir(parents=True, exist_ok=True)
    frame.drop(columns="hours").to_parquet(folder / EVENTS)
    titles = [
        (f"item-{place}", f"Thing {place}", f"shelf {place // SHELF}")
        for place in range(SHOP_ITEMS)
    ]
    pd.DataFrame(titles, columns=["item_id", "title", "category"]).to_csv(
        folder / ITEMS, index=False
    )


def request(recipe: str, seed: int, shop: Path | None) -> ReleaseRequest:
    """Return a release of the sample, or of the made-up shop."""
    dataset = "taobao" if shop is None else "events"
    urls: dict[str, Any] = {} if shop is None else {
        "events_url": f"file://{shop / EVENTS}", "catalogue_url": f"file://{shop / ITEMS}",
    }  # fmt: skip
    return ReleaseRequest(
        release_id="bench",
        model=DATASETS[dataset].default_model,
        dataset=dataset,
        as_of=DATASETS[dataset].as_of or "2026-07-01T00:00:00Z",
        recipe=recipe,
        compression="none",
        plan=plan_named("replay"),
        seed=seed,
        **urls,
    )


def context(folder: Path, inputs: dict[str, Path], release: ReleaseRequest) -> StageContext:
    """Return what a stage needs, without a store and without gates."""
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


def features_in(folder: Path, release: ReleaseRequest) -> Path:
    """Return the folder of the features."""
    events = context(folder / "events", {}, release)
    ingest_events.run(events)
    features = context(folder / "features", {"events": events.out}, release)
    build_features.run(features)
    return features.out


def trained(folder: Path, features: Path, release: ReleaseRequest) -> dict[str, Any]:
    """Return the report of a trained recipe, with its epochs and seconds."""
    one = context(folder, {"features": features}, release)
    started = time.monotonic()
    train_model.run(one)
    report: dict[str, Any] = json.loads((one.out / "report.json").read_text("utf-8"))
    curve = json.loads((one.out / "curve.json").read_text("utf-8"))
    return report | {"epochs": len(curve["epochs"]), "seconds": time.monotonic() - started}


def main() -> None:
    """Print what was measured."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--recipes", nargs="*", default=["transformer", "typed_transformer"])
    options.add_argument("--made-up", type=Path)
    options.add_argument("--users", type=int, default=500, help="of the made-up shop")
    asked = options.parse_args()
    shop: Path | None = asked.made_up
    if shop is not None:
        shop = shop.resolve()
        make_up(shop, asked.users)
    with tempfile.TemporaryDirectory() as scratch:
        features = features_in(Path(scratch), request("popularity", asked.seed, shop))
        known = Interactions.load(features / "interactions.npz")
        examples = known.examples(Period.SELECT)
        counts = np.bincount(next_types(known, examples).place, minlength=TYPES)
        print(f"{known.num_users} users, {known.num_items} items, {len(examples)} select examples")
        print(f"types of their events on known items {EVENT_TYPES}: {counts.tolist()}")
        for recipe in asked.recipes:
            report = trained(Path(scratch) / recipe, features, request(recipe, asked.seed, shop))
            print(f"\n{recipe}: {report['epochs']} epochs, {report['seconds']:.0f} s")
            print(f"  select NDCG@10: {report['select_ndcg10']}")
            if "next_type" in report:
                print(f"  without types: {report['select_ndcg10_without_types']}")
                for name, scores in report["next_type"].items():
                    print(f"  next type, {name}: {scores}")


if __name__ == "__main__":
    main()
