"""NDCG@10 and HR@10 with values worked out by hand."""

from __future__ import annotations

import functools
import operator
from dataclasses import replace
from math import log2

import numpy as np
import pytest
import torch

from tasks.contracts.ranks import Ranks
from tasks.models.gru import Gru
from tasks.models.interactions import Examples, Interactions, history_batch
from tasks.models.transformer import BLOCKS, Transformer
from tasks.training.metrics import (
    evaluate,
    mean_by_user,
    rank,
    requests_for,
    seen_before,
    top_items,
    without_seen,
)


def examples(*targets: list[int], misses: tuple[int, ...] | None = None) -> Examples:
    counts = [len(some) for some in targets]
    return Examples(
        user=np.arange(len(targets), dtype=np.int32),
        end=np.ones(len(targets), dtype=np.int64),
        step=np.ones(len(targets), dtype=np.int32),
        target_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        targets=np.asarray(functools.reduce(operator.iadd, targets, []), dtype=np.int32),
        misses=np.asarray(misses or [0] * len(targets), dtype=np.int32),
    )


TOP = np.arange(1, 11, dtype=np.int64)[None]  # items 1..10, best first


@pytest.mark.parametrize(
    ("targets", "expected"),
    (
        pytest.param([1], 1.0, id="one target in the first place is perfect"),
        pytest.param([3], 1 / log2(4), id="one target in the third place gives one over log2 of 4"),
        pytest.param([10], 1 / log2(11), id="the tenth place still counts"),
        pytest.param([11], 0.0, id="the eleventh place does not"),
        pytest.param(
            [2, 1], 1.0, id="a basket whose items fill the first places is perfect in any order"
        ),
        pytest.param(
            [1, 20],
            1 / (1 + 1 / log2(3)),
            id="half a basket is measured against the best order of both",
        ),
        pytest.param(list(range(1, 15)), 1.0, id="more than ten targets can be perfect too"),
    ),
)
def test_ndcg_of_one_example(targets, expected):
    assert rank(TOP, examples(targets)).ndcg[0] == pytest.approx(expected)


def test_a_target_outside_the_vocabulary_is_a_miss_in_the_ideal():
    found = rank(TOP, examples([1], misses=(1,)))

    assert found.ndcg[0] == pytest.approx(1 / (1 + 1 / log2(3)))
    assert found.hit[0] == 1.0


def test_a_target_of_one_example_is_no_hit_of_another():
    found = rank(np.repeat(TOP, 2, axis=0), examples([1], [30]))

    assert found.hit.tolist() == [1.0, 0.0]


def test_a_user_with_many_examples_counts_once():
    found = mean_by_user(np.asarray([1.0, 0.0, 0.5]), np.asarray([4, 4, 9], dtype=np.int32))

    assert found.tolist() == [0.5, 0.5]


def test_seen_items_are_left_out_where_repeats_do_not_count():
    scores = torch.tensor([[-1e9, 3.0, 2.0, 1.0]])

    left = without_seen(scores, torch.tensor([[True, True, False, False]]))

    assert left.argsort(dim=1, descending=True)[0, :2].tolist() == [2, 3]


@pytest.mark.parametrize("shown", (1, 2, 4, 40))
def test_what_was_taken_before_all_that_the_model_is_shown_is_left_out_too(
    small_shop: Interactions, shown: int
) -> None:
    once = replace(small_shop, repeats_allowed=False)
    asked = once.examples(0).take(slice(2, 6))  # of the first user: items 1 to 4, then 1 to 5, ..
    assert asked.step.tolist() == [3, 4, 5, 6]
    items_shown = []

    def by_number(items: torch.Tensor, _ago: torch.Tensor) -> torch.Tensor:
        items_shown.append(items)
        return -torch.arange(13.0).expand(len(items), 13) - 1e9 * (torch.arange(13) == 0)

    found = top_items(by_number, once, asked, shown, unseen=True)

    assert [row[:3].tolist() for row in found] == [[5, 6, 7], [6, 7, 8], [7, 8, 9], [8, 9, 10]]
    assert items_shown[0].shape[1] == min(shown, 12)
    assert seen_before(once, asked).sum(dim=1).tolist() == [4, 5, 6, 7]


