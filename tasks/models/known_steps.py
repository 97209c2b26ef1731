"""Steps as networks count them: those with a known item only, as in the windows that they are trained on."""

from __future__ import annotations

import torch
from torch import Tensor


def counts_known_steps(model: object) -> bool:
    """Say whether a model is asked with `without_gaps`; others count steps of unknown items too."""
    return bool(getattr(model, "counts_known_steps", False))


def steps_for(model: object, items: Tensor, steps_ago: Tensor) -> Tensor:
    """Return `steps_ago` of a request as the model counts them, int64 [B, L]."""
    return without_gaps(items, steps_ago) if counts_known_steps(model) else steps_ago


def without_gaps(items: Tensor, steps_ago: Tensor) -> Tensor:
    """Return int64 [B, L]: the steps with a known item numbered 1, 2, .. from the latest; 0 on padding.

    Items of one step stay in one, whatever their order. `bundling.signatures` says the same in TensorFlow.
    """
    ago = torch.where(items > 0, steps_ago, torch.zeros_like(steps_ago))
    ordered, places = torch.sort(ago, dim=1)
    # A slice from the second column on would make torch.export demand two columns.
    before = (torch.arange(ago.shape[1], device=ago.device) - 1).clamp(min=0)
    changes = (ordered != ordered.index_select(1, before)).to(torch.int64)
    numbers = torch.cumsum(changes, dim=1) + (ordered[:, :1] > 0).to(torch.int64)
    return torch.zeros_like(ago).scatter(1, places, numbers)
