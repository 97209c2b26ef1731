"""Choose the weights of a blend on the select period, and on nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.contracts.stage_io import SayProgress
from tasks.models.blend import PARTS, BlendedRecommender
from tasks.models.interactions import Examples, Interactions
from tasks.training.metrics import CHUNK, TOP, Floats, rank, requests_for, seen_before, without_seen

CANDIDATES = 50  # best items of each part: no other item can be among a mixture's best ten often
# From a part that is left out to one that outweighs the best twenty times: shares of popularity are
# far below those of a sure network, and need such weights.
GRID = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0)
ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class PartScores:
    """Each part's scores at the candidates of every example: [E, parts, C] and items [E, C]."""

    scores: Tensor
    items: Tensor


def part_scores(
    model: BlendedRecommender, interactions: Interactions, examples: Examples, max_length: int
) -> PartScores:
    """Score the union of each part's best items for every example."""
    kept, columns = [], []
    for start in range(0, len(examples), CHUNK):
        chunk = examples.take(slice(start, start + CHUNK))
        asked = requests_for(model, interactions, chunk, max_length)
        with torch.no_grad():
            parts = [part + model.penalty for part in model.parts(*asked)]
        if not interactions.repeats_allowed:
            seen = seen_before(interactions, chunk)
            parts = [without_seen(part, seen) for part in parts]
        count = min(CANDIDATES, parts[0].shape[1])
        best = torch.cat([torch.topk(part, count, dim=1).indices for part in parts], dim=1)
        best = _without_repeats(best)
        kept.append(torch.stack([part.gather(1, best) for part in parts], dim=1))
        columns.append(best)
    return PartScores(scores=torch.cat(kept), items=torch.cat(columns))


def _without_repeats(columns: Tensor) -> Tensor:
    """Sort each row and turn repeated items into padding (index 0)."""
    ordered = columns.sort(dim=1).values
    repeated = torch.zeros_like(ordered, dtype=torch.bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return ordered.masked_fill(repeated, 0)


def choose_weights(
    found: PartScores, examples: Examples, progress: SayProgress
) -> NDArray[np.float32]:
    """Return weights [parts]: coordinate ascent over a grid from the best part alone.

    What is maximised is the lower bound of the mean gain per user over that part: a gate will ask
    whether the gain is sure, not whether it is large for a few users.
    """
    alone = np.eye(len(PARTS), dtype=np.float32)
    by_part = [_by_user(found, examples, weights) for weights in alone]
    start = int(np.argmax([values.mean() for values in by_part]))
    weights, best = alone[start].copy(), 0.0
    for _ in range(ROUNDS):
        before = weights.copy()
        for part in (place for place in range(len(PARTS)) if place != start):
            for value in GRID:
                trial = weights.copy()
                trial[part] = value
                bound = _lower_bound(_by_user(found, examples, trial) - by_part[start])
                if bound > best + 1e-9:
                    best, weights = bound, trial
        progress(f"blend weights {weights.round(2).tolist()}: sure of {best:+.4f} NDCG@10", None)
        if np.array_equal(before, weights):
            break
    return weights


def _lower_bound(gains: Floats) -> float:
    """Return the lower end of the one-sided 95 % interval of the mean of [users]."""
    return float(gains.mean() - 1.645 * gains.std() / np.sqrt(max(len(gains), 1)))


def _by_user(found: PartScores, examples: Examples, weights: NDArray[np.float32]) -> Floats:
    mixed = torch.einsum("epc,p->ec", found.scores, torch.from_numpy(weights))
    mixed = mixed.masked_fill(found.items == 0, -1e9)
    best = torch.topk(mixed, min(TOP, mixed.shape[1]), dim=1).indices
    return rank(found.items.gather(1, best).numpy(), examples).ndcg_by_user()
