"""Implicit alternating least squares (Hu, Koren and Volinsky, 2008), folded in at every request.

A user is solved for from the last items: (Y'Y + l2 I + c Y_h'R Y_h) u = c Y_h'r, with the factors Y of
all items, those Y_h of the history, and r = decay^(steps_ago - 1). The factors are kept whitened,
Z = Y L^-T with LL' = Y'Y + l2 I, which turns the system into (I + c Z_h'R Z_h) w = c Z_h'r and leaves
the scores Y u = Z w as they are: no matrix of all items has to be there, and few steps of conjugate
gradients solve it, with products only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tasks.models.scores import last_columns, padding_penalty, recency_weights

TINY = 1e-12


class Ials(nn.Module):
    """Scores are products of the items' whitened factors with the user solved for."""

    factors: Tensor
    decay: Tensor
    confidence: Tensor
    tie_break: Tensor
    penalty: Tensor

    def __init__(self, num_items: int, width: int, last_items: int, iterations: int) -> None:
        super().__init__()
        self.last_items = last_items
        self.iterations = iterations
        self.register_buffer("factors", torch.zeros(num_items + 1, width))
        self.register_buffer("decay", torch.tensor(0.8))  # per step
        self.register_buffer("confidence", torch.tensor(1.0))  # in an item just taken
        self.register_buffer("tie_break", torch.zeros(num_items + 1))
        self.register_buffer("penalty", padding_penalty(num_items))

    def embed(self, items: Tensor, steps_ago: Tensor) -> Tensor:
        """Return the user's whitened factors float32 [B, D], zeros without a history."""
        last, ago = last_columns(items, self.last_items), last_columns(steps_ago, self.last_items)
        trust = self.confidence * recency_weights(last, ago, self.decay)
        seen = self.factors[last]  # [B, L, D]
        return conjugate_gradients(seen, trust, self.iterations)

    def forward(self, items: Tensor, steps_ago: Tensor) -> Tensor:
        """Return scores float32 [B, I + 1] from items and steps_ago, int64 [B, L]."""
        scores = self.embed(items, steps_ago) @ self.factors.t()
        return scores + (self.tie_break + self.penalty).unsqueeze(0)


def conjugate_gradients(seen: Tensor, trust: Tensor, iterations: int) -> Tensor:
    """Return w [B, D] near the solution of (I + Z'RZ) w = Z'r, with Z [B, L, D] and r [B, L]."""
    solved = torch.zeros_like(seen[:, 0])
    left = (seen * trust.unsqueeze(-1)).sum(dim=1)
    direction, size = left, (left * left).sum(dim=1, keepdim=True)
    for _ in range(iterations):
        along = (seen @ direction.unsqueeze(-1)).squeeze(-1) * trust
        image = direction + (seen * along.unsqueeze(-1)).sum(dim=1)
        step = size / (direction * image).sum(dim=1, keepdim=True).clamp(min=TINY)
        solved = solved + step * direction
        left = left - step * image
        new_size = (left * left).sum(dim=1, keepdim=True)
        direction = left + new_size / size.clamp(min=TINY) * direction
        size = new_size
    return solved


def whitened(factors: Tensor, l2: float) -> Tensor:
    """Return Z = Y L^-T [I + 1, D] with LL' = Y'Y + l2 I, from the factors Y of all items."""
    exact = factors.to(torch.float64)
    gram = exact.t() @ exact + l2 * torch.eye(exact.shape[1], dtype=torch.float64)
    lower = torch.linalg.cholesky(gram)
    turned = torch.linalg.solve_triangular(lower, exact.t(), upper=False)
    return turned.t().to(torch.float32)
