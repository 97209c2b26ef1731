"""Losses over P pairs of a state and the item that came next.

Sampled softmax with the logQ correction (Bengio and Senecal, 2008), the full softmax, and generalised binary
cross-entropy, gBCE (Petrov and Macdonald, gSASRec, 2023).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# Of the scores that the full softmax holds at once; with what is made of them, up to three times as much is held.
# At most 512 MiB: MovieLens-1M in one piece (128 x 200 states x 3,416 items, 334 MiB), 200,000 items in 40.
CHUNK_BYTES = 512 * 2**20

Loss = Literal["sampled_softmax", "softmax", "gbce"]


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


def softmax(
    *,
    states: Tensor,
    rows: Tensor,
    targets: Tensor,
    table: Tensor,
    bias: Tensor,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """Return the mean of -log p(target), p over the items 1 .. I, a scalar; shapes as above.

    Scores [S, I] of more than `chunk_bytes` are made for some states at a time, and made again in the
    backward pass: memory does not grow with S x I.
    """
    chunk = max(1, chunk_bytes // max(1, (len(table) - 1) * states.element_size()))  # states
    if len(states) <= chunk:
        return _surprises(states, rows, targets, table, bias).mean()
    order = torch.argsort(rows, stable=True)  # of the pairs, by state
    starts = torch.arange(0, len(states), chunk, device=rows.device)
    bounds = [*torch.searchsorted(rows[order], starts).tolist(), len(rows)]
    total = states.new_zeros(())
    for place, (first, last) in enumerate(pairwise(bounds)):
        start, pairs = place * chunk, order[first:last]
        asked = states[start : start + chunk], rows[pairs] - start, targets[pairs], table, bias
        found = checkpoint(_surprises, *asked, use_reentrant=False, preserve_rng_state=False)
        total = total + found.sum()
    return total / len(rows)


def _surprises(
    states: Tensor, rows: Tensor, targets: Tensor, table: Tensor, bias: Tensor
) -> Tensor:
    """Return -log p(target) [P]."""
    scores = states @ table[1:].t() + bias[1:]  # [S, I]
    whole = torch.logsumexp(scores, dim=1)
    return whole[rows] - scores[rows, targets - 1]


def gbce_power(negatives: int, num_items: int, calibration: float) -> float:
    """Return gBCE's beta, the power of a positive's probability.

    `calibration` is t of the paper: 0 is plain binary cross-entropy, 1 gives the probabilities of the full one.
    """
    rate = min(1.0, negatives / max(num_items - 1, 1))  # alpha, the share of items that are drawn
    return rate * (calibration * (1 - 1 / rate) + 1 / rate)


def gbce(
    *,
    states: Tensor,
    rows: Tensor,
    targets: Tensor,
    negatives: Tensor,
    table: Tensor,
    bias: Tensor,
    power: float,
) -> Tensor:
    """Return the mean over P pairs of gBCE, a scalar; `negatives` [N] are drawn evenly from all items.

    A target among its own negatives is left out, as the paper draws them from the other items. Shapes as above.
    """
    scores = states @ table[negatives].t() + bias[negatives]  # [S, N]
    others = functional.softplus(scores)  # -log(1 - sigmoid)
    own = negatives.unsqueeze(0) == targets.unsqueeze(1)  # [P, N]
    negative = others.sum(dim=1)[rows] - (others[rows] * own).sum(dim=1)
    positive = (states[rows] * table[targets]).sum(dim=1) + bias[targets]
    return (power * functional.softplus(-positive) + negative).mean()
