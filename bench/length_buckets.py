"""CPU seconds of training with windows batched by length, beside the same fit with every window padded to the whole.

Peer in the same run: the same recipe, seed and number of examples with `length_buckets` 1. The two take turns, a fit of some epochs
each. Seconds are of the process, since other work on the machine would count otherwise, and of the batches only, without what is
ranked between epochs. NDCG@10 is on the item before the last, after each epoch.
usage: HEADRACE_DATA=folder python -m bench.length_buckets [--data beauty] [--recipe short_transformer] [--buckets 4]
       [--epochs 3] [--rounds 1] [--set NAME=VALUE ..]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from bench.published_split import FILES, SELECT, beauty, movie_lens, with_settings
from tasks.models.interactions import Interactions
from tasks.models.sequence_model import SequenceModel
from tasks.training.fit import Fit
from tasks.training.make_model import fit_settings, untrained_network
from tasks.training.recipes import Recipe, recipe_named

SEED = 1


@dataclass(kw_only=True)
class Clock:
    """Adds up the process's time from the start of each epoch to the end of its last batch."""

    seconds: float = 0.0
    since: float = field(default_factory=time.process_time)

    def hear(self, sentence: str, _share: float | None) -> None:
        """Take what a fit says after every batch and every epoch."""
        now = time.process_time()
        if ", batch " in sentence:
            self.seconds += now - self.since
        self.since = now


def told(fit: Fit) -> str:
    """Return how many windows there are and how long they are."""
    needed = fit.windows.steps_ago.max(axis=1)
    quarters = np.percentile(needed, (25, 50, 75)).astype(int).tolist()
    return (
        f"{len(needed)} windows of {fit.model.steps} steps, of which quartiles {quarters} are there"
    )


def fitted(recipe: Recipe, interactions: Interactions) -> tuple[Fit, float]:
    """Train by the recipe; return the fit and the seconds of its batches."""
    model = untrained_network(recipe, interactions.num_items, SEED).model
    assert isinstance(model, SequenceModel)
    how = fit_settings(recipe, SEED)
    fit = Fit(model, interactions, interactions.examples(SELECT), how, device=torch.device("cpu"))
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        fit.run(Path(folder), clock.hear)
    return fit, clock.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=sorted(FILES), default="beauty")
    parser.add_argument("--recipe", default="short_transformer")
    parser.add_argument("--buckets", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    folder = os.environ.get("HEADRACE_DATA")
    if not folder or not (Path(folder) / FILES[options.data]).is_file():
        parser.error(f"HEADRACE_DATA: expected a folder with {FILES[options.data]}, found {folder}")
    interactions = {"ml-1m": movie_lens, "beauty": beauty}[options.data](Path(folder))
    epochs = [f"max_epochs={options.epochs}", f"patience={options.epochs}"]
    recipe = with_settings(recipe_named(options.recipe, baskets=False), [*options.set, *epochs])
    torch.set_num_threads(recipe.threads)
    seconds: dict[int, list[float]] = {1: [], options.buckets: []}
    for turn in range(options.rounds):
        for count, of_count in seconds.items():
            fit, spent = fitted(with_settings(recipe, [f"length_buckets={count}"]), interactions)
            of_count.append(spent)
            curve = ", ".join(f"{point.select_ndcg10:.4f}" for point in fit.curve)
            if not turn and count == 1:
                print(f"{options.recipe} on {options.data}: {told(fit)}")
            print(f"length_buckets {count}: {spent:.1f} s; NDCG@10 {curve}", flush=True)
    ratios = [
        padded / short for padded, short in zip(seconds[1], seconds[options.buckets], strict=True)
    ]
    print(
        f"{options.buckets} lengths are {statistics.median(ratios):.2f} times as fast as one "
        f"({', '.join(f'{ratio:.2f}' for ratio in ratios)}), {recipe.threads} thread, load average "
        f"{os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
