"""NDCG@10 and HR@10 of a recipe on MovieLens-1M or Amazon Beauty by the split of the papers, all items ranked.

Each user's last item is the test, the one before it chooses the epoch and a blend's weights, everything else is
trained on (no rating is left out; what a user has seen is not ranked). Peer in the same run: the windowed Markov
chain, fitted on everything but the last item, and once more on what networks train on (everything but the last
two). A blend is measured both ways too: as chosen, and with its Markov part counted again with the item before
the last, network and weights untouched. Nothing is chosen on the test. What is counted or solved for (popularity, Markov chains, EASE, item-kNN)
has no epoch to choose and is fitted like the peer. With `--select` everything is measured on the item before the
last and nothing on the test, which is how settings are chosen; `--set` changes settings of the network. A killed
run goes on from FOLDER, and one that ended with `--select` can be asked for its test; FOLDER of another seed, other
settings or other data is refused.
usage: HEADRACE_DATA=folder python -m bench.published_split [--data beauty] [--recipe NAME] [--seed 1] [--select]
       [--set NAME=VALUE ..] [--checkpoints FOLDER]
"""

from __future__ import annotations

import argparse
import gzip
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.changed_settings import changed
from tasks.models.blend import PARTS, BlendedRecommender
from tasks.models.interactions import EventRows, Interactions
from tasks.models.item_neighbours import ItemNeighbours
from tasks.training.device import demand_determinism, device_name, training_device
from tasks.training.fit import train_shares
from tasks.training.make_model import COUNTED, Made, Workshop, make_counted, make_model
from tasks.training.metrics import Ranking, evaluate
from tasks.training.recipes import Recipe, recipe_named

TRAIN, SELECT, TEST = 0, 1, 3
SAID_SECONDS = 5.0
WITHOUT_SELECT = "on all but two"
MARKOV_NEIGHBOURS = 256  # of the published chain
WHOLE_HISTORY = {"ml-1m": 600, "beauty": 204}  # items; nobody but a few has more
MARKOV_HISTORY = {"ml-1m": 600, "beauty": 50}  # items; the decay leaves 2e-5 of what is older
FILES = {"ml-1m": "ml-1m/ml-1m.txt.gz", "beauty": "amazon-2014-5core/Beauty.txt.gz"}


def movie_lens(folder: Path) -> Interactions:
    """Return ml-1m.txt.gz, one `user item` a line in order, split as papers do."""
    with gzip.open(folder / FILES["ml-1m"]) as lines:
        rows = np.loadtxt(lines, dtype=np.int64)
    return split(rows[np.argsort(rows[:, 0], kind="stable")])


def beauty(folder: Path) -> Interactions:
    """Return Beauty.txt.gz, one `user item item ..` a line in order, split as papers do."""
    with gzip.open(folder / FILES["beauty"], "rt") as lines:
        histories = [np.array(line.split(), dtype=np.int64) for line in lines]
    pairs = [
        np.column_stack([np.full(len(row) - 1, row[0]), row[1:]])
        for row in sorted(histories, key=lambda row: int(row[0]))
    ]
    return split(np.concatenate(pairs))


def split(rows: np.ndarray[Any, Any]) -> Interactions:
    """Return rows [R, 2] of user and item, sorted by user and in order within one."""
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


