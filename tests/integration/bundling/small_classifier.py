"""Run stages of a small release of pictures, each in a process of its own: STAGE FOLDER RECIPE.

`make` writes MNIST-like files of bars; the stages read FOLDER/<input>, write FOLDER/<product>.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from tasks.contracts.requests import ReleaseRequest, plan_named
from tasks.contracts.stage_io import StageContext
from tests.integration.bundling.small_release import stage_input

SIDE, CLASSES = 28, 10
COMPRESSION = {"keras_two_convolutions": "none"}
INPUTS = {
    "ingest_events": ("events", {}),
    "build_features": ("features", {"events": "events"}),
    "train_model": ("trained", {"features": "features"}),
    "compress_model": ("compressed", {"model": "trained", "features": "features"}),
    "bundle_model": ("bundle", {"model": "compressed"}),
    "evaluate_model": ("evaluation", {"bundle": "bundle", "features": "features"}),
}


def idx(array: np.ndarray) -> bytes:
    head = bytes((0, 0, 8, array.ndim))
    return head + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def make(folder: Path) -> None:
    """Write pictures whose class is the height of a bright bar, under noise."""
    data = folder / "data" / "fashion-mnist"
    data.mkdir(parents=True)
    draw = np.random.default_rng(2)
    for name, each in (("train", 560), ("t10k", 40)):
        labels = np.tile(np.arange(CLASSES, dtype=np.uint8), each)
        images = draw.integers(0, 120, (len(labels), SIDE, SIDE)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            place = int(draw.integers(0, SIDE - 10))
            image[2 + 2 * int(label) : 4 + 2 * int(label), place : place + 10] = 230
        (data / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (data / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))


def shorten() -> None:
    """Train for two epochs of few pictures: the stages are tested here, not the models."""
    from tasks.training import picture_recipes

    whole = picture_recipes.residual_picture_net()
    fit = replace(whole.fit, epochs=3, batch=25, max_shift=0, ema_decay=0.8)
    short = replace(whole, widths=(8, 12, 16), fit=fit)
    keras = picture_recipes.keras_two_convolutions()
    keras = replace(keras, keras=replace(keras.keras, epochs=3, batch=32))
    recipes = dict(picture_recipes.PICTURE_RECIPES)
    recipes |= {short.name: lambda: short, keras.name: lambda: keras}
    picture_recipes.PICTURE_RECIPES = recipes


def run(stage: str, folder: Path, recipe: str) -> None:
    module = importlib.import_module(f"tasks.stages.{stage}")
    product, reads = INPUTS[stage]
    if stage == "train_model":
        shorten()
    (folder / product).mkdir()
    (folder / "work").mkdir(exist_ok=True)
    context = StageContext(
        inputs={name: stage_input(folder / place) for name, place in reads.items()},
        out=folder / product,
        work=folder / "work",
        progress=lambda _sentence, _share: None,
        store_url="file:///nowhere",
        release=ReleaseRequest(
            release_id="small",
            model="classifier",
            dataset="fashion-mnist",
            as_of="2026-01-01T00:00:00Z",
            recipe=recipe,
            compression=COMPRESSION.get(recipe, "int8"),
            plan=plan_named("replay"),
        ),
    )
    module.configure(context)
    print(module.run(context).sentence)


if __name__ == "__main__":
    where = Path(sys.argv[2])
    os.environ["HEADRACE_DATA"] = str(where / "data")
    if sys.argv[1] == "make":
        make(where)
    else:
        run(sys.argv[1], where, sys.argv[3])
    if sys.argv[1] in {"bundle_model", "evaluate_model"}:
        assert "torch" not in sys.modules, "torch was imported in a TensorFlow stage"
