"""Make the model of a recipe, and the baselines that every evaluation compares it with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import nn

from tasks.contracts.catalogues import BASELINES
from tasks.contracts.columns import EVENT_TYPES
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json
from tasks.contracts.ranks import ALONE, Ranks
from tasks.contracts.stage_io import CHECKPOINT_SECONDS, SayProgress
from tasks.models.blend import BlendedRecommender
from tasks.models.event_types import types_in_train
from tasks.models.interactions import Examples, Interactions
from tasks.models.item_neighbours import ItemNeighbours
from tasks.models.personal_frequency import PersonalFrequency
from tasks.models.profile_definition import ProfileDefinition
from tasks.models.registry import Arguments, build_model
from tasks.models.sequence_model import SequenceModel
from tasks.models.transformer import Transformer
from tasks.training.baselines import (
    fit_ease,
    fit_first_order_markov,
    fit_ials,
    fit_item_knn,
    fit_markov,
    fit_personal_frequency,
    fit_popularity,
)
from tasks.training.blending import choose_weights, part_scores
from tasks.training.fit import Epoch, Fit, FitSettings, train_shares
from tasks.training.recipes import Recipe

SELECT = 1


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
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    profiles: ProfileDefinition | None = None  # for recipes whose network reads them

    def select_examples(self) -> Examples:
        """Return the examples on which every choice is made."""
        return self.interactions.examples(SELECT, self.recipe.select_steps_per_user)


Counted = Callable[[Interactions, Recipe], tuple[nn.Module, Arguments]]

# By architecture: what is counted or solved for in seconds, without steps of learning.
COUNTED: Mapping[str, Counted] = MappingProxyType(
    {
        "popularity": lambda known, _recipe: fit_popularity(known),
        "personal_frequency": lambda known, recipe: fit_personal_frequency(
            known, recipe.frequency_decay
        ),
        "markov": lambda known, recipe: fit_markov(known, recipe.markov),
        "first_order_markov": lambda known, recipe: fit_first_order_markov(known, recipe.markov),
        "ease": lambda known, recipe: fit_ease(known, recipe.ease),
        "item_knn": lambda known, recipe: fit_item_knn(known, recipe.item_knn),
        "ials": lambda known, recipe: fit_ials(known, recipe.ials),
    }
)
BY_WHO_TOOK_BOTH = ("item_knn", "ease", "ials")
# Where items are taken again habits have to be beaten, and who took both is for comparison only. Up to so
# many items EASE, whose seconds grow with their third power, is fitted in about four, and the others sooner.
COMPARED_MAX_ITEMS = 5_000


def make_counted(architecture: str, interactions: Interactions, recipe: Recipe) -> Made:
    """Return a model of COUNTED, fitted on the train period."""
    model, arguments = COUNTED[architecture](interactions, recipe)
    return Made(architecture=architecture, arguments=arguments, model=model)


def baselines_left_out(interactions: Interactions) -> dict[str, str]:
    """Return the names of BASELINES that are not fitted, each with why."""
    if not interactions.repeats_allowed:
        return {"personal_frequency": "nothing is taken twice, so it ranks as popularity does"}
    if interactions.num_items <= COMPARED_MAX_ITEMS:
        return {}
    why = (
        f"{interactions.num_items:,} items; where items are taken again it is fitted up to "
        f"{COMPARED_MAX_ITEMS:,}"
    )
    return dict.fromkeys(BY_WHO_TOOK_BOTH, why)


def make_baselines(shop: Workshop) -> dict[str, Made]:
    """Fit what every evaluation compares the model with: BASELINES, but for what is left out."""
    left_out = baselines_left_out(shop.interactions)
    names = [name for name in BASELINES if name not in left_out]
    found = {}
    for place, name in enumerate(names):
        shop.progress(f"fitting {name} as a baseline", place / len(names))
        found[name] = make_counted(name, shop.interactions, shop.recipe)
    return found


def make_model(shop: Workshop, baselines: dict[str, Made]) -> tuple[Made, list[Epoch]]:
    """Return the recipe's model and its learning curve (empty where nothing is learnt by steps)."""
    architecture = shop.recipe.architecture
    if architecture in baselines:
        return baselines[architecture], []
    if architecture in COUNTED:
        return make_counted(architecture, shop.interactions, shop.recipe), []
    network, curve = _train(shop)
    if architecture != "blend":
        return network, curve
    return _blend(shop, baselines, network), curve


