"""Training with types: what the windows hold, what is learnt of types, and who is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.contracts.columns import Period
from tasks.contracts.errors import BadRequestError
from tasks.models.interactions import EventRows, Interactions
from tasks.models.registry import load_model, save_model
from tasks.models.transformer import Transformer
from tasks.training.fit import Fit
from tasks.training.make_model import Workshop, fit_settings, make_baselines, make_model
from tasks.training.metrics import requests_for
from tasks.training.next_type import next_type_record
from tasks.training.recipes import Recipe, TransformerSettings, recipe_named
from tasks.training.windows import training_windows

VIEW, BUY = 0, 3
ITEMS, STEPS, USERS = 12, 20, 30
TINY = TransformerSettings(
    steps=6,
    width=16,
    layers=1,
    dropout=0.0,
    max_epochs=6,
    patience=6,
    batch_windows=16,
    learning_rate=1e-2,
    negatives=8,
    event_types=True,
)


def shop() -> Interactions:
    """Events of two types: after two views comes a purchase, and only then another item."""
    user = np.repeat(np.arange(USERS), STEPS)
    step = np.tile(np.arange(STEPS), USERS)
    turn = step + user % 3  # users begin at another place of the round
    period = np.select(
        [step >= 18, step >= 17, step >= 14], [Period.CANARY, Period.GATE, Period.SELECT], 0
    )
    return Interactions.from_rows(
        EventRows(
            item_ids=np.asarray([f"item-{place:02d}" for place in range(ITEMS)]),
            user_ids=np.asarray([f"user-{place:02d}" for place in range(USERS)]),
            user=user,
            item=(user * 5 + turn // 3) % ITEMS + 1,
            basket=step,
            event_type=np.where(turn % 3 == 2, BUY, VIEW),
            time=step * 3600,
            period=period,
            repeats_allowed=True,
            baskets=False,
            order_only=False,
        )
    )


def workshop(known: Interactions, recipe: Recipe, folder: Path) -> Workshop:
    return Workshop(
        interactions=known,
        recipe=recipe,
        seed=1,
        checkpoints=folder,
        progress=lambda _sentence, _fraction: None,
    )


def typed(settings: TransformerSettings = TINY, name: str = "typed_transformer") -> Recipe:
    return replace(recipe_named(name, baskets=False), transformer=settings, max_length=8)


def test_a_window_holds_the_type_of_each_event_and_of_what_came_next():
    known = shop()
    windows = training_windows(known, steps=6, max_length=8, typed=True)

    # user-00 sees item 1 twice and takes it, and so on: 14 train steps, the last window before step 13.
    assert windows.items[0].tolist() == [0, 0, 3, 3, 4, 4, 4, 5]
    assert windows.event_types[0].tolist() == [0, 0, 1, 4, 1, 1, 4, 1]
    first = slice(windows.pair_offsets[0], windows.pair_offsets[1])
    assert windows.pair_place[first].tolist() == [0, 1, 2, 3, 4, 5]
    assert windows.pair_item[first].tolist() == [3, 4, 4, 4, 5, 5]
    # The type to foretell at a place is that of the next event, which the input holds one place later.
    assert windows.pair_type[first].tolist() == [BUY, VIEW, VIEW, BUY, VIEW, VIEW]


def test_windows_of_other_recipes_hold_no_types():
    windows = training_windows(shop(), steps=6, max_length=8)
    assert not windows.event_types.any()
    assert (windows.pair_type == -1).all()


@pytest.mark.parametrize("name", ("typed_transformer", "blended_typed_transformer"))
def test_the_next_type_is_learnt_and_the_model_is_read_back_as_it_was(tmp_path, name):
    known = shop()
    settings = replace(TINY, max_epochs=20, patience=20, next_type_weight=3.0)
    shown = workshop(known, typed(settings, name), tmp_path / "ck")
    made, curve = make_model(shown, make_baselines(shown))
    save_model(made.model, made.architecture, made.arguments, tmp_path)
    again = load_model(tmp_path)

    record = next_type_record(again, known, shown.select_examples(), 8)
    assert record["model"]["accuracy"] > 0.95
    # Two types tell where in the round a user is, but for (buy, view) and (view, view): so does the chain.
    assert record["model"]["bits"] < record["shares_of_types"]["bits"] / 2
    assert record["markov_of_types"]["accuracy"] == pytest.approx(1.0)
    bits = [point.select_type_bits for point in curve]
    assert any(one == pytest.approx(record["model"]["bits"], abs=1e-4) for one in bits)
    assert curve[-1].record().keys() == {"epoch", "loss", "select_ndcg10", "select_type_bits"}

    asked = requests_for(again, known, known.examples(Period.GATE), 8)
    assert len(asked) == 3
    with torch.no_grad():
        assert torch.equal(again(*asked), made.model(*asked))


def test_a_shop_of_one_type_is_refused_before_training(small_shop, tmp_path):
    recipe = recipe_named("typed_transformer", baskets=True)
    with pytest.raises(BadRequestError, match="two types or more") as refused:
        make_model(workshop(small_shop, recipe, tmp_path), {})
    assert "found purchase (480)" in str(refused.value)
    assert "take the same recipe without types" in str(refused.value)


def test_a_strange_type_is_refused_by_recipes_that_read_types_only(tmp_path):
    known = shop()
    types = known.event_type.copy()
    types[5] = 9
    strange = replace(known, event_type=types)
    with pytest.raises(BadRequestError, match="found 1 others, such as 9"):
        make_model(workshop(strange, typed(), tmp_path), {})
    plain = typed(replace(TINY, event_types=False, max_epochs=1), "transformer")
    made, curve = make_model(workshop(strange, plain, tmp_path / "plain"), {})
    assert "event_types" not in made.arguments
    assert curve[0].record().keys() == {"epoch", "loss", "select_ndcg10"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    (
        ({"next_type_weight": -0.1}, "next_type_weight: expected a number from 0 to 10"),
        ({"next_type_weight": math.nan}, "next_type_weight: expected a number from 0 to 10"),
        ({"next_type_weight": "x" * 5000}, "next_type_weight: expected a number from 0 to 10"),
        ({"unknown_types": 1.1}, "unknown_types: expected a number from 0 to 1"),
        ({"unknown_types": True}, "unknown_types: expected a number from 0 to 1"),
    ),
)
def test_settings_that_cannot_be_are_refused_in_few_words(changes, sentence):
    with pytest.raises(BadRequestError, match=sentence) as refused:
        replace(TINY, **changes)
    assert len(str(refused.value)) < 200


def a_fit(known: Interactions, settings: TransformerSettings, kind: type[Fit] = Fit) -> Fit:
    torch.manual_seed(1)
    model = Transformer(ITEMS, steps=6, width=16, layers=1, heads=2, dropout=0.1, event_types=True)
    return kind(
        model,
        known,
        known.examples(Period.SELECT, 3),
        fit_settings(typed(settings), 1),
        checkpoint_seconds=0.0,
    )


class Killed(Fit):
    """Ends after a few batches, as by a signal."""

    def _save(self, checkpoints: Path) -> None:
        super()._save(checkpoints)
        if self.epoch is not None and self.epoch.number == 2 and self.epoch.batches_done == 2:
            raise KeyboardInterrupt


def test_a_killed_fit_shows_the_same_windows_without_types(tmp_path):
    known, settings = shop(), replace(TINY, max_epochs=3, unknown_types=0.5)
    whole = a_fit(known, settings)
    curve = whole.run(tmp_path / "whole", lambda _sentence, _fraction: None)
    with pytest.raises(KeyboardInterrupt):
        a_fit(known, settings, Killed).run(tmp_path / "killed", lambda _s, _f: None)
    resumed = a_fit(known, settings)

    assert resumed.run(tmp_path / "killed", lambda _sentence, _fraction: None) == curve
    assert resumed.resumed_from == "epoch 1 and batch 2"
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_only_windows_shown_without_types_teach_what_unknown_means():
    known = shop()
    never = a_fit(known, replace(TINY, unknown_types=0.0))
    always = a_fit(known, replace(TINY, unknown_types=1.0))
    for fit, wanted in ((never, {False}), (always, {True})):
        loss = fit._loss(np.arange(8), torch.Generator().manual_seed(0))
        loss.backward()
        table = fit.model.typed.types.weight.grad
        padding = {bool(table[1:].abs().sum() == 0)}
        assert padding == wanted


def test_the_weight_of_the_next_type_is_that_of_the_setting():
    known = shop()
    losses = [
        float(
            a_fit(known, replace(TINY, next_type_weight=weight, unknown_types=0.0))
            ._loss(np.arange(8), torch.Generator().manual_seed(0))
            .detach()
        )
        for weight in (0.0, 1.0, 3.0)
    ]
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-3)
    assert losses[1] > losses[0]
