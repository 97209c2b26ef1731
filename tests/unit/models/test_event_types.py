"""Types beside items: codes, histories, what came next; and how well it was foretold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tasks.contracts.columns import Period
from tasks.contracts.errors import BadRequestError
from tasks.models.event_types import codes_of, history_types, next_types, types_in_train
from tasks.models.interactions import EventRows, Interactions, history_batch
from tasks.models.next_type import chain_chances, score_types, share_chances

VIEW, FAVOURITE, CART, BUY = range(4)
ROWS = (  # user, step, item (0: unknown), type, period
    (0, 0, 1, VIEW, Period.TRAIN),
    (0, 1, 2, CART, Period.TRAIN),
    (0, 2, 0, FAVOURITE, Period.TRAIN),
    (0, 3, 3, BUY, Period.TRAIN),
    (0, 4, 1, VIEW, Period.SELECT),
    (0, 5, 2, BUY, Period.SELECT),
    (1, 0, 2, VIEW, Period.TRAIN),
    (1, 1, 0, BUY, Period.SELECT),
)


@pytest.fixture
def known() -> Interactions:
    user, step, item, kind, period = (np.asarray(column) for column in zip(*ROWS, strict=True))
    return Interactions.from_rows(
        EventRows(
            item_ids=np.asarray(["lamp", "rug", "sofa"]),
            user_ids=np.asarray(["ann", "bob"]),
            user=user,
            item=item,
            basket=step,
            event_type=kind,
            time=step,
            period=period,
            repeats_allowed=True,
            baskets=False,
            order_only=False,
        )
    )


def test_each_type_stands_in_the_place_of_its_item_and_of_no_later_one(known):
    examples = known.examples(Period.SELECT)
    items, _ = history_batch(known, examples, 4)
    types = history_types(known, examples, 4)

    assert items.tolist() == [[0, 1, 2, 3], [1, 2, 3, 1], [0, 0, 0, 2]]
    # The favourite was on an unknown item: it is left out, as its item is.
    assert types.tolist() == [
        [0, VIEW + 1, CART + 1, BUY + 1],
        [VIEW + 1, CART + 1, BUY + 1, VIEW + 1],
        [0, 0, 0, VIEW + 1],
    ]


def test_what_came_next_is_told_of_known_items_only(known):
    came = next_types(known, known.examples(Period.SELECT))

    assert came.example.tolist() == [0, 1]
    assert came.place.tolist() == [VIEW, BUY]
    assert types_in_train(known).tolist() == [2, 0, 1, 1]


def test_scores_are_bits_and_how_often_the_likeliest_was_right(known):
    examples = known.examples(Period.SELECT)
    chances = np.asarray([[0.5, 0.25, 0.25, 0.0], [0.5, 0.0, 0.25, 0.25], [0.0, 0.0, 0.0, 1.0]])

    found = score_types(chances, known, examples)

    assert found is not None
    assert found.record() == {"events": 2, "bits": 1.5, "accuracy": 0.5}
    assert score_types(chances[:0], known, known.examples(Period.GATE)) is None


def test_the_chain_is_asked_for_the_last_two_types(known):
    examples = known.examples(Period.SELECT)
    chances = chain_chances(known, examples, 4)

    # After (cart, buy) and (buy, view) nothing was ever seen: fewer types speak, and all chances are some.
    assert chances.shape == (3, 4)
    assert chances.sum(axis=1) == pytest.approx(1.0)
    assert share_chances(known, examples)[0] == pytest.approx(share_chances(known, examples)[2])
    # Only a view went before the third; a cart followed the only view of the train period.
    assert chances[2].argmax() == CART


@pytest.mark.parametrize("strange", (-1, 4, 100))
def test_a_type_outside_the_contract_is_refused_in_few_words(known, strange):
    types = known.event_type.copy()
    types[2] = strange
    wrong = replace(known, event_type=types)

    with pytest.raises(BadRequestError, match=f"found 1 others, such as {strange}") as refused:
        codes_of(wrong.event_type)
    assert len(str(refused.value)) < 200
    with pytest.raises(BadRequestError, match="expected places 0 to 3"):
        history_types(wrong, wrong.examples(Period.SELECT), 4)


def test_a_set_without_events_has_no_types(known):
    empty = replace(
        known,
        items=known.items[:0],
        event_type=known.event_type[:0],
        time=known.time[:0],
        basket=known.basket[:0],
        period=known.period[:0],
        offsets=np.zeros(3, np.int64),
        step_ends=np.zeros(len(known.step_ends), np.int64),
    )
    assert history_types(empty, empty.after_all(np.asarray([0, 1])), 3).tolist() == [[0] * 3] * 2