def assist_training(shop: Workshop) -> None:
    """Do another rank's share of `make_model`: only what is learnt by steps is shared."""
    if shop.recipe.architecture not in COUNTED:
        _train(shop)


def fit_settings(recipe: Recipe, seed: int) -> FitSettings:
    """Return how `fit` trains by this recipe."""
    settings = recipe.network
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
        loss=settings.loss,
        calibration=settings.calibration,
        bf16=settings.bf16,
        length_buckets=settings.length_buckets,
        next_type_weight=recipe.transformer.next_type_weight,
        unknown_types=recipe.transformer.unknown_types,
    )


def untrained_network(
    recipe: Recipe, num_items: int, seed: int, profiles: ProfileDefinition | None = None
) -> Made:
    """Return the network of a recipe (of a blend, its part) with weights drawn by the seed."""
    shape = recipe.network
    definition = _profile_of(recipe, profiles)
    arguments: dict[str, Json] = {
        "num_items": num_items,
        "steps": shape.steps,
        "width": shape.width,
        "layers": shape.layers,
        "dropout": shape.dropout,
        "temperature": shape.temperature,
    }
    if recipe.architecture == "gru":
        architecture = "gru"
        arguments["hidden"] = recipe.gru.hidden
    else:
        architecture = "transformer"
        arguments["heads"] = recipe.transformer.heads
        arguments["block"] = recipe.transformer.block
    if definition is not None:
        arguments["profile"] = profile_arguments(definition)
    if reads_types(recipe):
        arguments["event_types"] = True
    torch.manual_seed(seed)
    model = build_model(architecture, arguments)
    if definition is not None and isinstance(model, Transformer) and model.profile is not None:
        model.profile.define(definition)
    return Made(architecture=architecture, arguments=arguments, model=model)


def profile_arguments(definition: ProfileDefinition) -> dict[str, Json]:
    """Return what `ProfileInputs` is built from."""
    labels: dict[str, Json] = {n: len(one.labels) for n, one in definition.attributes.items()}
    return {"labels": labels, "prior_events": definition.prior_events}


def _profile_of(recipe: Recipe, profiles: ProfileDefinition | None) -> ProfileDefinition | None:
    """Return the definition that the recipe's network reads, if it reads one."""
    if recipe.architecture not in {"transformer", "blend"} or not recipe.transformer.profile:
        return None
    if profiles is None or not profiles.attributes:
        message = (
            f"recipe {recipe.name}: expected categories, brands or prices of items, found "
            f"{'none in the features' if profiles else 'no profile definition'}; next step: give "
            "a catalogue, or take the recipe transformer"
        )
        raise BadRequestError(message)
    return profiles


def reads_types(recipe: Recipe) -> bool:
    """Say whether the recipe's network is given the types of events."""
    return recipe.architecture in {"transformer", "blend"} and recipe.transformer.event_types


def _demand_types(shop: Workshop) -> None:
    """Refuse a recipe that reads types where there is one type only: nothing could be learnt of it."""
    if not reads_types(shop.recipe):
        return
    counts = types_in_train(shop.interactions)
    if (counts > 0).sum() < 2:
        found = [f"{EVENT_TYPES[place]} ({counts[place]})" for place in np.flatnonzero(counts)]
        message = (
            f"recipe {shop.recipe.name}: expected events of two types or more in the train period, "
            f"found {', '.join(found) or 'no events'}; next step: take the same recipe without types"
        )
        raise BadRequestError(message)


def _train(shop: Workshop) -> tuple[Made, list[Epoch]]:
    num_items = shop.interactions.num_items
    _demand_types(shop)
    made = untrained_network(shop.recipe, num_items, shop.seed, shop.profiles)
    assert isinstance(made.model, SequenceModel)  # noqa: S101  narrows the type
    fit = Fit(
        made.model,
        shop.interactions,
        shop.select_examples(),
        fit_settings(shop.recipe, shop.seed),
        ranks=shop.ranks,
        checkpoint_seconds=shop.checkpoint_seconds,
    )
    curve = fit.run(shop.checkpoints, shop.progress)
    return replace(made, resumed_from=fit.resumed_from), curve


def _blend(shop: Workshop, baselines: dict[str, Made], network: Made) -> Made:
    markov, transformer = baselines["markov"], network.model
    frequency = baselines.get("personal_frequency")
    num_items = shop.interactions.num_items
    parts = frequency.model if frequency else PersonalFrequency(num_items)
    assert isinstance(parts, PersonalFrequency)  # noqa: S101  narrows the type
    assert isinstance(markov.model, ItemNeighbours)  # noqa: S101
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
