"""What a network knows and says of types: an embedding per event, and the type of the next one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tasks.models.event_types import TYPES


class TypedEvents(nn.Module):
    """A row per code of `models.event_types` is added to an event's item; a head reads states."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.types = nn.Embedding(TYPES + 1, width)
        self.head = nn.Linear(width, TYPES)
        nn.init.normal_(self.types.weight, std=0.02)

    def begin_at(self, counts: Tensor) -> None:
        """Let the head begin near the shares of `counts` [T]."""
        shares = (counts + 1) / (counts + 1).sum()
        with torch.no_grad():
            self.head.bias.copy_(torch.log(shares))

    def forward(self, event_types: Tensor) -> Tensor:
        """Return what is added to each event's item, [B, L, D], of codes int64 [B, L]."""
        added: Tensor = self.types(event_types)
        return added

    def logits(self, states: Tensor) -> Tensor:
        """Return [.., T]: log-probabilities, but for a constant, of the next event's type."""
        found: Tensor = self.head(states)
        return found
