"""Return rates, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.contracts.columns import Period
from tasks.models.interactions import EventRows, Interactions
from tasks.training.return_rates import DAMPING, PRIOR, return_rates


def one_user() -> Interactions:
    """Steps {1, 2}, {1}, {3} in train and {2} in select: item 1 came back once, item 2 never."""
    return Interactions.from_rows(
        EventRows(
            item_ids=np.asarray(["a", "b", "c"]),
            user_ids=np.asarray(["u"]),
            user=np.zeros(5, np.int64),
            item=np.asarray([1, 2, 1, 3, 2]),
            basket=np.asarray([0, 0, 1, 2, 3]),
            event_type=np.full(5, 3),
            time=np.arange(5),
            period=np.asarray([Period.TRAIN] * 4 + [Period.SELECT]),
            repeats_allowed=True,
            baskets=True,
            order_only=False,
        )
    )


def test_a_rate_is_repeats_over_decayed_exposure_shrunk_to_the_mean():
    # Exposure at decay 1/2: two steps before the end 1 + 1/2, one step 1, the last step 0.
    exposure = np.asarray([0.0, 1.5 + 1.0, 1.5, 0.0])
    repeats = np.asarray([0.0, 1.0, 0.0, 0.0])
    mean = 1 / 4.0
    expected = ((repeats + PRIOR * mean) / (exposure + PRIOR) / mean) ** DAMPING

    assert return_rates(one_user(), decay=0.5) == pytest.approx(expected)


def test_an_item_that_comes_back_stands_above_one_that_does_not():
    rates = return_rates(one_user(), decay=0.5)

    assert rates[1] > rates[3] > rates[2]
