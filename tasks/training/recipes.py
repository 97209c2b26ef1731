"""Recipes: a named function per way of making a model. Names stand in `contracts.catalogues`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Literal

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json
from tasks.models.transformer import BlockKind
from tasks.training.fit import Schedule
from tasks.training.losses import Loss

Architecture = Literal[
    "popularity",
    "personal_frequency",
    "markov",
    "first_order_markov",
    "ease",
    "item_knn",
    "ials",
    "gru",
    "transformer",
    "blend",
]


@dataclass(frozen=True, kw_only=True)
class MarkovSettings:
    """The windowed chain: pairs up to `window` steps apart; the history decays per step."""

    window: int = 10
    neighbours: int = 32
    last_items: int = 128
    decay: float = 0.8
    popularity_power: float = 0.25  # of an item, that its weights are divided by


@dataclass(frozen=True, kw_only=True)
class EaseSettings:
    """Regression of each item on all others; chosen on MovieLens-1M's select items."""

    l2: float = 1000.0
    neighbours: int = 256
    last_items: int = 50
    decay: float = 0.8
    max_items: int = 8_000  # the most taken, the others have no neighbours; half a minute


@dataclass(frozen=True, kw_only=True)
class ItemKnnSettings:
    """Sharpened cosines of items by their users; chosen on MovieLens-1M's select items."""

    power: float = 0.6
    shrinkage: float = 10.0
    sharpness: float = 2.0
    neighbours: int = 256
    last_items: int = 50
    decay: float = 0.7
    max_items: int = 20_000  # the most taken; the others have no neighbours


@dataclass(frozen=True, kw_only=True)
class IalsSettings:
    """Implicit alternating least squares; chosen on MovieLens-1M's select items."""

    width: int = 128
    l2: float = 10.0
    alpha: float = 5.0  # confidence in an item that was taken, above that in one that was not
    iterations: int = 12
    last_items: int = 50
    decay: float = 0.8
    seed: int = 1  # of the first factors
    request_iterations: int = 8  # of conjugate gradients, when a user is solved for


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """How a network over the last steps is trained."""

    steps: int = 50
    width: int = 64
    layers: int = 2
    dropout: float = 0.2
    max_epochs: int = 10
    patience: int = 2
    batch_windows: int = 32
    learning_rate: float = 2e-3
    negatives: int = 256
    weight_decay: float = 0.01
    schedule: Schedule = "constant"
    loss: Loss = "sampled_softmax"
    calibration: float = 0.75  # gBCE's t
    temperature: float | None = None  # scores are cosines divided by it, or, without, products
    bf16: bool = False  # the network's products in bfloat16; weights, loss and sums in float32
    length_buckets: int = (
        1  # in how many lengths windows are batched; 1: all are padded to the whole
    )


@dataclass(frozen=True, kw_only=True)
class TransformerSettings(NetworkSettings):
    """The causal Transformer and its training."""

    heads: int = 2
    block: BlockKind = "pre_norm"
    profile: bool = False  # whether shares of the user's profile are an input
    event_types: bool = (
        False  # whether types of events are an input, and the next one's is foretold
    )
    next_type_weight: float = 1.0  # of the next type's cross entropy beside the items' loss
    unknown_types: float = 0.2  # the share of windows shown without types: how other clients ask

    def __post_init__(self) -> None:
        """Refuse a weight and a share that cannot be."""
        within(self, "next_type_weight", 0.0, 10.0)
        within(self, "unknown_types", 0.0, 1.0)


def within(settings: TransformerSettings, name: str, least: float, most: float) -> None:
    """Refuse a setting outside its bounds, and what is no number."""
    value = getattr(settings, name)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        message = f"{name}: expected a number from {least:g} to {most:g}, found {value!r:.80}"
        raise BadRequestError(message)


SHORT = TransformerSettings(  # of short histories and rare items; chosen on Beauty's select items
    steps=20,
    width=128,
    block="ligr",
    dropout=0.4,
    max_epochs=30,
    patience=30,  # the schedule is run to its end; the best epoch is kept
    batch_windows=256,
    learning_rate=2e-3,
    weight_decay=0.0,
    schedule="cosine",
    loss="softmax",
    temperature=0.05,
)


