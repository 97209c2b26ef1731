"""What networks over steps (baskets or single events) share: input, item table, scores.

A step is the scaled sum of its items' embeddings, so that the order within a basket carries
nothing. The table that is read is the table that scores (tied), with a bias per item. Steps are numbered as in
training, without those that hold unknown items only (`known_steps`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from tasks.models.scores import padding_penalty

SMALL = 1e-12  # under a root, so that a zero row has a gradient


class SequenceModel(nn.Module, ABC):
    """Scores are products of the last step's state with the item table, plus a bias per item.

    With a `temperature` they are cosines divided by it, plus the bias (Zhai et al., HSTU, 2024).
    """

    penalty: Tensor
    ages: Tensor
    counts_known_steps: ClassVar[bool] = True
    # Whether steps without items change states after an item. A state with no item inside may change with
    # their number in any network: attention, with nothing else to look at, looks at all of them.
    sees_empty_steps: ClassVar[bool] = False

    def __init__(
        self,
        num_items: int,
        *,
        steps: int,
        width: int,
        dropout: float,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        self.steps, self.temperature = steps, temperature
        self.items = nn.Embedding(num_items + 1, width)
        self.bias = nn.Parameter(torch.zeros(num_items + 1))
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("penalty", padding_penalty(num_items))
        self.register_buffer("ages", torch.arange(steps, 0, -1))

    @abstractmethod
    def states(self, items: Tensor, steps_ago: Tensor, *, steps: int | None = None) -> Tensor:
        """Return [B, S, D]: the state after each of the last S `steps` (all of them), right-aligned."""

    def places_of(self, items: Tensor, steps_ago: Tensor, *, steps: int | None = None) -> Tensor:
        """Return float32 [B, S, L]: 1 where an item of the history was taken in a step."""
        known = (items > 0).to(torch.float32)
        ages = self.ages if steps is None else self.ages[-steps:]
        inside = (steps_ago.unsqueeze(1) == ages.view(1, -1, 1)).to(torch.float32)
        return inside * known.unsqueeze(1)

    def inputs(
        self,
        items: Tensor,
        steps_ago: Tensor,
        added: Tensor | None = None,
        *,
        steps: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the steps' embeddings [B, S, D] and their numbers of known items [B, S, 1].

        `added` [B, L, D] is what else is known of each event, in the places of the items.
        """
        inside = self.places_of(items, steps_ago, steps=steps)
        counts = inside.sum(dim=2, keepdim=True)
        rows = self.items(items) if added is None else self.items(items) + added
        return inside @ rows / counts.clamp(min=1.0).sqrt(), counts

    def embed(self, items: Tensor, steps_ago: Tensor, *, steps: int | None = None) -> Tensor:
        """Return the user's state float32 [B, D]."""
        return self.states(items, steps_ago, steps=steps)[:, -1]

    def scored(self, states: Tensor) -> Tensor:
        """Return `states` [.., D] as they are multiplied with `scoring_table`."""
        return states if self.temperature is None else _normed(states) / self.temperature

    def scoring_table(self) -> Tensor:
        """Return [I + 1, D], what states are multiplied with."""
        return self.items.weight if self.temperature is None else _normed(self.items.weight)

    def forward(self, items: Tensor, steps_ago: Tensor, *, steps: int | None = None) -> Tensor:
        """Return scores float32 [B, I + 1] from items and steps_ago, int64 [B, L]; of the last `steps` only."""
        return self.scores_of(self.embed(items, steps_ago, steps=steps))

    def scores_of(self, embedding: Tensor) -> Tensor:
        """Return scores float32 [B, I + 1] of users' states [B, D]."""
        state = self.scored(embedding)
        return state @ self.scoring_table().t() + (self.bias + self.penalty).unsqueeze(0)


def _normed(rows: Tensor) -> Tensor:
    """Return `rows` [.., D] with length 1 each."""
    return rows * torch.rsqrt((rows * rows).sum(dim=-1, keepdim=True) + SMALL)
