"""A small shop: users who go round three shelves, with all four periods."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.contracts.columns import Period
from tasks.models.interactions import EventRows, Interactions

ITEMS = 12
STEPS = 14


def shop(users: int = 24) -> Interactions:
    """User u's step s holds items s and s + 1 (mod 12, shifted by u): the next basket is certain."""
    user = np.repeat(np.arange(users), STEPS * 2)
    step = np.tile(np.repeat(np.arange(STEPS), 2), users)
    item = (user + step + np.tile([0, 1], users * STEPS)) % ITEMS + 1
    period = np.select(
        [step >= 13, step >= 12, step >= 10], [Period.CANARY, Period.GATE, Period.SELECT], 0
    )
    return Interactions.from_rows(
        EventRows(
            item_ids=np.asarray([f"item-{place:02d}" for place in range(ITEMS)]),
            user_ids=np.asarray([f"user-{place:02d}" for place in range(users)]),
            user=user,
            item=item,
            basket=step,
            event_type=np.full(len(user), 3),
            time=step * 86400,
            period=period,
            repeats_allowed=True,
            baskets=True,
            order_only=False,
        )
    )


@pytest.fixture
def small_shop() -> Interactions:
    return shop()
