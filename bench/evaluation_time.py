"""Seconds until every user of MovieLens-1M has every item ranked and measured, beside the plain way of doing it.

Peer in the same run: what the training scripts of SASRec and gSASRec do in torch. Users in batches of 256, all their states, scores of
all items, what each user has seen set aside in a loop, `topk`, and NDCG@10 of each user in a loop. Both ask the very same network,
whose weights are drawn and not trained, which changes no time, and find the same NDCG@10. The counted recipes (`ease`, `markov`) are
fitted before the clock starts. The aim is judged by the clock, as a user waits, with the load average beside it: other work on the
machine counts. How many times as fast is by seconds of the process, by all its threads, which other work changes little.
usage: HEADRACE_DATA=folder python -m bench.evaluation_time [--recipes transformer ease markov] [--rounds 3] [--threads 1]
       (the network of the published comparison: --recipes wide_transformer)
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from math import log2
from pathlib import Path

import torch
from torch import nn

from bench.published_split import FILES, TEST, movie_lens
from tasks.models.interactions import Examples, Interactions
from tasks.models.sequence_model import SequenceModel
from tasks.training.make_model import COUNTED, make_counted, untrained_network
from tasks.training.metrics import evaluate, requests_for
from tasks.training.recipes import Recipe, recipe_named

BATCH, TOP, SEED = 256, 10, 1
AIM_SECONDS = 2.0

Spent = tuple[float, float]  # seconds of the process, and by the clock


def plain(model: nn.Module, interactions: Interactions, asked: Examples, length: int) -> float:
    """Return the mean NDCG@10 in the plain way; each example has one target."""
    gains = []
    for start in range(0, len(asked), BATCH):
        chunk = asked.take(slice(start, start + BATCH))
        items, ago = requests_for(model, interactions, chunk, length)
        with torch.no_grad():
            scores = all_states_scores(model, items, ago)
        starts = interactions.offsets[chunk.user]
        for row, (first, end) in enumerate(zip(starts, chunk.end, strict=True)):
            scores[row, [0, *interactions.items[first:end].tolist()]] = -torch.inf
        best = torch.topk(scores, TOP, dim=1).indices.tolist()
        for top, target in zip(best, chunk.targets.tolist(), strict=True):
            gains.append(1 / log2(top.index(target) + 2) if target in top else 0.0)
    return sum(gains) / len(gains)


def all_states_scores(model: nn.Module, items: torch.Tensor, ago: torch.Tensor) -> torch.Tensor:
    """Return the scores [B, I + 1] of the last of all states, as SASRec's `log2feats` has them."""
    if not isinstance(model, SequenceModel):
        scores: torch.Tensor = model(items, ago)
        return scores
    last = model.scored(model.states(items, ago)[:, -1])
    return last @ model.scoring_table().t() + model.bias + model.penalty


def made(recipe: Recipe, interactions: Interactions) -> nn.Module:
    """Return a recipe's model, counted, or a network with weights as they are drawn."""
    if recipe.architecture in COUNTED:
        return make_counted(recipe.architecture, interactions, recipe).model.eval()
    return untrained_network(recipe, interactions.num_items, SEED).model.eval()


def timed(call: Callable[[], float]) -> tuple[float, Spent]:
    """Return what the call returns, its seconds of the process and by the clock."""
    clock, process = time.perf_counter(), time.process_time()
    found = call()
    return found, (time.process_time() - process, time.perf_counter() - clock)


def compare(name: str, interactions: Interactions, rounds: int) -> None:
    """Print what our way and the plain one take, in turns."""
    recipe = recipe_named(name, baskets=False)
    model, asked, length = (
        made(recipe, interactions),
        interactions.examples(TEST),
        recipe.max_length,
    )
    ours: list[Spent] = []
    theirs: list[Spent] = []
    found = set()
    for _ in range(rounds):
        mean, spent = timed(lambda: evaluate(model, interactions, asked, length).mean_ndcg)
        ours.append(spent)
        found.add(f"{mean:.4f}")
        mean, spent = timed(lambda: plain(model, interactions, asked, length))
        theirs.append(spent)
        found.add(f"{mean:.4f}")
    print(
        f"{name}: {told(ours, theirs, os.getloadavg()[0])}; {len(asked):,} users x "
        f"{interactions.num_items:,} items, NDCG@10 {' and '.join(sorted(found))}",
        flush=True,
    )


def told(ours: Sequence[Spent], theirs: Sequence[Spent], load: float) -> str:
    """Return our seconds against the aim, by the clock, and against the plain way's, by the process."""
    (cpu, clock), (peer, peer_clock) = (
        [statistics.median(seconds) for seconds in zip(*rows, strict=True)]
        for rows in (ours, theirs)
    )
    ratios = [other[0] / own[0] for own, other in zip(ours, theirs, strict=True)]
    return (
        f"{'within' if clock <= AIM_SECONDS else 'ABOVE'} {AIM_SECONDS:.0f} s: {clock:.2f} by the clock at a "
        f"load average of {load:.1f} ({cpu:.2f} of the process), plain {peer_clock:.2f} ({peer:.2f}), "
        f"{statistics.median(ratios):.2f} times as fast ({', '.join(f'{one:.2f}' for one in ratios)})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="+", default=["transformer", "ease", "markov"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    folder = os.environ.get("HEADRACE_DATA")
    if not folder or not (Path(folder) / FILES["ml-1m"]).is_file():
        parser.error(f"HEADRACE_DATA: expected a folder with {FILES['ml-1m']}, found {folder}")
    torch.set_num_threads(options.threads)
    interactions = movie_lens(Path(folder))
    for name in options.recipes:
        compare(name, interactions, options.rounds)
    print(f"{options.threads} thread(s)")


if __name__ == "__main__":
    main()
