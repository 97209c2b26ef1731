"""Choose golden requests from real users and answer them with torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.compression.compress import CompressedModel
from tasks.models.event_types import TYPES, history_types
from tasks.models.interactions import Examples, Interactions, history_batch
from tasks.models.known_steps import steps_for
from tasks.models.popularity_slices import SLICES, user_slices

PERIODS_ASKED = (2, 1)  # gate first, then select
EDGE = "edge"
BATCH = 64
EXCLUDED_SCORE = float(np.finfo(np.float32).min)

Strings = NDArray[np.str_]


def choose_examples(interactions: Interactions, wanted: int, seed: int) -> list[Examples]:
    """Return the latest example of up to `wanted` different users, gate period first."""
    chosen: list[Examples] = []
    taken = np.zeros(interactions.num_users, np.bool_)
    generator = np.random.default_rng(seed)
    for period in PERIODS_ASKED:
        examples = interactions.examples(period, max_per_user=1)
        free = np.flatnonzero(~taken[examples.user])
        picked = np.sort(generator.permutation(free)[: wanted - int(taken.sum())])
        chosen.append(examples.take(picked.astype(np.int64)))
        taken[chosen[-1].user] = True
    return chosen


def request_arrays(
    interactions: Interactions, wanted: int, max_length: int, seed: int
) -> dict[str, NDArray[np.generic]]:
    """Return items, steps_ago, user, target, history of the requests, edges last."""
    rows = []
    for examples in choose_examples(interactions, wanted, seed):
        items, ago = history_batch(interactions, examples, max_length)
        slices = user_slices(interactions, examples)[examples.user]
        target = np.asarray([*SLICES, ""])[slices]
        whole = examples.end - interactions.offsets[examples.user]
        rows.append((items, ago, interactions.user_ids[examples.user], target, whole))
    items = np.concatenate([row[0] for row in rows])
    ago = np.concatenate([row[1] for row in rows])
    lengths = np.concatenate([row[4] for row in rows])
    median = np.median(lengths) if len(lengths) else 0
    edge_items, edge_ago = _edges(interactions, max_length)
    edge = np.full(len(edge_items), EDGE)
    return {
        "items": np.concatenate([items, edge_items]),
        "steps_ago": np.concatenate([ago, edge_ago]),
        "user": np.concatenate([*[row[2] for row in rows], np.full(len(edge), "")]),
        "target": np.concatenate([*[row[3] for row in rows], edge]),
        "history": np.concatenate([np.where(lengths > median, "long", "short"), edge]),
    }


def request_types(
    interactions: Interactions, wanted: int, max_length: int, seed: int
) -> NDArray[np.int64]:
    """Return [R, L]: the types of the events of `request_arrays`, codes of `models.event_types`."""
    rows = [
        history_types(interactions, examples, max_length)
        for examples in choose_examples(interactions, wanted, seed)
    ]
    edges = np.zeros((4, max_length), np.int64)
    edges[1, -1] = TYPES
    edges[2] = np.arange(max_length) % (TYPES + 1)  # an unknown type among them
    return np.concatenate([*rows, edges])


def _edges(
    interactions: Interactions, max_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return requests nobody made: no history, one item, one item over and over, old steps."""
    items = np.zeros((4, max_length), np.int64)
    ago = np.zeros((4, max_length), np.int64)
    items[1, -1], ago[1, -1] = 1, 1
    items[2], ago[2] = interactions.num_items, np.arange(max_length, 0, -1)
    items[3, -1], ago[3, -1] = interactions.num_items, 10_000
    return items, ago


def answer(
    model: nn.Module, *given: NDArray[np.int64], k: int, exclude: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the k best items and scores of each request; equal scores in order of index.

    `given` are items, steps_ago (of all steps) and perhaps event_types, [R, L] each.
    """
    found: list[tuple[Tensor, Tensor]] = []
    for asked in _batches(model, given):
        with torch.no_grad():
            scores = model(*asked)[0].clone()
        scores[:, 0] = EXCLUDED_SCORE
        if exclude:
            scores.scatter_(1, asked[0], EXCLUDED_SCORE)
        best = torch.sort(scores, dim=1, descending=True, stable=True)
        found.append((best.indices[:, :k], best.values[:, :k]))
    indices, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    return indices.numpy(), values.numpy()


def next_type_answer(model: CompressedModel, *given: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return [R, T]: the chances of the next event's type after each request."""
    place = model.names.index("next_types")
    with torch.no_grad():
        found = [model(*asked)[place] for asked in _batches(model, given)]
    return torch.cat(found).numpy()


def _batches(model: nn.Module, given: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Tensor, ...]]:
    for start in range(0, len(given[0]), BATCH):
        items, ago, *types = (torch.from_numpy(one[start : start + BATCH]) for one in given)
        yield items, steps_for(model, items, ago), *types


def overlap(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return [R]: the share of each row of `first` that is in the same row of `second`."""
    shared = (first[:, :, None] == second[:, None, :]).any(axis=2)
    return shared.mean(axis=1)
