"""Who took both: cosines and regressions on three baskets, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from tasks.models.co_occurrence import (
    CosineForm,
    cosine_weights,
    ease_neighbours,
    users_in_common,
)

MILK, BREAD, EGGS = 1, 2, 3


def as_matrix(found: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    columns, values = found
    matrix = np.zeros((len(columns), len(columns)))
    np.put_along_axis(matrix, columns, values, axis=1)
    return matrix


def test_a_user_counts_once_however_often_an_item_was_taken_and_select_is_not_seen(three_baskets):
    common = users_in_common(three_baskets, max_items=10).toarray()

    # Ann took all three, milk twice; Bob took eggs.
    assert common[1:, 1:].tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 2]]
    assert common[0].tolist() == [0, 0, 0, 0]


def test_only_the_most_taken_items_have_users_in_common(three_baskets):
    common = users_in_common(three_baskets, max_items=2).toarray()

    assert common[1:, 1:].tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 2]]


def test_the_cosine_divides_by_the_roots_of_both_numbers_of_users(three_baskets):
    common = users_in_common(three_baskets, max_items=10)
    form = CosineForm(power=0.5, shrinkage=0.0, sharpness=1.0)

    weights = cosine_weights(common, form).toarray()

    assert weights[MILK, EGGS] == weights[EGGS, MILK] == pytest.approx(1 / 2**0.5)
    assert weights[MILK, BREAD] == pytest.approx(1.0)
    assert np.diag(weights).tolist() == [0, 0, 0, 0]


def test_shrinkage_is_added_to_the_power_of_the_product_and_all_is_sharpened(three_baskets):
    common = users_in_common(three_baskets, max_items=10)
    form = CosineForm(power=1.0, shrinkage=2.0, sharpness=3.0)

    weights = cosine_weights(common, form).toarray()

    assert weights[EGGS, MILK] == pytest.approx((1 / (1 * 2 + 2)) ** 3)
    assert weights[MILK, BREAD] == pytest.approx((1 / (1 * 1 + 2)) ** 3)


def test_with_two_items_ease_is_the_ridge_regression_of_one_on_the_other(three_baskets):
    common = users_in_common(three_baskets, max_items=2)

    weights = as_matrix(ease_neighbours(common, l2=1.0, neighbours=2))

    # One user of milk, two of eggs, one of both: 1 / (1 + l2) and 1 / (2 + l2).
    assert weights[MILK, EGGS] == pytest.approx(1 / 2)
    assert weights[EGGS, MILK] == pytest.approx(1 / 3)
    assert weights[BREAD].tolist() == [0, 0, 0, 0]


def test_every_column_of_ease_is_the_ridge_regression_of_that_item_on_all_others():
    generator = np.random.default_rng(5)
    taken = (generator.random((40, 7)) < 0.4).astype(np.float64)
    taken[:, 0] = 0  # padding
    taken[:, 2] *= 1 - taken[:, 1]  # nobody takes both 1 and 2
    common = sp.csr_matrix((taken.T @ taken).astype(np.float32))

    weights = as_matrix(ease_neighbours(common, l2=3.0, neighbours=6))

    for item in range(1, 7):
        others = [other for other in range(1, 7) if other != item]
        x = taken[:, others]
        ridge = np.linalg.solve(x.T @ x + 3.0 * np.eye(5), x.T @ taken[:, item])
        assert weights[others, item] == pytest.approx(ridge, abs=1e-5)
    assert (weights < 0).any()


def test_ease_keeps_the_weights_of_largest_size_whatever_their_sign():
    # Everybody takes 3 and 4, and either 1 or 2: who took 2 will not take 1.
    taken = np.asarray([[0, 1, 0, 1, 1]] * 4 + [[0, 0, 1, 1, 1]] * 4)
    common = sp.csr_matrix((taken.T @ taken).astype(np.float32))

    whole = as_matrix(ease_neighbours(common, l2=0.1, neighbours=4))
    columns, values = ease_neighbours(common, l2=0.1, neighbours=1)

    for row in range(1, 5):
        best = int(np.argmax(np.abs(whole[row])))
        assert (columns[row, 0], values[row, 0]) == (best, pytest.approx(whole[row, best]))
    assert columns[2].tolist() == [1]
    assert values[2, 0] < 0


def test_without_anything_taken_there_are_no_neighbours():
    columns, values = ease_neighbours(sp.csr_matrix((4, 4)), l2=1.0, neighbours=2)

    assert columns.tolist() == np.zeros((4, 2)).tolist()
    assert values.tolist() == np.zeros((4, 2)).tolist()
