"""NDCG@10 and HR@10 over all items (full ranking), for one target or for an unordered basket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.contracts.ranks import ALONE, Ranks
from tasks.models.event_types import history_types, takes_event_types
from tasks.models.interactions import Examples, Interactions, history_batch
from tasks.models.known_steps import steps_for
from tasks.models.scores import PADDING_SCORE
from tasks.models.sequence_model import SequenceModel

TOP = 10
CHUNK = 256
CPU = torch.device("cpu")
Floats = NDArray[np.float64]
Scorer = Callable[..., Tensor]  # of items, steps_ago and perhaps event_types, int64 [B, L]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Metrics of E examples, and their means per user."""

    ndcg: Floats  # [E]
    hit: Floats  # [E]
    user: NDArray[np.int32]  # [E]

    def ndcg_by_user(self) -> Floats:
        """Return [number of users]: the mean NDCG@10 of each user."""
        return mean_by_user(self.ndcg, self.user)

    @property
    def mean_ndcg(self) -> float:
        """Return the mean over users of the users' mean NDCG@10."""
        return float(self.ndcg_by_user().mean()) if len(self.user) else 0.0


def mean_by_user(values: Floats, user: NDArray[np.int32]) -> Floats:
    """Return the mean of `values` [E] for each user that has any, in order of user index."""
    _, place = np.unique(user, return_inverse=True)
    means: Floats = np.bincount(place, values) / np.bincount(place)
    return means


def rank(top: NDArray[np.int64], examples: Examples) -> Ranking:
    """Return the metrics of `top` [E, 10], item indices best first.

    NDCG@10 (Jarvelin and Kekalainen, 2002) with gain 1: the ideal has min(10, targets) hits.
    """
    span = int(max(top.max(initial=0), examples.targets.max(initial=0))) + 1
    wanted = examples.target_rows() * span + examples.targets
    asked = np.arange(len(examples), dtype=np.int64)[:, None] * span + top
    hits = np.isin(asked, wanted)
    discounts = 1 / np.log2(np.arange(2, TOP + 2))
    ideal = np.cumsum(discounts)[np.clip(examples.target_counts(), 1, TOP) - 1]
    return Ranking(
        ndcg=(hits * discounts[: top.shape[1]]).sum(axis=1) / ideal,
        hit=np.asarray(hits.any(axis=1), dtype=np.float64),
        user=examples.user,
    )


def seen_before(interactions: Interactions, examples: Examples) -> Tensor:
    """Return bool [E, I + 1]: which items the user took before the step, however long ago."""
    seen = np.zeros((len(examples), interactions.num_items + 1), np.bool_)
    starts = interactions.offsets[examples.user]
    for row, (start, end) in enumerate(zip(starts, examples.end, strict=True)):
        seen[row, interactions.items[start:end]] = True
    return torch.from_numpy(seen)


def without_seen(scores: Tensor, seen: Tensor) -> Tensor:
    """Return scores [B, I + 1] with every item that is `seen` bool [B, I + 1] far below the rest."""
    return scores.masked_fill(seen, PADDING_SCORE)


def requests_for(
    model: object,
    interactions: Interactions,
    examples: Examples,
    max_length: int,
    device: torch.device = CPU,
) -> tuple[Tensor, ...]:
    """Return what a model is asked with, int64 [B, L] each: items, steps as it counts them, types if it takes them."""
    items, ago = map(torch.from_numpy, history_batch(interactions, examples, max_length))
    asked: tuple[Tensor, ...] = (items, steps_for(model, items, ago))
    if takes_event_types(model):
        asked = (*asked, torch.from_numpy(history_types(interactions, examples, max_length)))
    return tuple(one.to(device) for one in asked)


def top_items(
    scorer: Scorer,
    interactions: Interactions,
    examples: Examples,
    max_length: int,
    *,
    unseen: bool,
    device: torch.device = CPU,
) -> NDArray[np.int64]:
    """Return [E, 10]: the best items of every example by `scorer`, which lies on `device`.

    Histories of about one length are asked about together, with no more padding than the longest needs: each
    is ranked as in serving, which pads to the whole. The scorer is shown the last `max_length` items; with `unseen`
    all that the user took is left out.
    """
    lengths = (examples.end - interactions.offsets[examples.user]).clip(1, max_length)
    order = np.argsort(lengths, kind="stable")
    found = np.zeros((len(examples), min(TOP, interactions.num_items + 1)), np.int64)
    for start in range(0, len(examples), CHUNK):
        rows = order[start : start + CHUNK]
        longest = int(lengths[rows].max())
        chunk = examples.take(rows)
        asked = requests_for(scorer, interactions, chunk, longest, device)
        with torch.no_grad():
            scores = scorer(*asked, **_least_steps(scorer, *asked[:2]))
            if unseen:
                scores = without_seen(scores, seen_before(interactions, chunk).to(device))
            best = torch.topk(scores, found.shape[1], dim=1).indices
            found[rows] = best.cpu().numpy()
    return found


def _least_steps(scorer: Scorer, items: Tensor, steps_ago: Tensor) -> dict[str, int]:
    """Return how many steps a network need be shown, where it can be shown fewer than it has.

    All, where a history has no item: its state depends on the number of its empty steps.
    """
    if not isinstance(scorer, SequenceModel) or scorer.sees_empty_steps or not steps_ago.numel():
        return {}
    if not bool((items > 0).any(dim=1).all()):
        return {}
    return {"steps": min(max(int(steps_ago.max()), 1), scorer.steps)}


def evaluate(
    scorer: Scorer,
    interactions: Interactions,
    examples: Examples,
    max_length: int,
    *,
    device: torch.device = CPU,
    ranks: Ranks = ALONE,
) -> Ranking:
    """Return the metrics of `scorer` on `examples`; seen items are left out unless repeats count.

    Each of several ranks scores its share of the examples; all return the whole.
    """
    unseen = not interactions.repeats_allowed
    mine = examples.take(ranks.share(np.arange(len(examples), dtype=np.int64)))
    top = top_items(scorer, interactions, mine, max_length, unseen=unseen, device=device)
    parts = ranks.gathered(top)
    whole = np.zeros((len(examples), parts[0].shape[1]), np.int64)
    for place, part in enumerate(parts):
        whole[place :: len(parts)] = part[:, : whole.shape[1]]  # an empty share is ten wide
    return rank(whole, examples)
