"""What users do next: the sequence buy, view, cart, view, buy by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tasks.contracts.columns import EVENT_TYPES, Period
from tasks.contracts.errors import BadRequestError
from tasks.models.behaviour_chain import bits_per_event, count_behaviour
from tasks.models.interactions import EventRows, Interactions

BUY, VIEW, CART, FAVOURITE = "purchase", "view", "cart", "favourite"
WORKED = (BUY, VIEW, CART, VIEW, BUY)


def users(*sequences: Sequence[str], select: int = 0) -> Interactions:
    """One item for all; the last `select` events of every user are in the select period."""
    user = np.repeat(np.arange(len(sequences)), [len(one) for one in sequences])
    place = np.concatenate([np.arange(len(one)) for one in sequences])
    left = np.concatenate([np.arange(len(one), 0, -1) for one in sequences])
    return Interactions.from_rows(
        EventRows(
            item_ids=np.asarray(["kettle"]),
            user_ids=np.asarray([f"u{number}" for number in range(len(sequences))]),
            user=user,
            item=np.ones(len(user), np.int64),
            basket=place,
            event_type=np.asarray([EVENT_TYPES.index(kind) for one in sequences for kind in one]),
            time=place,
            period=np.where(left <= select, Period.SELECT, Period.TRAIN),
            repeats_allowed=True,
            baskets=False,
            order_only=False,
        )
    )


def likely(chances: dict[str, float]) -> dict[str, float]:
    return {kind: chance for kind, chance in chances.items() if chance > 0}


@pytest.mark.parametrize(
    ("last", "expected"),
    (
        (BUY, {VIEW: 1}),
        (VIEW, {CART: 1 / 2, BUY: 1 / 2}),
        (CART, {VIEW: 1}),
        pytest.param(
            FAVOURITE,
            {VIEW: 2 / 5, CART: 1 / 5, BUY: 2 / 5},
            id="after a type that never came the shares of all types speak",
        ),
    ),
)
def test_the_worked_example_by_the_last_type(last, expected):
    chain = count_behaviour(users(WORKED), order=1, smoothing=0)

    assert likely(chain.after([last])) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("last", "expected"),
    (
        ((BUY, VIEW), {CART: 1}),
        ((VIEW, CART), {VIEW: 1}),
        ((CART, VIEW), {BUY: 1}),
        pytest.param((VIEW, BUY), {VIEW: 1}, id="the end was never followed: the last type speaks"),
    ),
)
def test_the_worked_example_by_the_last_two_types(last, expected):
    chain = count_behaviour(users(WORKED), order=2, smoothing=0)

    assert likely(chain.after(last)) == pytest.approx(expected)


def test_smoothing_mixes_in_the_shorter_context():
    chain = count_behaviour(users(WORKED), order=1, smoothing=1)

    # Shares of all types, smoothed by 1/4 each: view and buy (2 + 1/4) / 6, cart (1 + 1/4) / 6.
    view, cart, favourite = 2.25 / 6, 1.25 / 6, 0.25 / 6
    assert chain.after([VIEW]) == pytest.approx(
        {VIEW: view / 3, CART: (1 + cart) / 3, BUY: (1 + view) / 3, FAVOURITE: favourite / 3}
    )


def test_older_types_than_the_order_are_not_looked_at():
    chain = count_behaviour(users(WORKED), order=1)

    assert chain.after([CART, BUY, VIEW]) == chain.after([VIEW])


def test_one_user_does_not_follow_another_and_select_is_not_counted():
    chain = count_behaviour(users((VIEW, CART), (BUY, VIEW, BUY), select=1), order=1, smoothing=0)

    assert chain.counts[0].sum() == 3  # view | buy, view
    assert likely(chain.after([BUY])) == {VIEW: 1}
    assert chain.counts[1].sum() == 1  # not cart -> buy across users, not view -> cart in select


def test_bits_are_those_of_the_chances_and_an_event_without_enough_before_it_is_left_out():
    known = users((*WORKED, VIEW, CART), (VIEW,), select=1)
    chain = count_behaviour(known, order=1, smoothing=0)

    # Trained on buy, view, cart, view, buy, view: after view cart 1/2, buy 1/2.
    assert bits_per_event(chain, known, Period.SELECT) == pytest.approx(1.0)
    assert bits_per_event(chain, known, Period.CANARY) is None


def test_too_few_or_unknown_types_are_refused_with_the_known_ones():
    chain = count_behaviour(users(WORKED), order=2)

    for last in ([VIEW], [VIEW, "stare"]):
        with pytest.raises(BadRequestError, match=r"at least 2 types of \['view'.*found"):
            chain.after(last)
