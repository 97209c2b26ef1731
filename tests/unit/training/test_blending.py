"""Weights come from the select period and from nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tasks.contracts.columns import Period
from tasks.models.blend import PARTS, BlendedRecommender
from tasks.models.interactions import Interactions
from tasks.training.blending import PartScores, choose_weights, part_scores
from tasks.training.make_model import Workshop, make_baselines, make_model
from tasks.training.metrics import seen_before
from tasks.training.recipes import TransformerSettings, recipe_named


def quiet(_sentence: str, _fraction: float | None) -> None:
    """Say nothing."""


def tiny_workshop(interactions: Interactions, folder: Path) -> Workshop:
    tiny = TransformerSettings(
        steps=4, width=8, layers=1, max_epochs=1, batch_windows=32, negatives=8
    )
    recipe = replace(recipe_named("blended_transformer", baskets=True), transformer=tiny)
    return Workshop(
        interactions=interactions, recipe=recipe, seed=1, checkpoints=folder, progress=quiet
    )


def weights_of(interactions: Interactions, folder: Path) -> torch.Tensor:
    workshop = tiny_workshop(interactions, folder)
    made, _ = make_model(workshop, make_baselines(workshop))
    return made.model.get_buffer("weights")


def test_later_periods_change_no_weight(small_shop, tmp_path):
    later = np.isin(small_shop.period, [Period.GATE, Period.CANARY])
    items = np.where(later, 1, small_shop.items).astype(np.int32)
    changed = replace(small_shop, items=items)

    expected = weights_of(small_shop, tmp_path / "one")

    assert torch.equal(weights_of(changed, tmp_path / "two"), expected)


def test_a_part_that_knows_the_answer_takes_over(small_shop):
    examples = small_shop.examples(Period.SELECT)
    rows = len(examples)
    items = torch.arange(13).expand(rows, 13).clone()
    scores = torch.zeros(rows, len(PARTS), 13)
    scores[:, 0] = torch.linspace(0.13, 0.01, 13)  # always the same wrong order
    truth = torch.zeros(rows, 13)
    truth[torch.from_numpy(examples.target_rows()), torch.from_numpy(examples.targets).long()] = 0.5
    scores[:, 2] = truth

    weights = choose_weights(PartScores(scores=scores, items=items), examples, quiet)

    mixed = torch.einsum("epc,p->ec", scores, torch.from_numpy(weights))[:, 1:]
    best = mixed.topk(2, dim=1).indices + 1
    wanted = torch.from_numpy(examples.targets.reshape(rows, 2)).long()
    assert torch.equal(best.sort(dim=1).values, wanted.sort(dim=1).values)


def test_no_part_is_asked_about_what_was_taken_before_all_that_it_is_shown(small_shop, tmp_path):
    shop = tiny_workshop(small_shop, tmp_path)
    made, _ = make_model(shop, make_baselines(shop))
    assert isinstance(made.model, BlendedRecommender)
    once = replace(small_shop, repeats_allowed=False)
    examples = once.examples(Period.TRAIN)

    found = part_scores(made.model, once, examples, 2)

    low = (found.scores < -1e8).all(dim=1)
    seen = seen_before(once, examples).gather(1, found.items)
    assert torch.equal(low, seen | (found.items == 0))
    assert seen.sum() > 2 * len(examples)


def test_a_part_of_small_shares_may_weigh_more_than_the_others(small_shop):
    # A third of the users needs popularity to weigh more than 8, the others less than 15.
    examples = small_shop.examples(Period.SELECT)
    rows = len(examples)
    wanted = torch.zeros(rows, 13, dtype=torch.bool)
    wanted[torch.from_numpy(examples.target_rows()), torch.from_numpy(examples.targets).long()] = (
        True
    )
    needs_it = torch.from_numpy(examples.user % 3 == 0).unsqueeze(1)
    network, popularity = torch.full((rows, 13), 0.5), torch.zeros(rows, 13)
    network[~wanted & needs_it] = 0.58
    popularity[wanted & needs_it] = 0.01
    network[~wanted & ~needs_it] = 0.35
    popularity[~wanted & ~needs_it] = 0.01
    nothing = torch.zeros(rows, 13)
    scores = torch.stack([nothing, nothing, network, popularity], dim=1)
    items = torch.arange(13).expand(rows, 13).clone()

    weights = choose_weights(PartScores(scores=scores, items=items), examples, quiet)

    assert weights.tolist() == [0.0, 0.0, 1.0, 10.0]
