"""A classifier of Fashion-MNIST by a recipe: accuracy on the set's own test pictures, asked once, at the end.

Files are found as a release finds them ($HEADRACE_DATA, or Debian's dataset-fashion-mnist); every choice is
made on the select period, which is part of the training pictures: `--select` asks no test, `--set` changes settings
of the fit, `widths` or `blocks`. A killed run goes on from FOLDER; that of another seed, other settings or other
pictures is refused.
usage: python -m bench.pictures RECIPE FOLDER [--seed 1] [--select] [--set NAME=VALUE ..]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bench.changed_settings import changed
from tasks.contracts.columns import Period
from tasks.events.pictures import land_pictures, plan_pictures
from tasks.features.pictures import build_pictures
from tasks.models.pictures import Pictures
from tasks.statistics.bootstrap import mean_interval
from tasks.training.device import demand_determinism, device_name, training_device
from tasks.training.keras_fit import keras_logits
from tasks.training.make_classifier import (
    Classifier,
    make_baselines,
    make_classifier,
    parameters_of,
)
from tasks.training.picture_fit import predicted
from tasks.training.picture_recipes import PictureRecipe, picture_recipe_named


def fashion_mnist() -> Pictures:
    plan = plan_pictures("fashion-mnist", os.environ)
    with tempfile.TemporaryDirectory() as scratch:
        land_pictures(plan, [Path(source.url) for source in plan.sources], Path(scratch))
        return build_pictures(Path(scratch))


def accuracy(made: Classifier, pictures: Pictures, period: Period) -> str:
    rows = pictures.rows(period)
    shown = pictures.shown(rows)
    if made.is_keras:
        found = keras_logits(made.model, shown).argmax(axis=1)
    else:
        found = predicted(made.model, shown)
    right = mean_interval((found == pictures.labels[rows]).astype(np.float64))
    return f"{right.mean:.4f} ({right.lower:.4f} to {right.upper:.4f}) on {len(rows)} pictures"


def with_settings(recipe: PictureRecipe, changes: Sequence[str]) -> PictureRecipe:
    """Return the recipe with settings of its fit changed, or its `widths` and `blocks`."""
    own = [change for change in changes if change.startswith(("widths=", "blocks="))]
    recipe = changed(recipe, own)
    recipe = replace(recipe, widths=tuple(recipe.widths), blocks=tuple(recipe.blocks))
    others = [change for change in changes if change not in own]
    fit = "fit" if recipe.fit else "keras"
    return replace(recipe, **{fit: changed(getattr(recipe, fit), others)}) if others else recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--select", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    recipe = with_settings(picture_recipe_named(options.recipe), options.set)
    torch.set_num_threads(recipe.threads)
    demand_determinism()
    pictures = fashion_mnist()
    began, used = time.monotonic(), time.process_time()

    def say(sentence: str, share: float | None) -> None:
        if share is None or ", batch" not in sentence:
            print(f"{time.monotonic() - began:6.0f} s {sentence}", flush=True)

    baselines = make_baselines(pictures)
    made = make_classifier(
        pictures,
        recipe,
        baselines,
        seed=options.seed,
        checkpoints=options.folder / "checkpoints",
        progress=say,
    )
    seconds, cpu = time.monotonic() - began, time.process_time() - used
    print(f"{recipe.name}, seed {options.seed}: {parameters_of(made)} parameters")
    print(f"  {seconds:.0f} s, {cpu:.0f} s of CPU, on {device_name(training_device())}")
    print(f"  resumed from: {made.resumed_from or 'nothing'}")
    print(f"  select {accuracy(made, pictures, Period.SELECT)}")
    for name, one in {} if options.select else {recipe.name: made, **baselines}.items():
        print(f"  test   {accuracy(one, pictures, Period.GATE)}  {name}")


if __name__ == "__main__":
    main()
