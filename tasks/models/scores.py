"""Pieces that all recommenders share: padding, history weights, sums over items."""

from __future__ import annotations

import torch
from torch import Tensor

PADDING_SCORE = -1e9


def padding_penalty(num_items: int) -> Tensor:
    """Return [I + 1]: zero, but so low at index 0 that padding is never recommended."""
    penalty = torch.zeros(num_items + 1)
    penalty[0] = PADDING_SCORE
    return penalty


def recency_weights(items: Tensor, steps_ago: Tensor, decay: Tensor) -> Tensor:
    """Return decay^(steps_ago - 1) [B, L], zero on padding."""
    ages = (steps_ago.to(torch.float32) - 1.0).clamp(min=0.0)
    weights = torch.exp(torch.log(decay) * ages)
    return torch.where(items > 0, weights, torch.zeros_like(weights))


def sum_by_item(items: Tensor, weights: Tensor, num_items: int) -> Tensor:
    """Return [B, I + 1]: the sum of `weights` [B, M] at each of `items` [B, M]."""
    zeros = torch.zeros((items.shape[0], num_items + 1), dtype=weights.dtype)
    return torch.scatter_add(zeros, 1, items, weights)


def share(scores: Tensor) -> Tensor:
    """Return scores [B, I + 1] divided by their sum over items; rows of zeros stay zeros."""
    return scores / scores.sum(dim=1, keepdim=True).clamp(min=1e-9)


def last_columns(rows: Tensor, count: int) -> Tensor:
    """Return [B, count]: the last columns of [B, L], zeros before them where L < count.

    A slice would make torch.export fix on which side of `count` the length lies.
    """
    places = torch.arange(-count, 0) + rows.shape[1]
    picked = rows.index_select(1, places.clamp(min=0))
    return torch.where(places >= 0, picked, torch.zeros_like(picked))
