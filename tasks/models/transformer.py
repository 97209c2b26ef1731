"""Causal Transformer over steps: SASRec's network (Kang and McAuley, 2018) with pre-norm blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.models.sequence_model import SequenceModel
from tasks.models.user_profile import ProfileInputs

MASKED = -1e9


class Block(nn.Module):
    """One pre-norm block: multi-head causal attention, then a feed-forward net."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.feed_norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return [B, S, D]; `mask` [B, 1, S, S] is added to the attention's logits."""
        batch, steps, width = x.shape
        size = width // self.heads
        mixed = self.mix(self.attention_norm(x)).view(batch, steps, 3, self.heads, size)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        logits = query @ key.transpose(-1, -2) / math.sqrt(size) + mask
        seen = (torch.softmax(logits, dim=-1) @ value).transpose(1, 2)
        x = x + self.dropout(self.out(seen.reshape(batch, steps, width)))
        return x + self.dropout(self.down(functional.gelu(self.up(self.feed_norm(x)))))


class Transformer(SequenceModel):
    """States are those of causal blocks over the steps and their places.

    `profile` (labels and prior_events, as `make_model.profile_arguments` has them) adds what the steps so far make
    of the user.
    """

    causal: Tensor

    def __init__(
        self,
        num_items: int,
        *,
        steps: int,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        profile: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(num_items, steps=steps, width=width, dropout=dropout)
        self.places = nn.Embedding(steps, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        # Lower than an empty step: a step without items must look at itself, not at the future.
        later = torch.ones(steps, steps).triu(1) * (4 * MASKED)
        self.register_buffer("causal", later.view(1, 1, steps, steps))
        nn.init.normal_(self.items.weight, std=1 / math.sqrt(width))
        nn.init.normal_(self.places.weight, std=0.02)
        self.profile = None if profile is None else ProfileInputs(num_items, **profile, width=width)

    def states(self, items: Tensor, steps_ago: Tensor) -> Tensor:
        """Return [B, S, D]: the state after each of the last S steps, right-aligned."""
        summed, counts = self.inputs(items, steps_ago)
        x = summed + self.places.weight
        if self.profile is not None:
            x = x + self.profile(items, self.places_of(items, steps_ago))
        empty = (counts < 0.5).to(torch.float32).view(items.shape[0], 1, 1, self.steps)
        mask = self.causal + empty * MASKED
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)