@dataclass(frozen=True, kw_only=True)
class GruSettings(NetworkSettings):
    """The recurrent network and its training."""

    layers: int = 1
    hidden: int = 128


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides how a model comes out, but for the data and the seed."""

    name: str
    architecture: Architecture
    max_length: int  # items of a history that the model is shown
    frequency_decay: float = 0.97
    markov: MarkovSettings = MarkovSettings()
    ease: EaseSettings = EaseSettings()
    item_knn: ItemKnnSettings = ItemKnnSettings()
    ials: IalsSettings = IalsSettings()
    transformer: TransformerSettings = TransformerSettings()
    gru: GruSettings = GruSettings()
    select_steps_per_user: int = 3  # latest steps of the select period that stop the training
    blend_steps_per_user: int = 8  # latest steps of the select period that choose the weights
    threads: int = 1

    @property
    def network(self) -> NetworkSettings:
        """Return how the network of this recipe is trained, if it has one."""
        return self.gru if self.architecture == "gru" else self.transformer

    def resolved(self) -> dict[str, Json]:
        """Return every setting as JSON: part of the artifact's key."""
        return dict(asdict(self))


def popularity(*, baskets: bool) -> Recipe:
    """Most bought items for everybody: what a first release ships."""
    return Recipe(name="popularity", architecture="popularity", max_length=_length(baskets))


def personal_frequency(*, baskets: bool) -> Recipe:
    """Return what this user bought often and lately."""
    length = _length(baskets)
    return Recipe(name="personal_frequency", architecture="personal_frequency", max_length=length)


def markov(*, baskets: bool) -> Recipe:
    """Windowed Markov chain over the last ten steps."""
    return Recipe(
        name="markov",
        architecture="markov",
        max_length=_length(baskets),
        markov=_markov(baskets),
    )


def first_order_markov(*, baskets: bool) -> Recipe:
    """Markov chain of order 1: what followed the last step at once."""
    return Recipe(
        name="first_order_markov",
        architecture="first_order_markov",
        max_length=_length(baskets),
        markov=_markov(baskets),
    )


def ease(*, baskets: bool) -> Recipe:
    """Regression of each item on all others, over the last items (EASE)."""
    return Recipe(
        name="ease",
        architecture="ease",
        max_length=_length(baskets),
        markov=_markov(baskets),
        ease=_ease(baskets),
    )


def item_knn(*, baskets: bool) -> Recipe:
    """Items that the same users took, over the last items."""
    return Recipe(
        name="item_knn",
        architecture="item_knn",
        max_length=_length(baskets),
        markov=_markov(baskets),
        item_knn=_item_knn(baskets),
    )


def transformer(*, baskets: bool) -> Recipe:
    """Causal Transformer with sampled softmax."""
    return Recipe(
        name="transformer",
        architecture="transformer",
        max_length=_length(baskets),
        markov=_markov(baskets),
        transformer=_transformer(baskets),
    )


def profiled_transformer(*, baskets: bool) -> Recipe:
    """Causal Transformer that is also given the user's profile: shares of categories, brands, prices."""
    return Recipe(
        name="profiled_transformer",
        architecture="transformer",
        max_length=_length(baskets),
        markov=_markov(baskets),
        transformer=replace(_transformer(baskets), profile=True),
    )


def typed_transformer(*, baskets: bool) -> Recipe:
    """Causal Transformer that is given the type of each event, and also foretells the next one's."""
    return Recipe(
        name="typed_transformer",
        architecture="transformer",
        max_length=_length(baskets),
        markov=_markov(baskets),
        transformer=replace(_transformer(baskets), event_types=True),
    )


def blended_typed_transformer(*, baskets: bool) -> Recipe:
    """Blend of `typed_transformer` with personal frequency and Markov."""
    return Recipe(
        name="blended_typed_transformer",
        architecture="blend",
        max_length=_length(baskets),
        markov=_markov(baskets),
        transformer=replace(_transformer(baskets), event_types=True),
    )


