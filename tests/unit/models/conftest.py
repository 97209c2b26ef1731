"""Small baskets that every test of this folder works out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.contracts.columns import Period
from tasks.models.interactions import EventRows, Interactions

MILK, BREAD, EGGS = 1, 2, 3


@pytest.fixture
def three_baskets() -> Interactions:
    """Ann buys {milk, bread}, {eggs}, {milk} in train, {bread} in select; Bob buys {eggs} once."""
    return Interactions.from_rows(
        EventRows(
            item_ids=np.asarray(["milk", "bread", "eggs"]),
            user_ids=np.asarray(["ann", "bob"]),
            user=np.asarray([0, 0, 0, 0, 0, 1]),
            item=np.asarray([MILK, BREAD, EGGS, MILK, BREAD, EGGS]),
            basket=np.asarray([0, 0, 1, 2, 3, 0]),
            event_type=np.full(6, 3),
            time=np.asarray([10, 10, 20, 30, 40, 10]),
            period=np.asarray([Period.TRAIN] * 4 + [Period.SELECT, Period.TRAIN]),
            repeats_allowed=True,
            baskets=True,
            order_only=False,
        )
    )
