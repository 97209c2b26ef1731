"""NDCG and hit rate: worked out by hand, and equal to what training measures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.models.interactions import Examples
from tasks.statistics.ranking import Targets, gains, mean_by_user
from tasks.training.metrics import rank


def test_gains_of_three_requests_by_hand() -> None:
    top = np.asarray([[3, 1, 2], [4, 5, 6], [1, -1, -1]])
    targets = Targets(
        row=np.asarray([0, 0, 2]), item=np.asarray([1, 9, 7]), count=np.asarray([2, 1, 1])
    )
    found = gains(top, targets)
    # Request 0: item 1 at the second place of an ideal with both of the first two places.
    ideal = 1 + 1 / math.log2(3)
    assert found.ndcg == pytest.approx([(1 / math.log2(3)) / ideal, 0.0, 0.0])
    assert found.hit.tolist() == [1.0, 0.0, 0.0]


def test_targets_outside_the_vocabulary_make_the_ideal_larger() -> None:
    top = np.asarray([[1, 2]])
    known = Targets(row=np.asarray([0]), item=np.asarray([1]), count=np.asarray([1]))
    more = Targets(row=np.asarray([0]), item=np.asarray([1]), count=np.asarray([2]))
    assert gains(top, known).ndcg[0] == 1.0
    assert gains(top, more).ndcg[0] == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_users_without_requests_have_no_mean() -> None:
    found = mean_by_user(np.asarray([0.2, 0.4]), np.asarray([2, 2], np.int32), 3)
    assert np.isnan(found[:2]).all()
    assert found[2] == pytest.approx(0.3)


def test_training_and_evaluation_measure_the_same() -> None:
    generator = np.random.default_rng(0)
    requests = 50
    top = np.stack([generator.permutation(40)[:10] + 1 for _ in range(requests)])
    sizes = generator.integers(0, 4, requests)
    examples = Examples(
        user=np.arange(requests, dtype=np.int32),
        end=np.zeros(requests, np.int64),
        step=np.zeros(requests, np.int32),
        target_offsets=np.concatenate([[0], np.cumsum(sizes)]),
        targets=np.concatenate([generator.permutation(40)[:size] + 1 for size in sizes]).astype(
            np.int32
        ),
        misses=generator.integers(0, 2, requests).astype(np.int32),
    )
    targets = Targets(
        row=examples.target_rows(),
        item=examples.targets.astype(np.int64),
        count=examples.target_counts(),
    )
    expected, found = rank(top, examples), gains(top, targets)
    np.testing.assert_allclose(found.ndcg, expected.ndcg)
    np.testing.assert_array_equal(found.hit, expected.hit)