def ials(*, baskets: bool) -> Recipe:
    """Factors of users and items by implicit alternating least squares (iALS)."""
    return Recipe(
        name="ials",
        architecture="ials",
        max_length=_length(baskets),
        markov=_markov(baskets),
        ials=IalsSettings(last_items=128) if baskets else IalsSettings(),
    )


def gru(*, baskets: bool) -> Recipe:
    """Recurrent network (GRU4Rec) with sampled softmax."""
    return Recipe(
        name="gru",
        architecture="gru",
        max_length=_length(baskets),
        markov=_markov(baskets),
        gru=_gru(baskets),
    )


def wide_transformer(*, baskets: bool) -> Recipe:
    """Wide Transformer of gated blocks by the full softmax: a GPU's work, minutes there and hours on a CPU."""
    steps = 50 if baskets else 200
    return Recipe(
        name="wide_transformer",
        architecture="transformer",
        max_length=_length(baskets) if baskets else steps,
        markov=_markov(baskets),
        transformer=TransformerSettings(
            steps=steps,
            width=256,
            heads=4,
            block="ligr",
            dropout=0.4,
            max_epochs=60,
            patience=60,  # the schedule is run to its end; the best epoch is kept
            batch_windows=128,
            learning_rate=1e-3,
            weight_decay=0.0,
            schedule="cosine",
            loss="softmax",
            bf16=True,
        ),
    )


def blended_transformer(*, baskets: bool) -> Recipe:
    """Blend Transformer, personal frequency and Markov in one graph."""
    return Recipe(
        name="blended_transformer",
        architecture="blend",
        max_length=_length(baskets),
        markov=_markov(baskets),
        transformer=_transformer(baskets),
    )


def short_transformer(*, baskets: bool) -> Recipe:
    """Score by a Transformer over the last twenty steps, cosines and full softmax: short histories, rare items."""
    return Recipe(
        name="short_transformer",
        architecture="transformer",
        max_length=_length(baskets),
        markov=_markov(baskets),
        transformer=SHORT,
    )


def blended_short_transformer(*, baskets: bool) -> Recipe:
    """Blend of `short_transformer` with Markov."""
    return Recipe(
        name="blended_short_transformer",
        architecture="blend",
        max_length=_length(baskets),
        markov=replace(_markov(baskets), neighbours=256),
        transformer=SHORT,
    )


def _length(baskets: bool) -> int:
    return 384 if baskets else 100


def _markov(baskets: bool) -> MarkovSettings:
    return MarkovSettings() if baskets else MarkovSettings(last_items=20, neighbours=64)


def _ease(baskets: bool) -> EaseSettings:
    return EaseSettings(neighbours=32, last_items=128) if baskets else EaseSettings()


def _item_knn(baskets: bool) -> ItemKnnSettings:
    return ItemKnnSettings(neighbours=32, last_items=128) if baskets else ItemKnnSettings()


def _transformer(baskets: bool) -> TransformerSettings:
    if baskets:
        return TransformerSettings()
    return TransformerSettings(steps=100, max_epochs=14, batch_windows=128, negatives=512)


def _gru(baskets: bool) -> GruSettings:
    if baskets:
        return GruSettings()
    return GruSettings(
        steps=100,
        width=128,
        hidden=256,
        max_epochs=12,
        patience=12,  # the schedule is run to its end; the best epoch is kept
        batch_windows=32,
        learning_rate=2e-3,
        negatives=512,
        weight_decay=0.0,
        schedule="cosine",
    )


RECIPES: MappingProxyType[str, Callable[..., Recipe]] = MappingProxyType(
    {
        recipe.__name__: recipe
        for recipe in (
            popularity,
            personal_frequency,
            markov,
            first_order_markov,
            ease,
            item_knn,
            ials,
            gru,
            transformer,
            profiled_transformer,
            typed_transformer,
            blended_typed_transformer,
            wide_transformer,
            blended_transformer,
            short_transformer,
            blended_short_transformer,
        )
    }
)


def recipe_named(name: str, *, baskets: bool) -> Recipe:
    """Return a recipe, resolved for baskets or for plain sequences."""
    if name not in RECIPES:
        message = f"recipe: expected one of {sorted(RECIPES)}, found {name!r:.80}"
        raise BadRequestError(message)
    return RECIPES[name](baskets=baskets)