def by_last_item(items: torch.Tensor, _ago: torch.Tensor) -> torch.Tensor:
    """Score items by their distance from the last one; no two histories score alike."""
    return -(torch.arange(13)[None] - items[:, -1:]).abs().float() - 1e9 * (torch.arange(13) == 0)


@pytest.mark.parametrize("size", (2, 3, 40))
def test_ranks_that_score_shares_find_what_one_finds(small_shop: Interactions, size: int) -> None:
    wanted = small_shop.examples(1, 1)
    assert len(wanted) == 24  # of 40 ranks some have none
    shares: list[np.ndarray] = []

    class Noted(Ranks):
        def gathered(self, value):
            shares.append(value)
            return shares if len(shares) == size else nothing

    nothing = [np.zeros((len(range(place, 24, size)), 10), np.int64) for place in range(size)]

    found = [
        evaluate(by_last_item, small_shop, wanted, 4, ranks=Noted(rank=place, size=size))
        for place in range(size)
    ]

    alone = evaluate(by_last_item, small_shop, wanted, 4)
    assert [len(one) for one in shares] == [len(range(place, 24, size)) for place in range(size)]
    assert np.array_equal(found[-1].ndcg, alone.ndcg)
    assert 0 < alone.mean_ndcg < 1


@pytest.mark.parametrize("block", (*BLOCKS, "gru"))
def test_short_histories_shown_without_padding_get_the_same_answers(small_shop, block) -> None:
    torch.manual_seed(1)
    shape = {"steps": 6, "width": 16, "layers": 2, "dropout": 0.1}
    model = (
        Gru(12, hidden=8, **shape)
        if block == "gru"
        else Transformer(12, heads=2, block=block, **shape)
    )
    torch.nn.init.normal_(model.bias)
    asked = small_shop.examples(0)
    assert len(set(asked.step.tolist())) > 6  # more steps than the network has, and fewer
    model.eval()

    found = top_items(model, small_shop, asked, 16, unseen=False)

    whole = [torch.from_numpy(one) for one in history_batch(small_shop, asked, 16)]
    with torch.no_grad():
        scores = model(*whole)
    assert found.tolist() == torch.topk(scores, 10).indices.tolist()


def test_how_much_of_a_history_is_shown_is_what_the_longest_of_a_chunk_needs(small_shop) -> None:
    shown = []

    def noting(items: torch.Tensor, ago: torch.Tensor) -> torch.Tensor:
        shown.append(tuple(items.shape))
        return by_last_item(items, ago)

    top_items(noting, small_shop, small_shop.examples(0).take(slice(0, 5)), 16, unseen=False)
    top_items(noting, small_shop, small_shop.examples(1), 16, unseen=False)

    # Of the first user's steps 1 to 5 with two items each; then all, cut to 16.
    assert shown[0] == (5, 10)
    assert {width for _, width in shown[1:]} == {16}


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("far", (False, True), ids=("empty", "fifty unknown steps ago"))
def test_a_history_without_an_item_of_late_is_ranked_as_in_serving(small_shop, block, far) -> None:
    torch.manual_seed(1)
    model = Transformer(12, heads=2, block=block, steps=40, width=16, layers=2, dropout=0.0).eval()
    torch.nn.init.normal_(model.places.weight)  # as trained: what empty steps hold
    asked = small_shop.examples(0).take(slice(0, 3))
    first = asked.end.copy()
    first[0], step = small_shop.offsets[asked.user[0]], asked.step.copy()
    if far:
        first[0], step[0] = asked.end[0], 50
    asked = replace(asked, end=first, step=step)

    found = top_items(model, small_shop, asked, 16, unseen=False)

    whole = requests_for(model, small_shop, asked, 16)
    with torch.no_grad():
        scores = model(*whole)
        shown_less = model(*whole, steps=3)
    assert found.tolist() == torch.topk(scores, 10).indices.tolist()
    if not far and block != "hstu":  # whose empty steps look at nothing
        assert not torch.allclose(scores[0], shown_less[0], atol=1e-3)
