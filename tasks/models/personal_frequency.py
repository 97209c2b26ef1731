"""Personal frequency: what this user took often and lately; popularity breaks ties."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tasks.models.scores import padding_penalty, recency_weights, sum_by_item


class PersonalFrequency(nn.Module):
    """Scores are sums of decay^(steps_ago - 1) over the history, plus a little popularity."""

    decay: Tensor
    tie_break: Tensor
    penalty: Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.num_items = num_items
        self.register_buffer("decay", torch.tensor(0.97))
        self.register_buffer("tie_break", torch.zeros(num_items + 1))  # below any decayed count
        self.register_buffer("penalty", padding_penalty(num_items))

    def counts(self, items: Tensor, steps_ago: Tensor) -> Tensor:
        """Return decayed counts float32 [B, I + 1]."""
        weights = recency_weights(items, steps_ago, self.decay)
        return sum_by_item(items, weights, self.num_items)

    def forward(self, items: Tensor, steps_ago: Tensor) -> Tensor:
        """Return scores float32 [B, I + 1] from items and steps_ago, int64 [B, L]."""
        return self.counts(items, steps_ago) + (self.tie_break + self.penalty).unsqueeze(0)
