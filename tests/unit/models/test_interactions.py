"""The in-memory shape of features, on tables small enough to work out by hand."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from tasks.contracts.columns import Period
from tasks.contracts.errors import BadRequestError
from tasks.models.interactions import EventRows, Examples, Interactions, history_batch

TRAIN, SELECT, GATE, CANARY = Period


def rows(**changes: object) -> EventRows:
    """Ann buys {milk, bread}, {milk, ?}, {?}, {eggs, milk}; Bob buys {eggs} once, in gate."""
    table = EventRows(
        item_ids=np.asarray(["milk", "bread", "eggs"]),
        user_ids=np.asarray(["ann", "bob"]),
        user=np.asarray([0, 0, 0, 0, 0, 0, 0, 1]),
        item=np.asarray([1, 2, 0, 1, 0, 1, 3, 3]),
        basket=np.asarray([0, 0, 2, 2, 4, 5, 5, 0]),
        event_type=np.full(8, 3),
        time=np.asarray([10, 10, 20, 20, 30, 40, 40, 40]),
        period=np.asarray([TRAIN, TRAIN, TRAIN, TRAIN, SELECT, GATE, GATE, GATE]),
        repeats_allowed=True,
        baskets=True,
        order_only=False,
    )
    return replace(table, **changes)


@pytest.fixture
def ann_and_bob() -> Interactions:
    return Interactions.from_rows(rows())


def targets(examples: Examples, row: int) -> set[int]:
    start, end = examples.target_offsets[row : row + 2]
    return set(examples.targets[start:end].tolist())


def test_unknown_items_leave_the_history_but_their_steps_still_count(ann_and_bob):
    assert ann_and_bob.items.tolist() == [1, 2, 1, 1, 3, 3]
    assert ann_and_bob.basket.tolist() == [0, 0, 1, 3, 3, 0]
    assert ann_and_bob.offsets.tolist() == [0, 5, 6]
    assert ann_and_bob.step_misses.tolist() == [0, 1, 1, 0, 0]


def test_an_example_has_a_whole_basket_as_its_target(ann_and_bob):
    train = ann_and_bob.examples(TRAIN)
    assert train.user.tolist() == [0]
    assert (train.end.tolist(), train.step.tolist()) == ([2], [1])
    assert targets(train, 0) == {1}
    assert train.misses.tolist() == [1]
    assert train.target_counts().tolist() == [2]


def test_a_basket_of_unknown_items_only_is_an_example_that_nobody_can_hit(ann_and_bob):
    select = ann_and_bob.examples(SELECT)
    assert len(select) == 1
    assert targets(select, 0) == set()
    assert select.target_counts().tolist() == [1]


def test_a_user_without_history_is_skipped(ann_and_bob):
    gate = ann_and_bob.examples(GATE)
    assert gate.user.tolist() == [0]
    assert targets(gate, 0) == {1, 3}


def test_a_period_without_steps_has_no_examples(ann_and_bob):
    canary = ann_and_bob.examples(CANARY)
    assert len(canary) == 0
    items, ago = history_batch(ann_and_bob, canary, 4)
    assert items.shape == ago.shape == (0, 4)


def test_history_is_right_aligned_and_tells_how_many_steps_ago(ann_and_bob):
    items, ago = history_batch(ann_and_bob, ann_and_bob.examples(GATE), 5)
    assert items.tolist() == [[0, 0, 1, 2, 1]]
    # The step just before held an unknown item only: the nearest known one is two steps ago.
    assert ago.tolist() == [[0, 0, 3, 3, 2]]
    assert items.dtype == ago.dtype == np.int64


def test_a_long_history_keeps_its_latest_items(ann_and_bob):
    items, ago = history_batch(ann_and_bob, ann_and_bob.examples(GATE), 2)
    assert items.tolist() == [[2, 1]]
    assert ago.tolist() == [[3, 2]]


def test_history_never_reaches_into_another_user(ann_and_bob):
    after = ann_and_bob.after_all(np.asarray([1, 0]))
    items, ago = history_batch(ann_and_bob, after, 3)
    assert items.tolist() == [[0, 0, 3], [1, 1, 3]]
    assert ago.tolist() == [[0, 0, 1], [3, 1, 1]]
    assert after.target_counts().tolist() == [0, 0]


def test_plain_sequences_have_one_target_and_no_baskets():
    plain = Interactions.from_rows(
        rows(
            user=np.asarray([0, 0, 0, 0, 1, 1, 1, 1]),
            item=np.asarray([1, 2, 3, 1, 3, 2, 1, 3]),
            basket=np.asarray([0, 1, 2, 3, 0, 1, 2, 3]),
            period=np.asarray([0, 1, 2, 3, 0, 1, 2, 3]),
            baskets=False,
        )
    )
    for period, expected in ((SELECT, [2, 2]), (GATE, [3, 1]), (CANARY, [1, 3])):
        examples = plain.examples(period)
        assert examples.targets.tolist() == expected
        assert examples.target_offsets.tolist() == [0, 1, 2]
    assert len(plain.examples(TRAIN)) == 0
    assert history_batch(plain, plain.examples(CANARY), 3)[1].tolist() == [[3, 2, 1], [3, 2, 1]]


def test_the_latest_examples_of_a_user_are_kept():
    one_user = Interactions.from_rows(
        rows(
            user=np.zeros(8, int),
            item=np.asarray([1, 2, 3, 1, 2, 3, 1, 2]),
            basket=np.arange(8),
            period=np.zeros(8, int),
            baskets=False,
        )
    )
    assert one_user.examples(TRAIN, max_per_user=3).step.tolist() == [5, 6, 7]
    assert len(one_user.examples(TRAIN)) == 7


def test_an_item_twice_in_a_basket_is_one_target():
    twice = Interactions.from_rows(
        rows(item=np.asarray([1, 2, 0, 1, 0, 3, 3, 3])),
    )
    assert twice.examples(GATE).targets.tolist() == [3]


def test_taken_examples_keep_their_own_targets(ann_and_bob):
    both = Examples(
        user=np.asarray([0, 0], np.int32),
        end=np.asarray([2, 3]),
        step=np.asarray([1, 3], np.int32),
        target_offsets=np.asarray([0, 1, 3]),
        targets=np.asarray([1, 1, 3], np.int32),
        misses=np.asarray([1, 0], np.int32),
    )
    turned = both.take(np.asarray([1, 0, 1]))
    assert [targets(turned, row) for row in range(3)] == [{1, 3}, {1}, {1, 3}]
    assert turned.target_rows().tolist() == [0, 0, 1, 2, 2]
    assert turned.end.tolist() == [3, 2, 3]
    assert len(both.take(slice(1, 2))) == 1


def test_saved_interactions_are_read_back_and_equal_ones_have_equal_bytes(ann_and_bob, tmp_path):
    ann_and_bob.save(tmp_path / "a.npz")
    Interactions.from_rows(rows()).save(tmp_path / "b.npz")
    read = Interactions.load(tmp_path / "a.npz")
    for field in fields(Interactions):
        assert np.array_equal(getattr(read, field.name), getattr(ann_and_bob, field.name))
    assert read.baskets is True
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_file_of_another_format_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", format=np.asarray("interactions/9"))
    with pytest.raises(BadRequestError, match="expected format interactions/1, found 'interact"):
        Interactions.load(tmp_path / "other.npz")


def test_rows_out_of_order_are_refused():
    with pytest.raises(BadRequestError, match="sorted by user and basket, found row 4 before"):
        Interactions.from_rows(rows(basket=np.asarray([0, 0, 2, 2, 1, 5, 5, 0])))


def test_arrays_that_do_not_belong_together_are_refused(ann_and_bob):
    with pytest.raises(BadRequestError, match=r"'items'|'basket'|last offset"):
        replace(ann_and_bob, items=ann_and_bob.items[:-1])


def test_no_rows_at_all_are_no_steps():
    empty = np.zeros(0, int)
    none = Interactions.from_rows(
        rows(user=empty, item=empty, basket=empty, event_type=empty, time=empty, period=empty)
    )
    assert len(none.step_ends) == 0
    assert len(none.examples(TRAIN)) == 0
