"""Head, mid and tail by hand."""

from __future__ import annotations

import numpy as np

from tasks.models.interactions import EventRows, Interactions
from tasks.models.popularity_slices import item_slices, user_slices

GATE = 2


def known() -> Interactions:
    # Train counts: item 1 four times, 2 three, 3 and 4 once: nine in all, thirds end at 3 and 6.
    train = [1, 1, 1, 1, 2, 2, 2, 3, 4]
    users = [(0, [1]), (1, [3, 1]), (2, [0, 0, 1])]
    rows = [(user, item, 0, 0) for user, _ in users for item in (train if user == 0 else [1])]
    rows = [row for row in rows if row[0] == 0] + [(u, 1, 0, 1) for u in (1, 2)]
    rows += [(user, item, 1, GATE) for user, items in users for item in items]
    columns = np.asarray(sorted(rows, key=lambda row: (row[0], row[2]))).T
    user, item, basket, period = columns
    return Interactions.from_rows(
        EventRows(
            item_ids=np.asarray(["a", "b", "c", "d"]),
            user_ids=np.asarray(["u", "v", "w"]),
            user=user,
            item=item,
            basket=basket,
            event_type=np.zeros(len(user)),
            time=basket,
            period=period,
            repeats_allowed=True,
            baskets=True,
            order_only=False,
        )
    )


def test_items_are_split_by_thirds_of_the_train_interactions() -> None:
    # 0 and 4 come before items 1 and 2; 7 and 8 before the others; padding counts as tail.
    assert item_slices(known()).tolist() == [2, 0, 1, 2, 2]


def test_a_user_belongs_where_most_targets_are_and_ties_go_to_the_rarer() -> None:
    interactions = known()
    # u: one head. v: head and tail, a tie. w: two unknown (tail) and one head.
    slices = user_slices(interactions, interactions.examples(GATE))
    assert slices.tolist() == [0, 2, 2]


def test_users_without_examples_are_marked() -> None:
    interactions = known()
    assert user_slices(interactions, interactions.examples(3)).tolist() == [-1, -1, -1]
