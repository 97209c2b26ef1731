"""Causal Transformer over steps: SASRec's network (Kang and McAuley, 2018) with blocks of three kinds.

`pre_norm`: attention, then a feed-forward net, each behind its normalisation. `ligr`: the same, each output behind
a gate, and the feed-forward net is a gated one (LiGR of Borisyuk et al., 2025, in the form of eSASRec). `hstu`: the
hierarchical sequential transduction unit of Zhai et al., 2024, without attention over time stamps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.models.sequence_model import SequenceModel

MASKED = -1e9
VISIBLE = MASKED / 2  # what is added to a logit that counts is above this
BlockKind = Literal["pre_norm", "ligr", "hstu"]


def attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Return softmax(q k / sqrt(D) + mask) v [B, H, S, D / H], by one fused kernel where there is one."""
    if query.is_cuda:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + mask
    return torch.softmax(logits, dim=-1) @ value


class Block(nn.Module):
    """One pre-norm block: multi-head causal attention, then a feed-forward net."""

    def __init__(self, width: int, heads: int, dropout: float, steps: int) -> None:
        super().__init__()
        del steps  # places are added to the input
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
        seen = attended(query, key, value, mask).transpose(1, 2)
        x = x + self.dropout(self.out(seen.reshape(batch, steps, width)))
        return x + self.dropout(self.down(functional.gelu(self.up(self.feed_norm(x)))))


class GatedBlock(nn.Module):
    """One LiGR block: what attention and a SwiGLU net add passes a gate of the block's input."""

    def __init__(self, width: int, heads: int, dropout: float, steps: int) -> None:
        super().__init__()
        del steps
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.feed_norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.attention_gate = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)  # a half is the gate of the other
        self.down = nn.Linear(2 * width, width)
        self.feed_gate = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return [B, S, D]; `mask` [B, 1, S, S] is added to the attention's logits."""
        batch, steps, width = x.shape
        mixed = self.mix(self.attention_norm(x)).view(batch, steps, 3, self.heads, -1)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        seen = attended(query, key, value, mask).transpose(1, 2).reshape(batch, steps, width)
        x = x + self.dropout(self.out(seen)) * torch.sigmoid(self.attention_gate(x))
        up, gate = self.up(self.feed_norm(x)).chunk(2, dim=-1)
        fed = self.down(functional.silu(gate) * up)
        return x + self.dropout(fed) * torch.sigmoid(self.feed_gate(x))


class TransductionUnit(nn.Module):
    """One HSTU: pointwise attention, SiLU in place of softmax, gated by the input; no feed-forward net."""

    distance: Tensor

    def __init__(self, width: int, heads: int, dropout: float, steps: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 4 * width)
        self.seen_norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        self.ages = nn.Embedding(steps, heads)  # added to the logits by how far the other step is
        self.dropout = nn.Dropout(dropout)
        places = torch.arange(steps)
        between = (places.view(-1, 1) - places.view(1, -1)).clamp(min=0)
        self.register_buffer("distance", between)
        nn.init.zeros_(self.ages.weight)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return [B, S, D]; where `mask` [B, 1, S, S] is far below 0, a step is not looked at."""
        batch, steps, width = x.shape
        mixed = functional.silu(self.mix(self.norm(x))).view(batch, steps, 4, self.heads, -1)
        gate, query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        ages = self.ages(self.distance).permute(2, 0, 1).unsqueeze(0)  # [1, H, S, S]
        logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + ages
        visible = (mask > VISIBLE).to(x.dtype)
        seen = (functional.silu(logits) * visible / steps) @ value
        seen = self.seen_norm(seen.transpose(1, 2).reshape(batch, steps, width))
        gate = gate.transpose(1, 2).reshape(batch, steps, width)
        return x + self.out(self.dropout(seen * gate))


BLOCKS: Mapping[BlockKind, type[Block | GatedBlock | TransductionUnit]] = MappingProxyType(
    {"pre_norm": Block, "ligr": GatedBlock, "hstu": TransductionUnit}
)


class Transformer(SequenceModel):
    """States are those of causal blocks over the steps and their places."""

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
        block: BlockKind = "pre_norm",
        temperature: float | None = None,
    ) -> None:
        super().__init__(
            num_items, steps=steps, width=width, dropout=dropout, temperature=temperature
        )
        self.places = nn.Embedding(steps, width)
        self.blocks = nn.ModuleList(
            BLOCKS[block](width, heads, dropout, steps) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        # Lower than an empty step: a step without items must look at itself, not at the future.
        later = torch.ones(steps, steps).triu(1) * (4 * MASKED)
        self.register_buffer("causal", later.view(1, 1, steps, steps))
        nn.init.normal_(self.items.weight, std=1 / math.sqrt(width))
        nn.init.normal_(self.places.weight, std=0.02)

    def states(self, items: Tensor, steps_ago: Tensor) -> Tensor:
        """Return [B, S, D]: the state after each of the last S steps, right-aligned."""
        summed, counts = self.inputs(items, steps_ago)
        x = summed + self.places.weight
        empty = (counts < 0.5).to(torch.float32).view(items.shape[0], 1, 1, self.steps)
        mask = self.causal + empty * MASKED
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)
