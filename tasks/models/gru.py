"""Recurrent network over steps: GRU4Rec (Hidasi et al., 2016) with a tied item table."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor, nn

from tasks.models.sequence_model import SequenceModel


class Gru(SequenceModel):
    """States are those of the last recurrent layer, brought back to the width of the table."""

    sees_empty_steps: ClassVar[bool] = True  # the state moves in each step

    def __init__(
        self,
        num_items: int,
        *,
        steps: int,
        width: int,
        hidden: int,
        layers: int,
        dropout: float,
        temperature: float | None = None,
    ) -> None:
        super().__init__(
            num_items, steps=steps, width=width, dropout=dropout, temperature=temperature
        )
        between = dropout if layers > 1 else 0.0
        self.recurrent = nn.GRU(width, hidden, layers, batch_first=True, dropout=between)
        self.out = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.items.weight, std=1 / math.sqrt(width))

    def states(self, items: Tensor, steps_ago: Tensor, *, steps: int | None = None) -> Tensor:
        """Return [B, S, D]: the state after each of the last S `steps` (all of them), right-aligned."""
        x, _ = self.inputs(items, steps_ago, steps=steps)
        hidden, _ = self.recurrent(self.dropout(x))
        return self.norm(self.out(self.dropout(hidden)))

    def embed(self, items: Tensor, steps_ago: Tensor, *, steps: int | None = None) -> Tensor:
        """Return the user's state float32 [B, D]; no other state is brought back."""
        x, _ = self.inputs(items, steps_ago, steps=steps)
        _, last = self.recurrent(self.dropout(x))
        return self.norm(self.out(self.dropout(last[-1])))
