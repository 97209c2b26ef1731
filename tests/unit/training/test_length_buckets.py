"""Windows of about one length come in one batch: no padding is paid for, nothing is left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks.contracts.errors import BadRequestError
from tasks.models.gru import Gru
from tasks.models.sequence_model import SequenceModel
from tasks.models.transformer import Transformer
from tasks.training.fit import EpochInProgress, Fit
from tasks.training.length_buckets import Extent, LengthBuckets
from tasks.training.windows import Windows
from tests.unit.training.test_fit import SETTINGS

STEPS = 8
# Of 10 windows by steps needed: three in the bucket up to 2, four up to 4, three up to 8.
NEEDED = [1, 8, 3, 2, 4, 5, 2, 3, 7, 4]


def windows(needed: list[int]) -> Windows:
    """Each window has an item in each of its steps, and predicts after each."""
    place = np.arange(STEPS)
    shown = np.array([np.where(place >= STEPS - count, STEPS - place, 0) for count in needed])
    return Windows(
        items=(shown > 0).astype(np.int64),
        steps_ago=shown,
        event_types=np.zeros(shown.shape, np.int8),
        pair_offsets=np.concatenate([[0], np.cumsum(needed)]),
        pair_place=np.concatenate([np.arange(STEPS - count, STEPS) for count in needed]),
        pair_item=np.ones(sum(needed), np.int64),
        pair_type=np.full(sum(needed), -1, np.int8),
    )


def arranged(seed: int, number: int, batch_windows: int = 2) -> list[int]:
    buckets = LengthBuckets.of(windows(NEEDED), STEPS, 3)
    epoch = EpochInProgress.start(number, len(NEEDED), seed)
    order: list[int] = buckets.arranged(epoch.order, batch_windows, epoch.sampler).tolist()
    return order


def test_each_bucket_reaches_half_as_far_as_the_next():
    buckets = LengthBuckets.of(windows(NEEDED), STEPS, 3)

    assert buckets.steps.tolist() == NEEDED
    assert buckets.bucket.tolist() == [0, 2, 1, 0, 1, 2, 0, 1, 2, 1]
    assert buckets.extent(np.array([0, 3])) == Extent(steps=2, items=2)
    assert buckets.extent(np.array([0, 1])) == Extent(steps=8, items=8)


def test_a_state_that_predicts_is_shown_though_its_step_has_no_item_left():
    cut = windows([3])
    last_only = replace(cut, items=np.where(cut.steps_ago == 1, 1, 0))
    short = replace(last_only, steps_ago=np.where(last_only.items > 0, 1, 0))

    assert LengthBuckets.of(short, STEPS, 3).extent(np.array([0])) == Extent(steps=3, items=1)


def test_every_window_comes_once_in_an_order_of_the_seed_and_the_epoch():
    orders = [arranged(seed, number) for seed in (5, 6) for number in (1, 2)]

    assert all(sorted(order) == list(range(len(NEEDED))) for order in orders)
    assert [arranged(seed, number) for seed in (5, 6) for number in (1, 2)] == orders
    assert len({tuple(order) for order in orders}) == 4


def test_a_batch_has_windows_of_one_bucket_but_where_two_meet():
    of_windows = LengthBuckets.of(windows(NEEDED), STEPS, 3).bucket.tolist()
    for number in range(1, 20):
        order = arranged(5, number)
        batches = [
            {of_windows[row] for row in order[start : start + 2]} for start in range(0, 10, 2)
        ]
        # 3 + 4 + 3 windows in twos: 00 0|1 11 1|2 22.
        assert sorted(batches, key=sorted) == [{0}, {0, 1}, {1}, {1, 2}, {2}]


def test_batches_come_in_any_order_and_the_smaller_one_last():
    # 3 + 4 + 3 windows in threes: 000 111 122 and the rest, 2.
    first = {max(NEEDED[row] for row in arranged(5, number, 3)[:3]) for number in range(1, 40)}
    lasts = [arranged(5, number, 3)[-1] for number in range(1, 40)]

    assert min(first) <= 2
    assert max(first) > 4
    assert all(NEEDED[last] > 4 for last in lasts)


def a_fit(small_shop, kind: type[SequenceModel], *, typed: bool = False, **changes: float) -> Fit:
    torch.manual_seed(5)
    shape = {"hidden": 8} if kind is Gru else {"heads": 2, "event_types": typed}
    model = kind(12, steps=6, width=16, layers=1, dropout=0.0, **shape)  # type: ignore[call-arg]
    settings = replace(SETTINGS, **changes)
    return Fit(model, small_shop, small_shop.examples(1), settings)


@pytest.mark.parametrize("typed", (False, True), ids=("items", "items and types"))
def test_the_loss_of_a_batch_is_that_of_the_padded_batch(small_shop, typed):
    plain, short = (
        a_fit(small_shop, Transformer, typed=typed, next_type_weight=1.0, length_buckets=count)
        for count in (1, 2)
    )
    assert short.buckets is not None
    few = np.flatnonzero(short.buckets.steps == 3)
    assert 0 < len(few) < len(short.windows)
    assert short.buckets.extent(few) == Extent(steps=3, items=6)  # of 6 steps and 16 items

    expected, found = (fit._loss(few, torch.Generator().manual_seed(1)) for fit in (plain, short))

    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(("kind", "count"), ((Gru, 2), (Transformer, 0)))
def test_a_network_that_empty_steps_change_and_no_bucket_at_all_are_refused(
    small_shop, kind, count
):
    with pytest.raises(BadRequestError, match=f"found {count} for {kind.__name__}"):
        a_fit(small_shop, kind, length_buckets=count)
