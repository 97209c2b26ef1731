"""A user's profile in torch: what is served under `profile`, and what networks are given of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tasks.contracts.columns import EVENT_TYPES
from tasks.models.profile_definition import (
    LAST_TYPES,
    RECENT_DAYS,
    UNKNOWN_DAYS,
    ProfileDefinition,
)
from tasks.models.scores import last_columns, sum_by_item

NEVER_DAYS = 1e9


class UserProfile(nn.Module):
    """The profile of `profile_definition.profiles`, as a module that torch.export can read."""

    next_types: Tensor

    def __init__(self, definition: ProfileDefinition) -> None:
        super().__init__()
        self.attributes = tuple(definition.attributes)
        self.names = definition.outputs
        self.prior_events = definition.prior_events
        for name, attribute in definition.attributes.items():
            self.register_buffer(f"{name}_codes", torch.from_numpy(attribute.codes.copy()))
            self.register_buffer(f"{name}_shares", torch.from_numpy(attribute.shares.copy()))
        self.register_buffer("next_types", torch.from_numpy(definition.next_types.copy()))

    def forward(
        self,
        items: Tensor,
        steps_ago: Tensor,
        event_types: Tensor,
        days_ago: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the outputs in the order of `names`; all inputs [B, L] (docs/profiles.md)."""
        known = items > 0
        events = known.to(torch.int64).sum(dim=1)
        steps = (steps_ago * known.to(torch.int64)).amax(dim=1)
        shares = [self._shares(name, items, events) for name in self.attributes]
        types = last_columns(event_types * known.to(torch.int64), LAST_TYPES)
        place = types[:, 0] * (len(EVENT_TYPES) + 1) + types[:, 1]
        found = (events, steps, *shares, self.next_types.index_select(0, place))
        return found if days_ago is None else (*found, *_by_days(known, days_ago))

    def _shares(self, name: str, items: Tensor, events: Tensor) -> Tensor:
        codes, prior = self.get_buffer(f"{name}_codes"), self.get_buffer(f"{name}_shares")
        known = (items > 0).to(torch.float32)
        counts = sum_by_item(codes[items].to(torch.int64), known, len(prior) - 1)
        whole = events.to(torch.float32).unsqueeze(1) + self.prior_events
        return ((counts + self.prior_events * prior.unsqueeze(0)) / whole)[:, 1:]


def _by_days(known: Tensor, days_ago: Tensor) -> tuple[Tensor, Tensor]:
    dated = known & (days_ago >= 0)
    latest = torch.where(dated, days_ago, torch.full_like(days_ago, NEVER_DAYS)).amin(dim=1)
    since = torch.where(latest < NEVER_DAYS, latest, torch.full_like(latest, UNKNOWN_DAYS))
    counts = torch.stack(
        [(dated & (days_ago <= days)).to(torch.int64).sum(dim=1) for days in RECENT_DAYS], dim=1
    )
    undated = (known.any(dim=1) & ~dated.any(dim=1)).unsqueeze(1)
    return since, torch.where(undated, torch.full_like(counts, -1), counts)


class ProfileInputs(nn.Module):
    """The shares of a profile, after each step of a window, as an input of a network [B, S, D].

    They are the shares of `UserProfile`, over the steps of the window, less those of all users: a cold user adds
    nothing. The layer begins at zero, so that training starts from the network without profiles.
    """

    def __init__(
        self, num_items: int, labels: Mapping[str, int], prior_events: float, width: int
    ) -> None:
        super().__init__()
        self.attributes, self.prior_events = tuple(labels), prior_events
        for name, count in labels.items():
            self.register_buffer(f"{name}_codes", torch.zeros(num_items + 1, dtype=torch.int16))
            self.register_buffer(f"{name}_shares", torch.zeros(count + 1))
        self.mix = nn.Linear(sum(labels.values()), width, bias=False)
        nn.init.zeros_(self.mix.weight)

    def define(self, definition: ProfileDefinition) -> None:
        """Take labels and shares of a definition with the same attributes."""
        for name in self.attributes:
            attribute = definition.attributes[name]
            self.get_buffer(f"{name}_codes").copy_(torch.from_numpy(attribute.codes.copy()))
            self.get_buffer(f"{name}_shares").copy_(torch.from_numpy(attribute.shares.copy()))

    def shares(self, name: str, items: Tensor, inside: Tensor) -> Tensor:
        """Return the shares of each label [B, S, A] after each step; `inside` [B, S, L] places items."""
        codes, prior = self.get_buffer(f"{name}_codes"), self.get_buffer(f"{name}_shares")
        labels = torch.arange(1, len(prior), device=items.device)
        labelled = (codes[items].to(torch.int64).unsqueeze(2) == labels).to(torch.float32)
        # Sums up to each step as a product: a running sum is not deterministic on CUDA.
        steps = inside.shape[1]
        so_far = torch.ones(steps, steps, device=items.device).tril() @ inside
        counts, events = so_far @ labelled, so_far.sum(dim=2, keepdim=True)
        return (counts + self.prior_events * prior[1:]) / (events + self.prior_events)

    def forward(self, items: Tensor, inside: Tensor) -> Tensor:
        """Return [B, S, D] from items int64 [B, L] and their places float32 [B, S, L]."""
        own = [
            self.shares(name, items, inside) - self.get_buffer(f"{name}_shares")[1:]
            for name in self.attributes
        ]
        mixed: Tensor = self.mix(torch.cat(own, dim=2))
        return mixed
