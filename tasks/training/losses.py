"""Sampled softmax with the logQ correction (Bengio and Senecal, 2008)."""

from __future__ import annotations

import torch
from torch import Tensor


def sampled_softmax(
    *,
    states: Tensor,
    rows: Tensor,
    targets: Tensor,
    negatives: Tensor,
    table: Tensor,
    bias: Tensor,
    log_q: Tensor,
) -> Tensor:
    """Return the mean loss of P pairs (state, target item), a scalar.

    states [S, D]; rows [P] picks a state for each of targets [P]; negatives [N] are shared by all
    pairs, a target among them included, and drawn with probabilities exp(log_q) [I + 1]; table [I + 1, D]; bias [I + 1].
    """
    negative = states @ table[negatives].t() + (bias - log_q)[negatives]  # [S, N]
    others = torch.logsumexp(negative, dim=1)  # once per state, however many targets it has
    positive = (states[rows] * table[targets]).sum(dim=1) + (bias - log_q)[targets]
    return (torch.logaddexp(others[rows], positive) - positive).mean()