def with_settings(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """Return the recipe with settings of its network changed."""
    kind = "gru" if recipe.architecture == "gru" else "transformer"
    return replace(recipe, **{kind: changed(getattr(recipe, kind), changes)})


def published_markov(last_items: int) -> Recipe:
    recipe = recipe_named("markov", baskets=False)
    settings = replace(recipe.markov, neighbours=MARKOV_NEIGHBOURS, last_items=last_items)
    return replace(recipe, markov=settings)


def told(name: str, ranking: Ranking, seconds: float) -> str:
    values = ranking.ndcg_by_user()
    half = 1.96 * values.std() / np.sqrt(len(values))
    return (
        f"{name:20} NDCG@10 {ranking.mean_ndcg:.4f} ± {half:.4f}  HR@10 {ranking.hit.mean():.4f}"
        f"  {seconds:.0f} s"
    )


def counted(recipe: Recipe, interactions: Interactions, period: int, length: int) -> Ranking:
    """Return the metrics on `period` of a model fitted on all items before it."""
    known = with_select(interactions) if period == TEST else interactions
    made = make_counted(recipe.architecture, known, recipe)
    return evaluate(made.model, interactions, interactions.examples(period), length)


def trained(
    recipe: Recipe, interactions: Interactions, seed: int, checkpoints: Path
) -> tuple[nn.Module, str]:
    """Return the network of the chosen epoch (of a blend, with its other parts) and how it was chosen in words.

    A blend's other parts are counted on what the network was trained on.
    """
    device = training_device()
    demand_determinism()
    said_at = time.monotonic()

    def say(sentence: str, fraction: float | None) -> None:
        nonlocal said_at
        late = time.monotonic() - said_at > SAID_SECONDS
        if late or fraction is None or "NDCG" in sentence:
            said_at = time.monotonic()
            print(f"{fraction or 0.0:4.0%} {sentence}", flush=True)

    shop = Workshop(
        interactions=interactions, recipe=recipe, seed=seed, checkpoints=checkpoints, progress=say
    )
    made, curve = make_model(shop, blend_parts(recipe, interactions))
    best = max(range(len(curve)), key=lambda place: curve[place].select_ndcg10)
    how = (
        f"{device_name(device)}, seed {seed}; epoch {best + 1} of {len(curve)} chosen by "
        f"NDCG@10 {curve[best].select_ndcg10:.4f} on the item before the last; "
        f"resumed from: {made.resumed_from or 'nothing'}; "
    )
    if isinstance(made.model, BlendedRecommender):
        how += (
            f"weights {dict(zip(PARTS, made.model.weights.tolist(), strict=True))} chosen there; "
        )
    return made.model, how


def blend_parts(recipe: Recipe, interactions: Interactions) -> dict[str, Made]:
    """Return the counted parts of a blend; nothing for other recipes."""
    if recipe.architecture != "blend":
        return {}
    return {"markov": make_counted("markov", interactions, recipe)}


def refit(model: BlendedRecommender, recipe: Recipe, known: Interactions) -> None:
    """Count the Markov part and the popularity again on `known`; network and weights stay."""
    markov = blend_parts(recipe, known)["markov"].model
    assert isinstance(markov, ItemNeighbours)
    model.markov = markov
    model.popularity.copy_(train_shares(known))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=sorted(FILES), default="ml-1m")
    parser.add_argument("--recipe", default="wide_transformer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--select", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--checkpoints", type=Path)
    options = parser.parse_args()
    folder = os.environ.get("HEADRACE_DATA")
    if not folder or not (Path(folder) / FILES[options.data]).is_file():
        parser.error(f"HEADRACE_DATA: expected a folder with {FILES[options.data]}, found {folder}")
    recipe = with_settings(recipe_named(options.recipe, baskets=False), options.set)
    torch.set_num_threads(recipe.threads)
    interactions = {"ml-1m": movie_lens, "beauty": beauty}[options.data](Path(folder))
    length = WHOLE_HISTORY[options.data]
    period = SELECT if options.select else TEST
    chain = published_markov(MARKOV_HISTORY[options.data])
    start = time.monotonic()
    if not options.select:
        model = make_counted("markov", interactions, chain).model
        apart = evaluate(model, interactions, interactions.examples(TEST), length)
        print(told(WITHOUT_SELECT, apart, time.monotonic() - start), flush=True)
        start = time.monotonic()
    peer = counted(chain, interactions, period, length)
    print(told("windowed Markov", peer, time.monotonic() - start), flush=True)

    start, chosen = time.monotonic(), ""
    if recipe.architecture in COUNTED:
        ranking = counted(recipe, interactions, period, length)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            checkpoints = options.checkpoints or Path(scratch)
            model, chosen = trained(recipe, interactions, options.seed, checkpoints)
        ranking = evaluate(model, interactions, interactions.examples(period), recipe.max_length)
        if isinstance(model, BlendedRecommender) and not options.select:
            print(told(WITHOUT_SELECT, ranking, time.monotonic() - start), flush=True)
            refit(model, recipe, with_select(interactions))
            ranking = evaluate(model, interactions, interactions.examples(TEST), recipe.max_length)
    print(told(options.recipe, ranking, time.monotonic() - start))
    print(
        f"{chosen}{ranking.mean_ndcg / peer.mean_ndcg:.3f} of windowed Markov; "
        f"{len(ranking.user)} users; {'the item before the last' if options.select else 'the last item'}"
    )


if __name__ == "__main__":
    main()
