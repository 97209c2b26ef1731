"""A blend inside one graph: each part's scores become shares, the shares are weighted and added."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tasks.models.item_neighbours import ItemNeighbours
from tasks.models.known_steps import without_gaps
from tasks.models.personal_frequency import PersonalFrequency
from tasks.models.scores import padding_penalty, share
from tasks.models.transformer import Transformer

PARTS = ("frequency", "markov", "transformer", "popularity")


class BlendedRecommender(nn.Module):
    """Scores are mixtures of four distributions over items; weights come from the select period.

    The parts that are counted see every step, the network those with known items.
    """

    popularity: Tensor
    weights: Tensor
    penalty: Tensor

    def __init__(
        self,
        num_items: int,
        frequency: PersonalFrequency,
        markov: ItemNeighbours,
        transformer: Transformer,
    ) -> None:
        super().__init__()
        self.frequency = frequency
        self.markov = markov
        self.transformer = transformer
        self.register_buffer("popularity", torch.zeros(num_items + 1))  # shares
        self.register_buffer("weights", torch.ones(len(PARTS)))
        self.register_buffer("penalty", padding_penalty(num_items))

    @property
    def takes_event_types(self) -> bool:
        """Say whether the network takes the types of events, and says the next one's."""
        return self.transformer.takes_event_types

    def parts(
        self, items: Tensor, steps_ago: Tensor, event_types: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return the distributions in the order of PARTS, each [B, I + 1]."""
        frequency = share(self.frequency.counts(items, steps_ago))
        markov = share(self.markov.neighbour_sums(items, steps_ago))
        transformer = torch.softmax(
            self.transformer(items, without_gaps(items, steps_ago), event_types), dim=1
        )
        popularity = torch.zeros_like(frequency) + self.popularity.unsqueeze(0)
        return frequency, markov, transformer, popularity

    def embed(self, items: Tensor, steps_ago: Tensor, event_types: Tensor | None = None) -> Tensor:
        """Return the user's state float32 [B, D]."""
        return self.transformer.embed(items, without_gaps(items, steps_ago), event_types)

    def next_types(
        self, items: Tensor, steps_ago: Tensor, event_types: Tensor | None = None
    ) -> Tensor:
        """Return float32 [B, T]: the network's chances of the next event's type."""
        return self.transformer.next_types(items, without_gaps(items, steps_ago), event_types)

    def forward(
        self, items: Tensor, steps_ago: Tensor, event_types: Tensor | None = None
    ) -> Tensor:
        """Return scores float32 [B, I + 1] from items, steps_ago and perhaps types, int64 [B, L]."""
        frequency, markov, transformer, popularity = self.parts(items, steps_ago, event_types)
        mixed = (
            frequency * self.weights[0]
            + markov * self.weights[1]
            + transformer * self.weights[2]
            + popularity * self.weights[3]
        )
        return mixed + self.penalty.unsqueeze(0)
