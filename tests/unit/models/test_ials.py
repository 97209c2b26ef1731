"""Users folded into factors: the normal equations, solved another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tasks.models.ials import Ials, conjugate_gradients, whitened

L2, ALPHA, DECAY = 0.7, 3.0, 0.5


@pytest.fixture
def factors() -> np.ndarray:
    """Y of padding and eight items, padding zero."""
    drawn = np.random.default_rng(2).normal(size=(9, 4))
    drawn[0] = 0
    return drawn


@pytest.fixture
def model(factors) -> Ials:
    made = Ials(8, width=4, last_items=3, iterations=8).eval()
    made.factors.copy_(whitened(torch.from_numpy(factors), L2))
    made.decay.fill_(DECAY)
    made.confidence.fill_(ALPHA)
    return made


def solved(factors: np.ndarray, history: dict[int, float]) -> np.ndarray:
    """Return the scores of Hu, Koren and Volinsky's normal equations for item -> weight."""
    taken = factors[list(history)]
    weights = ALPHA * np.asarray(list(history.values()))
    left = factors.T @ factors + L2 * np.eye(4) + (taken * weights[:, None]).T @ taken
    return factors @ np.linalg.solve(left, taken.T @ weights)


def test_scores_are_those_of_the_normal_equations(model, factors):
    scores = model(torch.tensor([[0, 2, 5]]), torch.tensor([[0, 2, 1]]))[0, 1:]

    assert scores.numpy() == pytest.approx(solved(factors, {5: 1.0, 2: DECAY})[1:], abs=1e-4)


def test_items_before_the_last_ones_are_not_looked_at(model, factors):
    scores = model(torch.tensor([[7, 2, 5, 1]]), torch.tensor([[4, 3, 2, 1]]))[0, 1:]

    expected = solved(factors, {1: 1.0, 5: DECAY, 2: DECAY**2})
    assert scores.numpy() == pytest.approx(expected[1:], abs=1e-4)


def test_without_a_history_popularity_decides(model):
    model.tie_break.copy_(torch.arange(9) * 1e-6)

    scores = model(torch.tensor([[0, 0]]), torch.tensor([[0, 0]]))

    assert torch.isfinite(scores).all()
    assert scores[0].argmax() == 8


def test_conjugate_gradients_end_at_the_solution_after_as_many_steps_as_there_are_items():
    generator = torch.Generator().manual_seed(1)
    seen = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)
    trust = torch.rand(2, 3, generator=generator, dtype=torch.float64) * 20

    found = conjugate_gradients(seen, trust, iterations=4)

    left = torch.eye(6, dtype=torch.float64) + seen.mT @ (seen * trust.unsqueeze(-1))
    right = (seen * trust.unsqueeze(-1)).sum(dim=1)
    assert torch.allclose(found, torch.linalg.solve(left, right), atol=1e-9)
