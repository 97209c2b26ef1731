"""Golden requests for users' profiles, and torch's answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.compression.golden_requests import choose_examples
from tasks.models.interactions import Interactions
from tasks.models.profile_definition import (
    UNKNOWN_DAYS,
    ProfileDefinition,
    ProfileRequests,
    profile_requests,
    request_moments,
)
from tasks.models.user_profile import UserProfile

# What torch.export is shown: any batch and length are as good.
_SHOWN: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "items": torch.int64,
        "steps_ago": torch.int64,
        "event_types": torch.int64,
        "days_ago": torch.float32,
    }
)


def shown_inputs(definition: ProfileDefinition) -> dict[str, Tensor]:
    """Return inputs of a profile, by name, to export its graph with."""
    return {name: torch.ones((3, 7), dtype=_SHOWN[name]) for name in definition.inputs}


def profile_answers(
    model: UserProfile, definition: ProfileDefinition, requests: ProfileRequests
) -> dict[str, NDArray[Any]]:
    """Return torch's profile of each request, by the names of the outputs."""
    given = [torch.from_numpy(array) for array in requests.given(definition.inputs).values()]
    with torch.no_grad():
        found = model(*given)
    return {name: value.numpy() for name, value in zip(model.names, found, strict=True)}


def golden_profile_requests(
    interactions: Interactions, *, wanted: int, max_length: int, seed: int
) -> ProfileRequests:
    """Return the users of the golden requests, then requests nobody made, a cold user's first."""
    found = [
        profile_requests(interactions, chosen, max_length, request_moments(interactions, chosen))
        for chosen in choose_examples(interactions, wanted, seed)
    ]
    found.append(_edges(interactions, max_length))
    return ProfileRequests(
        **{
            item.name: np.concatenate([getattr(one, item.name) for one in found])
            for item in fields(ProfileRequests)
        }
    )


def _edges(interactions: Interactions, max_length: int) -> ProfileRequests:
    """Return a cold user, one event of which nothing is known, and one item over and over."""
    items, ago, types = (np.zeros((3, max_length), np.int64) for _ in range(3))
    days = np.full((3, max_length), UNKNOWN_DAYS, np.float32)
    items[1, -1], ago[1, -1] = 1, 1
    items[2], ago[2] = interactions.num_items, np.arange(max_length, 0, -1)
    types[2], days[2] = 1 + np.arange(max_length) % 4, np.arange(max_length, 0, -1)
    return ProfileRequests(items=items, steps_ago=ago, event_types=types, days_ago=days)
