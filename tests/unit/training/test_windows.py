"""Training windows show what serving will show, and nothing later than train."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.training.windows import training_windows


def test_every_train_step_but_the_first_is_a_target_exactly_once(small_shop):
    windows = training_windows(small_shop, steps=4, max_length=32)

    first_user = small_shop.items[small_shop.offsets[0] : small_shop.offsets[1]]
    train = small_shop.period[small_shop.offsets[0] : small_shop.offsets[1]] == 0
    wanted = sorted(first_user[train][2:].tolist())
    users = small_shop.num_users
    per_user = np.diff(windows.pair_offsets).reshape(users, -1).sum(axis=1)
    assert per_user.tolist() == [len(wanted)] * users
    ends = windows.pair_offsets[len(windows) // users]
    assert sorted(windows.pair_item[:ends].tolist()) == wanted


def test_a_target_lies_one_step_after_the_state_that_predicts_it(small_shop):
    windows = training_windows(small_shop, steps=4, max_length=32)

    for row in range(3):
        for pair in range(windows.pair_offsets[row], windows.pair_offsets[row + 1]):
            steps_before_end = 4 - windows.pair_place[pair]  # of the predicting state's step
            seen = windows.items[row][windows.steps_ago[row] == steps_before_end]
            # The shop's next basket holds the last basket's items plus one.
            following = {item % 12 + 1 for item in seen.tolist()}
            assert int(windows.pair_item[pair]) in following


def test_nothing_after_the_train_period_is_shown_or_asked(small_shop):
    windows = training_windows(small_shop, steps=4, max_length=32)
    later = training_windows(
        type(small_shop)(**{**vars(small_shop), "period": np.zeros_like(small_shop.period)}),
        steps=4,
        max_length=32,
    )

    assert len(windows.pair_item) == 24 * 9 * 2  # ten train steps, the first predicts nothing
    assert len(later.pair_item) == 24 * 13 * 2


@pytest.mark.parametrize("length", (2, 3, 5, 7, 32))
@pytest.mark.parametrize("steps", (4, 20), ids="{} steps".format)
def test_no_target_is_asked_for_without_the_whole_step_before_it(small_shop, steps, length):
    # Baskets of two: five items hold two of them and a half, twenty steps need forty.
    windows = training_windows(small_shop, steps=steps, max_length=length)

    window = np.repeat(np.arange(len(windows)), np.diff(windows.pair_offsets))
    before = steps - windows.pair_place  # steps ago of the step that predicts
    shown = (windows.steps_ago[window] == before[:, None]).sum(axis=1)
    assert set(shown.tolist()) == {2}
    asked = np.bincount(windows.pair_item, minlength=13)
    whole = training_windows(small_shop, steps=4, max_length=32)
    assert asked.tolist() == np.bincount(whole.pair_item, minlength=13).tolist()


def test_a_basket_longer_than_the_input_is_cut_as_in_serving_and_still_predicts(small_shop):
    windows = training_windows(small_shop, steps=4, max_length=1)

    assert len(windows.pair_item) == 24 * 9 * 2
    assert (windows.steps_ago == 1).all()
    assert set(windows.pair_place.tolist()) == {3}
