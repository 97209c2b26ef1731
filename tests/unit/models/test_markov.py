"""The windowed chain on three baskets, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tasks.models.markov import nearest, transition_counts

MILK, BREAD, EGGS = 1, 2, 3


def test_a_pair_of_baskets_at_distance_d_adds_one_over_d_for_every_pair_of_items(three_baskets):
    counts = transition_counts(three_baskets, window=10).toarray()

    expected = np.zeros((4, 4))
    expected[MILK, EGGS] = expected[BREAD, EGGS] = 1  # baskets 0 -> 1
    expected[EGGS, MILK] = 1  # baskets 1 -> 2
    expected[MILK, MILK] = expected[BREAD, MILK] = 1 / 2  # baskets 0 -> 2
    assert counts == pytest.approx(expected)


def test_a_window_of_one_sees_neighbouring_baskets_only(three_baskets):
    counts = transition_counts(three_baskets, window=1).toarray()

    assert counts[MILK, MILK] == 0
    assert counts[MILK, EGGS] == 1


def test_nothing_is_counted_after_the_train_period_or_across_users(three_baskets):
    everything = replace(three_baskets, period=np.zeros_like(three_baskets.period))

    inside = transition_counts(three_baskets, window=10).toarray()
    leaking = transition_counts(everything, window=10).toarray()

    assert inside[:, BREAD].sum() == 0  # bread was bought again in select only
    assert leaking[MILK, BREAD] == pytest.approx(1 + 1 / 3)
    assert inside[EGGS, EGGS] == 0  # Bob's eggs do not follow Ann's


def test_rows_are_divided_by_the_root_of_their_sum_and_columns_by_popularity_to_a_quarter(
    three_baskets,
):
    counts = transition_counts(three_baskets, window=10)
    popularity = np.asarray([0.0, 16.0, 1.0, 81.0])

    columns, values = nearest(counts, popularity, neighbours=2, popularity_power=0.25)

    milk = {int(c): float(v) for c, v in zip(columns[MILK], values[MILK], strict=True)}
    assert milk == pytest.approx({EGGS: 1 / 1.5**0.5 / 3, MILK: 0.5 / 1.5**0.5 / 2})
    assert columns[EGGS].tolist() == [MILK, 0]
    assert values[EGGS].tolist() == pytest.approx([1 / 2, 0.0])


def test_only_the_largest_neighbours_are_kept(three_baskets):
    counts = transition_counts(three_baskets, window=10)

    columns, _ = nearest(counts, np.ones(4), neighbours=1, popularity_power=0.25)

    assert columns[MILK].tolist() == [EGGS]
