"""Causal Transformer over steps: SASRec's network (Kang and McAuley, 2018) with blocks of three kinds.

`pre_norm`: attention, then a feed-forward net, each behind its normalisation. `ligr`: the same, each output behind
a gate, and the feed-forward net is a gated one (LiGR of Borisyuk et al., 2025, in the form of eSASRec). `hstu`: the
hierarchical sequential transduction unit of Zhai et al., 2024, without attention over time stamps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.contracts.errors import BadRequestError
from tasks.models.sequence_model import SequenceModel
from tasks.models.typed_events import TypedEvents
from tasks.models.user_profile import ProfileInputs

MASKED = -1e9
VISIBLE = MASKED / 2  # what is added to a logit that counts is above this
BlockKind = Literal["pre_norm", "ligr", "hstu"]


def by_heads(mixed: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """Return the parts of [B, S, P x D], each [B, H, S, D / H]."""
    batch, steps, width = mixed.shape
    mixed = mixed.view(batch, steps, parts, heads, width // parts // heads)
    return mixed.permute(2, 0, 3, 1, 4).unbind(0)


def joined(seen: Tensor) -> Tensor:
    """Return [B, S, D] of [B, H, S, D / H]."""
    batch, heads, steps, size = seen.shape
    return seen.transpose(1, 2).reshape(batch, steps, heads * size)


def last_steps(square: Tensor, steps: int) -> Tensor:
    """Return [.., S, S] of the last `steps` of a square over steps."""
    return square if square.shape[-1] == steps else square[..., -steps:, -steps:]


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

    def forward(self, x: Tensor, mask: Tensor, asked: int) -> Tensor:
        """Return the last `asked` steps [B, A, D] of x [B, S, D]; `mask` [B, 1, S, S] is added to the logits."""
        query, key, value = by_heads(self.mix(self.attention_norm(x)), 3, self.heads)
        query, mask = query[:, :, -asked:], mask[:, :, -asked:]
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x[:, -asked:] + self.dropout(self.out(joined(seen)))
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

    def forward(self, x: Tensor, mask: Tensor, asked: int) -> Tensor:
        """Return the last `asked` steps [B, A, D] of x [B, S, D]; `mask` [B, 1, S, S] is added to the logits."""
        query, key, value = by_heads(self.mix(self.attention_norm(x)), 3, self.heads)
        query, mask = query[:, :, -asked:], mask[:, :, -asked:]
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x[:, -asked:]
        x = x + self.dropout(self.out(joined(seen))) * torch.sigmoid(self.attention_gate(x))
        up, gate = self.up(self.feed_norm(x)).chunk(2, dim=-1)
        fed = self.down(functional.silu(gate) * up)
        return x + self.dropout(fed) * torch.sigmoid(self.feed_gate(x))


class TransductionUnit(nn.Module):
    """One HSTU: pointwise attention, SiLU in place of softmax, gated by the input; no feed-forward net."""

    distance: Tensor

    def __init__(self, width: int, heads: int, dropout: float, steps: int) -> None:
        super().__init__()
        self.heads, self.steps = heads, steps
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

    def forward(self, x: Tensor, mask: Tensor, asked: int) -> Tensor:
        """Return the last `asked` steps [B, A, D]; where `mask` [B, 1, S, S] is far below 0, no step is looked at."""
        gate, query, key, value = by_heads(functional.silu(self.mix(self.norm(x))), 4, self.heads)
        gate, query, mask = gate[:, :, -asked:], query[:, :, -asked:], mask[:, :, -asked:]
        distance = last_steps(self.distance, x.shape[1])
        ages = self.ages(distance[-asked:]).permute(2, 0, 1).unsqueeze(0)  # [1, H, A, S]
        logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + ages
        visible = (mask > VISIBLE).to(x.dtype)
        seen = (functional.silu(logits) * visible / self.steps) @ value
        return x[:, -asked:] + self.out(self.dropout(self.seen_norm(joined(seen)) * joined(gate)))


BLOCKS: Mapping[BlockKind, type[Block | GatedBlock | TransductionUnit]] = MappingProxyType(
    {"pre_norm": Block, "ligr": GatedBlock, "hstu": TransductionUnit}
)


class Transformer(SequenceModel):
    """States are those of causal blocks over the steps and their places.

    `profile` (labels and prior_events, as `make_model.profile_arguments` has them) adds what the steps so far make
    of the user. `event_types` adds each event's type, and a second head that says the next one's.
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
        block: BlockKind = "pre_norm",
        temperature: float | None = None,
        profile: Mapping[str, Any] | None = None,
        event_types: bool = False,
    ) -> None:
        super().__init__(
            num_items, steps=steps, width=width, dropout=dropout, temperature=temperature
        )
        self.places = nn.Embedding(steps, width)
        self.blocks = nn.ModuleList(
            BLOCKS[block](width, heads, dropout, steps) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        later = torch.ones(steps, steps, dtype=torch.bool).triu(1)
        self.register_buffer("causal", later.view(1, 1, steps, steps))
        nn.init.normal_(self.items.weight, std=1 / math.sqrt(width))
        nn.init.normal_(self.places.weight, std=0.02)
        self.profile = None if profile is None else ProfileInputs(num_items, **profile, width=width)
        self.typed = TypedEvents(width) if event_types else None

    @property
    def takes_event_types(self) -> bool:
        """Say whether the types of events are an input, and the next one's an output."""
        return self.typed is not None

    def states(
        self,
        items: Tensor,
        steps_ago: Tensor,
        event_types: Tensor | None = None,
        *,
        steps: int | None = None,
    ) -> Tensor:
        """Return [B, S, D]: the state after each of the last S `steps` (all of them), right-aligned.

        `event_types` int64 [B, L] are the codes of `models.event_types`; without them all are unknown.
        """
        shown = self.steps if steps is None else steps
        return self._states(items, steps_ago, event_types, asked=shown, shown=shown)

    def embed(
        self,
        items: Tensor,
        steps_ago: Tensor,
        event_types: Tensor | None = None,
        *,
        steps: int | None = None,
    ) -> Tensor:
        """Return the user's state float32 [B, D]; the last block computes no other."""
        shown = self.steps if steps is None else steps
        return self._states(items, steps_ago, event_types, asked=1, shown=shown)[:, -1]

    def forward(
        self,
        items: Tensor,
        steps_ago: Tensor,
        event_types: Tensor | None = None,
        *,
        steps: int | None = None,
    ) -> Tensor:
        """Return scores float32 [B, I + 1] from items, steps_ago and perhaps types, int64 [B, L]."""
        return self.scores_of(self.embed(items, steps_ago, event_types, steps=steps))

    def type_logits(self, states: Tensor) -> Tensor:
        """Return [.., T]: the head of the next event's type over `states` [.., D]."""
        return self._demanded_types().logits(states)

    def next_types(
        self, items: Tensor, steps_ago: Tensor, event_types: Tensor | None = None
    ) -> Tensor:
        """Return float32 [B, T]: chances that the next event is of each type, in order of EVENT_TYPES."""
        logits = self.type_logits(self.embed(items, steps_ago, event_types))
        return torch.softmax(logits, dim=1)

    def _demanded_types(self) -> TypedEvents:
        if self.typed is None:
            message = (
                "network: expected one with event types, found one without; train it with them"
            )
            raise BadRequestError(message)
        return self.typed

    def _states(
        self,
        items: Tensor,
        steps_ago: Tensor,
        event_types: Tensor | None,
        *,
        asked: int,
        shown: int,
    ) -> Tensor:
        steps = None if shown == self.steps else shown
        summed, counts = self.inputs(items, steps_ago, self._added(items, event_types), steps=steps)
        x = summed + (self.places.weight if steps is None else self.places.weight[-shown:])
        if self.profile is not None:
            x = x + self.profile(items, self.places_of(items, steps_ago, steps=steps))
        empty = (counts < 0.5).to(torch.float32).view(items.shape[0], 1, 1, shown)
        # Lower than an empty step: a step without items must look at itself, not at the future.
        causal = last_steps(self.causal, shown).to(torch.float32)
        mask = causal * (4 * MASKED) + empty * MASKED
        x = self.dropout(x)
        for place, block in enumerate(self.blocks, start=1):
            x = block(x, mask, asked if place == len(self.blocks) else shown)
        return self.norm(x)

    def _added(self, items: Tensor, event_types: Tensor | None) -> Tensor | None:
        """Return what the types add to the items [B, L, D], None for a network without types."""
        if event_types is not None:
            added: Tensor = self._demanded_types()(event_types)
            return added
        return None if self.typed is None else self.typed(torch.zeros_like(items))
