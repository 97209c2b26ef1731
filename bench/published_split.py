"""NDCG@10 and HR@10 of a recipe on MovieLens-1M by the split of the papers, all items ranked.

Each user's last item is the test, the one before it chooses the epoch, everything else is trained on
(no rating is left out; what a user has seen is not ranked). Peer in the same run: the windowed Markov
chain, fitted on everything but the last item. Nothing is chosen on the test. What is counted or solved
for (popularity, Markov chains, EASE, item-kNN) has no epoch to choose and is fitted like the peer; with
`--select` it is fitted without the item before the last and measured there, which is how its settings are chosen.
usage: HEADRACE_DATA=folder python -m bench.published_split [--recipe wide_transformer] [--seed 1] [--select]
"""

from __future__ import annotations

import argparse
import gzip
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tasks.models.interactions import EventRows, Interactions
from tasks.models.sequence_model import SequenceModel
from tasks.training.device import device_name, training_device
from tasks.training.fit import Fit
from tasks.training.make_model import COUNTED, fit_settings, make_counted, untrained_network
from tasks.training.metrics import Ranking, evaluate
from tasks.training.recipes import Recipe, recipe_named

TRAIN, SELECT, TEST = 0, 1, 3
SAID_SECONDS = 5.0
MARKOV_NEIGHBOURS = 256  # of the published chain
WHOLE_HISTORY = 600  # items; nobody but a few has more


def movie_lens(folder: Path) -> Interactions:
    """Return ml-1m.txt.gz, one `user item` a line in order, split as papers do."""
    with gzip.open(folder / "ml-1m" / "ml-1m.txt.gz") as lines:
        rows = np.loadtxt(lines, dtype=np.int64)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    users, user = np.unique(rows[:, 0], return_inverse=True)
    items, item = np.unique(rows[:, 1], return_inverse=True)
    place = np.arange(len(user)) - np.searchsorted(user, user)
    left = np.bincount(user)[user] - place
    return Interactions.from_rows(
        EventRows(
            item_ids=np.asarray([f"{name:05d}" for name in items]),
            user_ids=np.asarray([f"{name:05d}" for name in users]),
            user=user,
            item=item + 1,
            basket=place,
            event_type=np.full(len(user), 3),
            time=place * 60,
            period=np.select([left == 1, left == 2], [TEST, SELECT], TRAIN),
            repeats_allowed=False,
            baskets=False,
            order_only=False,
        )
    )


def with_select(interactions: Interactions) -> Interactions:
    """Return the same with the choosing items trained on as well."""
    period = np.where(interactions.period == SELECT, TRAIN, interactions.period)
    steps = np.where(interactions.step_period == SELECT, TRAIN, interactions.step_period)
    return replace(
        interactions,
        period=period.astype(interactions.period.dtype),
        step_period=steps.astype(interactions.step_period.dtype),
    )


def published_markov() -> Recipe:
    recipe = recipe_named("markov", baskets=False)
    settings = replace(recipe.markov, neighbours=MARKOV_NEIGHBOURS, last_items=WHOLE_HISTORY)
    return replace(recipe, markov=settings)


def told(name: str, ranking: Ranking, seconds: float) -> str:
    values = ranking.ndcg_by_user()
    half = 1.96 * values.std() / np.sqrt(len(values))
    return (
        f"{name:20} NDCG@10 {ranking.mean_ndcg:.4f} ± {half:.4f}  HR@10 {ranking.hit.mean():.4f}"
        f"  {seconds:.0f} s"
    )


def counted(recipe: Recipe, interactions: Interactions, period: int) -> Ranking:
    """Return the metrics on `period` of a model fitted on all items before it."""
    known = with_select(interactions) if period == TEST else interactions
    made = make_counted(recipe.architecture, known, recipe)
    return evaluate(made.model, interactions, interactions.examples(period), WHOLE_HISTORY)


def trained(recipe: Recipe, interactions: Interactions, seed: int) -> tuple[nn.Module, str]:
    """Return the network of the chosen epoch, and how it was chosen in words."""
    device = training_device()
    torch.use_deterministic_algorithms(True)
    model = untrained_network(recipe, interactions.num_items, seed).model
    assert isinstance(model, SequenceModel)
    how = fit_settings(recipe, seed)
    fit = Fit(model, interactions, interactions.examples(SELECT), how, device=device)
    said_at = time.monotonic()

    def say(sentence: str, fraction: float | None) -> None:
        nonlocal said_at
        if time.monotonic() - said_at > SAID_SECONDS:
            said_at = time.monotonic()
            print(f"{fraction or 0.0:4.0%} {sentence}", flush=True)

    with tempfile.TemporaryDirectory() as checkpoints:
        curve = fit.run(Path(checkpoints), say)
    best = max(range(len(curve)), key=lambda place: curve[place].select_ndcg10)
    return model, (
        f"{device_name(device)}, seed {seed}; epoch {best + 1} of {len(curve)} chosen by "
        f"NDCG@10 {curve[best].select_ndcg10:.4f} on the item before the last; "
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="wide_transformer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--select", action="store_true")
    options = parser.parse_args()
    folder = os.environ.get("HEADRACE_DATA")
    if not folder:
        parser.error("HEADRACE_DATA: expected a folder with ml-1m/ml-1m.txt.gz, found nothing")
    recipe = recipe_named(options.recipe, baskets=False)
    if options.select and recipe.architecture not in COUNTED:
        parser.error(f"--select: expected a recipe of {sorted(COUNTED)}, found {options.recipe}")
    interactions = movie_lens(Path(folder))
    period = SELECT if options.select else TEST
    start = time.monotonic()
    peer = counted(published_markov(), interactions, period)
    print(told("windowed Markov", peer, time.monotonic() - start), flush=True)

    start, chosen = time.monotonic(), ""
    if recipe.architecture in COUNTED:
        ranking = counted(recipe, interactions, period)
    else:
        model, chosen = trained(recipe, interactions, options.seed)
        ranking = evaluate(model, interactions, interactions.examples(TEST), recipe.max_length)
    print(told(options.recipe, ranking, time.monotonic() - start))
    print(
        f"{chosen}{ranking.mean_ndcg / peer.mean_ndcg:.3f} of windowed Markov; "
        f"{len(ranking.user)} users; {'the item before the last' if options.select else 'the last item'}"
    )


if __name__ == "__main__":
    main()
