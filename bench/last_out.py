"""NDCG@10 and HR@10 of a trained release on each user's last step, all items ranked.

The released models saw three steps fewer than a paper's (select, gate and canary are kept from
training); `refit` fits the counting baselines on everything but the last step, as papers do.
Peer in the same run: the windowed Markov chain. Nothing is chosen here.
usage: python -m bench.last_out --store URL --features feature_set/KEY --model trained_model/KEY
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from tasks.adapters.artifact_store import ArtifactStore
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.artifacts import Address
from tasks.contracts.json_types import parse_object
from tasks.models.interactions import Interactions
from tasks.models.registry import load_model
from tasks.training.baselines import fit_markov, fit_popularity
from tasks.training.metrics import evaluate
from tasks.training.recipes import recipe_named

TRAIN, CANARY = 0, 3


def all_but_last(interactions: Interactions) -> Interactions:
    """Return the same interactions with every step but the canary's in the train period."""

    def moved(period: np.ndarray) -> np.ndarray:
        return np.where(period < CANARY, TRAIN, period).astype(period.dtype)

    return replace(
        interactions,
        period=moved(interactions.period),
        step_period=moved(interactions.step_period),
    )


def models(folder: Path, interactions: Interactions, name: str) -> Iterator[tuple[str, nn.Module]]:
    yield "markov", load_model(folder / "baselines", "markov")
    yield "popularity", load_model(folder / "baselines", "popularity")
    yield name, load_model(folder)
    whole = all_but_last(interactions)
    recipe = recipe_named("markov", baskets=interactions.baskets)
    yield "popularity, refit", fit_popularity(whole)[0]
    yield "markov, refit", fit_markov(whole, recipe.markov)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--features", required=True)
    parser.add_argument("--model", required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        store = ArtifactStore(ObjectStore(options.store), cache=Path(cache))
        features, model = (
            store.fetch(store.manifest(Address.parse(text)))
            for text in (options.features, options.model)
        )
        interactions = Interactions.load(features / "interactions.npz")
        report = parse_object((model / "report.json").read_bytes(), "report.json")
        length = int(str(report["max_length"]))
        examples = interactions.examples(CANARY)
        found = {}
        for name, scorer in models(model, interactions, str(report["recipe"])):
            ranking = evaluate(scorer, interactions, examples, length)
            values = ranking.ndcg_by_user()
            half = 1.96 * values.std() / np.sqrt(len(values))
            found[name] = ranking.mean_ndcg
            print(
                f"{name:24} NDCG@10 {ranking.mean_ndcg:.4f} ± {half:.4f}  "
                f"HR@10 {ranking.hit.mean():.4f}  {ranking.mean_ndcg / found['markov']:.2f}"
                " of windowed Markov",
                flush=True,
            )
        print(f"{len(examples)} last steps of {interactions.num_users} users, histories {length}")


if __name__ == "__main__":
    main()
