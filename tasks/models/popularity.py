"""Popularity: the same order for everybody, by purchases in the train period."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tasks.models.scores import padding_penalty


class Popularity(nn.Module):
    """Scores are log(1 + count): [I + 1], the same for every user."""

    log_counts: Tensor
    penalty: Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.register_buffer("log_counts", torch.zeros(num_items + 1))
        self.register_buffer("penalty", padding_penalty(num_items))

    def forward(self, items: Tensor, steps_ago: Tensor) -> Tensor:
        """Return scores float32 [B, I + 1]; the history [B, L] is not looked at."""
        nothing = (items * 0 + steps_ago * 0).sum(dim=1, keepdim=True).to(torch.float32)
        return nothing + (self.log_counts + self.penalty).unsqueeze(0)
