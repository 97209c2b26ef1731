"""Make the model of a recipe, and the baselines that every evaluation compares it with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tasks.contracts.ranks import ALONE, Ranks
from tasks.contracts.stage_io import SayProgress
from tasks.models.blend import BlendedRecommender
from tasks.models.interactions import Examples, Interactions
from tasks.models.markov import Markov
from tasks.models.personal_frequency import PersonalFrequency
from tasks.models.registry import Arguments, build_model
from tasks.models.transformer import Transformer
from tasks.training.baselines import fit_markov, fit_personal_frequency, fit_popularity
from tasks.training.blending import choose_weights, part_scores
from tasks.training.fit import Epoch, Fit, FitSettings, train_shares
from tasks.training.recipes import Recipe

SELECT = 1
LEARNT_BY_STEPS = frozenset({"transformer", "blend"})


@dataclass(frozen=True, kw_only=True)
class Made:
    """A fitted model with what is needed to build it again."""

    architecture: str
    arguments: Arguments
    model: nn.Module
    resumed_from: str | None = None  # where a killed fit went on, in words


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What making a model needs besides the recipe."""

    interactions: Interactions
    recipe: Recipe
    seed: int
    checkpoints: Path
    progress: SayProgress
    ranks: Ranks = ALONE

    def select_examples(self) -> Examples:
        """Return the examples on which every choice is made."""
        return self.interactions.examples(SELECT, self.recipe.select_steps_per_user)


def make_baselines(shop: Workshop) -> dict[str, Made]:
    """Fit popularity, the Markov chain and, where repeats are normal, personal frequency."""
    shop.progress("fitting baselines", 0.0)
    popularity, arguments = fit_popularity(shop.interactions)
    found = {"popularity": Made(architecture="popularity", arguments=arguments, model=popularity)}
    if shop.interactions.repeats_allowed:
        frequency, arguments = fit_personal_frequency(
            shop.interactions, shop.recipe.frequency_decay
        )
        found["personal_frequency"] = Made(
            architecture="personal_frequency", arguments=arguments, model=frequency
        )
    markov, arguments = fit_markov(shop.interactions, shop.recipe.markov)
    found["markov"] = Made(architecture="markov", arguments=arguments, model=markov)
    return found


def make_model(shop: Workshop, baselines: dict[str, Made]) -> tuple[Made, list[Epoch]]:
    """Return the recipe's model and its learning curve (empty where nothing is learnt by steps)."""
    architecture = shop.recipe.architecture
    if architecture in baselines:
        return baselines[architecture], []
    if architecture == "personal_frequency":
        model, arguments = fit_personal_frequency(shop.interactions, shop.recipe.frequency_decay)
        return Made(architecture=architecture, arguments=arguments, model=model), []
    network, curve = _train(shop)
    if architecture == "transformer":
        return network, curve
    return _blend(shop, baselines, network), curve


def assist_training(shop: Workshop) -> None:
    """Do another rank's share of `make_model`: only what is learnt by steps is shared."""
    if shop.recipe.architecture in LEARNT_BY_STEPS:
        _train(shop)


def fit_settings(recipe: Recipe, seed: int) -> FitSettings:
    """Return how `fit` trains by this recipe."""
    settings = recipe.transformer
    return FitSettings(
        max_epochs=settings.max_epochs,
        patience=settings.patience,
        batch_windows=settings.batch_windows,
        learning_rate=settings.learning_rate,
        negatives=settings.negatives,
        weight_decay=settings.weight_decay,
        max_length=recipe.max_length,
        seed=seed,
        threads=recipe.threads,
        schedule=settings.schedule,
    )


def _train(shop: Workshop) -> tuple[Made, list[Epoch]]:
    settings = shop.recipe.transformer
    arguments = {
        "num_items": shop.interactions.num_items,
        "steps": settings.steps,
        "width": settings.width,
        "layers": settings.layers,
        "heads": settings.heads,
        "dropout": settings.dropout,
    }
    torch.manual_seed(shop.seed)
    model = build_model("transformer", arguments)
    assert isinstance(model, Transformer)  # noqa: S101  narrows the type
    fit = Fit(
        model,
        shop.interactions,
        shop.select_examples(),
        fit_settings(shop.recipe, shop.seed),
        ranks=shop.ranks,
    )
    curve = fit.run(shop.checkpoints, shop.progress)
    made = Made(
        architecture="transformer",
        arguments=arguments,
        model=model,
        resumed_from=fit.resumed_from,
    )
    return made, curve


def _blend(shop: Workshop, baselines: dict[str, Made], network: Made) -> Made:
    markov, transformer = baselines["markov"], network.model
    frequency = baselines.get("personal_frequency")
    num_items = shop.interactions.num_items
    parts = frequency.model if frequency else PersonalFrequency(num_items)
    assert isinstance(parts, PersonalFrequency)  # noqa: S101  narrows the type
    assert isinstance(markov.model, Markov)  # noqa: S101
    assert isinstance(transformer, Transformer)  # noqa: S101
    model = BlendedRecommender(num_items, parts, markov.model, transformer).eval()
    model.popularity.copy_(train_shares(shop.interactions))
    examples = shop.interactions.examples(SELECT, shop.recipe.blend_steps_per_user)
    found = part_scores(model, shop.interactions, examples, shop.recipe.max_length)
    model.weights.copy_(torch.from_numpy(choose_weights(found, examples, shop.progress)))
    arguments = {
        "num_items": num_items,
        "markov": _without_items(markov.arguments),
        "transformer": _without_items(network.arguments),
    }
    return Made(
        architecture="blend",
        arguments=arguments,
        model=model,
        resumed_from=network.resumed_from,
    )


def _without_items(arguments: Arguments) -> Arguments:
    return {name: value for name, value in arguments.items() if name != "num_items"}
