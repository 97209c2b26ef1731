"""Causal Transformer over steps (baskets or single events): pre-norm, tied item table.

A step is the scaled sum of its items' embeddings, so that the order within a basket carries
nothing. The network is SASRec's (Kang and McAuley, 2018) with pre-norm blocks and an item bias.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.models.scores import padding_penalty

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


class Transformer(nn.Module):
    """Scores are products of the last step's state with the item table, plus a bias per item."""

    penalty: Tensor
    ages: Tensor
    causal: Tensor

    def __init__(
        self, num_items: int, *, steps: int, width: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.steps = steps
        self.items = nn.Embedding(num_items + 1, width)
        self.places = nn.Embedding(steps, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(num_items + 1))
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("penalty", padding_penalty(num_items))
        self.register_buffer("ages", torch.arange(steps, 0, -1))
        # Lower than an empty step: a step without items must look at itself, not at the future.
        later = torch.ones(steps, steps).triu(1) * (4 * MASKED)
        self.register_buffer("causal", later.view(1, 1, steps, steps))
        nn.init.normal_(self.items.weight, std=1 / math.sqrt(width))
        nn.init.normal_(self.places.weight, std=0.02)

    def states(self, items: Tensor, steps_ago: Tensor) -> Tensor:
        """Return [B, S, D]: the state after each of the last S steps, right-aligned."""
        known = (items > 0).to(torch.float32)
        inside = (steps_ago.unsqueeze(1) == self.ages.view(1, -1, 1)).to(torch.float32)
        inside = inside * known.unsqueeze(1)  # [B, S, L]
        counts = inside.sum(dim=2, keepdim=True)
        summed = inside @ self.items(items)
        x = summed / counts.clamp(min=1.0).sqrt() + self.places.weight
        empty = (counts < 0.5).to(torch.float32).view(items.shape[0], 1, 1, self.steps)
        mask = self.causal + empty * MASKED
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def embed(self, items: Tensor, steps_ago: Tensor) -> Tensor:
        """Return the user's state float32 [B, D]."""
        return self.states(items, steps_ago)[:, -1]

    def forward(self, items: Tensor, steps_ago: Tensor) -> Tensor:
        """Return scores float32 [B, I + 1] from items and steps_ago, int64 [B, L]."""
        state = self.embed(items, steps_ago)
        return state @ self.items.weight.t() + (self.bias + self.penalty).unsqueeze(0)
