"""What a network says of the next event's type, beside the chain of types and their shares."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from tasks.contracts.json_types import Json
from tasks.models.event_types import TYPES
from tasks.models.interactions import Examples, Interactions
from tasks.models.known_steps import steps_for
from tasks.models.next_type import Floats, chain_chances, score_types, share_chances
from tasks.training.metrics import CHUNK, CPU, Scorer, requests_for


def network_chances(
    model: nn.Module,
    interactions: Interactions,
    examples: Examples,
    max_length: int,
    *,
    shown: bool = True,
    device: torch.device = CPU,
) -> Floats:
    """Return [E, T]: what the network's second head says; with `shown` false, of unknown types."""
    found = [np.zeros((0, TYPES))]
    for start in range(0, len(examples), CHUNK):
        chunk = examples.take(slice(start, start + CHUNK))
        asked = requests_for(model, interactions, chunk, max_length, device)
        with torch.no_grad():
            answer = model.next_types(*(asked if shown else asked[:2]))  # type: ignore[operator]
        found.append(answer.double().cpu().numpy())
    return np.concatenate(found)


def next_type_record(
    model: nn.Module, interactions: Interactions, examples: Examples, max_length: int
) -> dict[str, Json]:
    """Return how the network, without and with types, stands beside the chain and the shares."""
    asked = (interactions, examples, max_length)
    chances: Mapping[str, Floats] = {
        "model": network_chances(model, *asked),
        "model_without_types": network_chances(model, *asked, shown=False),
        "markov_of_types": chain_chances(*asked),
        "shares_of_types": share_chances(interactions, examples),
    }
    found = {name: score_types(one, interactions, examples) for name, one in chances.items()}
    return {name: None if one is None else one.record() for name, one in found.items()}


def without_types(model: nn.Module) -> Scorer:
    """Return the model as clients ask that send no types."""

    def scorer(items: Tensor, steps_ago: Tensor) -> Tensor:
        scores: Tensor = model(items, steps_for(model, items, steps_ago))
        return scores

    return scorer
