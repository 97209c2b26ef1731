"""Expected values are worked out by hand from the definitions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.statistics.compared_rankings import (
    overlap_at,
    rank_biased_overlap,
    stability_index,
)

ABC = ["a", "b", "c"]
rankings = st.lists(st.sampled_from("abcdefghij"), unique=True, max_size=10)


@pytest.mark.parametrize(
    ("first", "second", "depth", "expected"),
    (
        pytest.param("abc", "abc", 3, 1.0, id="equal rankings"),
        pytest.param("abc", "cba", 3, 1.0, id="the order within does not count"),
        pytest.param("abc", "cba", 1, 0.0, id="but what is within does"),
        pytest.param("abcd", "abxy", 4, 0.5, id="half in common"),
        pytest.param("ab", "abcd", 4, 0.5, id="what the shorter one lacks is a difference"),
        pytest.param("ab", "ab", 10, 1.0, id="two short rankings that are equal"),
        pytest.param("", "ab", 10, 0.0, id="nothing against something"),
        pytest.param("", "", 10, 1.0, id="nothing against nothing"),
    ),
)
def test_overlap(first: str, second: str, depth: int, expected: float) -> None:
    assert overlap_at(list(first), list(second), depth) == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    (
        pytest.param("abc", "abc", 1.0, id="equal"),
        pytest.param("abc", "xyz", 0.0, id="disjoint"),
        # A_1 = 1, A_2 = 1/2, A_3 = 1: .9**3 + .1/.9 * (.9 + .81/2 + .729) = .955
        pytest.param("abc", "acb", 0.955, id="second and third exchanged"),
        # A_1 = 0, A_2 = 1, A_3 = 1: .729 + .1/.9 * (.81 + .729) = .9
        pytest.param("abc", "bac", 0.9, id="the first two exchanged cost more"),
        # s = 1, l = 2, X_1 = 1, X_2 = 1: .1/.9 * (.9 + .81/2 + 1*(1)/(2)*.81) + ((1-1)/2 + 1)*.81
        #   = .1/.9 * 1.71 + .81 = 1: what the short one would say further down is extrapolated
        pytest.param("a", "ab", 1.0, id="a prefix, extrapolated"),
        # s = 1, l = 2, X_1 = 0, X_2 = 0: nothing agrees
        pytest.param("a", "bc", 0.0, id="of different length, disjoint"),
        # s = 1, l = 2, X_1 = 0, X_2 = 1: .1/.9 * (0 + .81/2) + (1/2 + 0)*.81 = .045 + .405 = .45
        pytest.param("a", "ba", 0.45, id="of different length, found one deeper"),
        pytest.param("", "", 1.0, id="nothing against nothing"),
        pytest.param("", "a", 0.0, id="nothing against something"),
    ),
)
def test_rank_biased_overlap(first: str, second: str, expected: float) -> None:
    assert rank_biased_overlap(list(first), list(second), 0.9) == pytest.approx(expected, abs=1e-12)


@given(rankings, rankings, st.floats(0.1, 0.99))
def test_rank_biased_overlap_is_symmetric_and_between_0_and_1(
    first: list[str], second: list[str], persistence: float
) -> None:
    found = rank_biased_overlap(first, second, persistence)
    assert found == pytest.approx(rank_biased_overlap(second, first, persistence))
    assert -1e-9 <= found <= 1 + 1e-9


@given(rankings, st.floats(0.1, 0.99))
def test_a_ranking_agrees_with_itself(ranking: list[str], persistence: float) -> None:
    assert rank_biased_overlap(ranking, ranking, persistence) == pytest.approx(1.0)


def test_the_stability_index_by_hand() -> None:
    before = [1.0] * 50 + [3.0] * 50  # two bins, split at 2: half and half
    after = [1.0] * 90 + [3.0] * 10
    expected = 0.4 * math.log(0.9 / 0.5) - 0.4 * math.log(0.1 / 0.5)  # .8789
    assert stability_index(before, after, bins=2) == pytest.approx(expected)
    assert stability_index(before, before, bins=2) == 0.0


def test_scores_that_moved_away_are_a_large_but_finite_change() -> None:
    before = [number / 100 for number in range(100)]
    assert 5 < stability_index(before, [value + 10 for value in before]) < 100
    assert stability_index(before, list(reversed(before))) == pytest.approx(0.0)


def test_without_scores_there_is_no_index() -> None:
    assert math.isnan(stability_index([], [1.0]))
    assert math.isnan(stability_index([1.0], []))
