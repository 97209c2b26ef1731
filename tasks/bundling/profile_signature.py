"""The signature `profile`: what a request's events say of the user, with labels in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tensorflow as tf

from tasks.bundling.aten_graph import Array, AtenGraph, read_graph
from tasks.contracts.columns import EVENT_TYPES
from tasks.contracts.json_types import Json
from tasks.models.profile_definition import (
    BRAND,
    CATEGORY,
    PRICE,
    PROFILE_DEFINITION_FILE,
    RECENT_DAYS,
    ProfileDefinition,
)

LISTED = 10  # labels of an answer, the largest share first
# What the answers call a ranking of labels and its shares.
RANKED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {CATEGORY: ("categories", "category_shares"), BRAND: ("brands", "brand_shares")}
)


@dataclass(frozen=True, kw_only=True)
class ServedProfile:
    """The graph of a profile with the definition that its labels come from."""

    graph: AtenGraph
    weights: Mapping[str, Array]
    definition: ProfileDefinition

    @property
    def text(self) -> str:
        """Return what tells this profile from another besides the weights."""
        labels = [label for one in self.definition.attributes.values() for label in one.labels]
        return "\0".join([self.graph.to_text(), *labels])

    def record(self) -> dict[str, Json]:
        """Return what a client must know to read the answers."""
        attributes = self.definition.attributes
        price = attributes.get(PRICE)
        return {
            "parts": [*attributes, *(["days"] if self.definition.timed else [])],
            "listed": LISTED,
            "prior_events": self.definition.prior_events,
            "event_types": list(EVENT_TYPES),
            "recent_days": list(RECENT_DAYS),
            "price_bands": [] if price is None else list(price.labels),
            "shares_of_all": {
                name: dict(
                    zip(one.labels, (round(float(s), 6) for s in one.shares[1:]), strict=True)
                )
                for name, one in attributes.items()
            },
        }


def read_profile(folder: Path) -> ServedProfile:
    """Return the profile of a compressed model."""
    graph, weights = read_graph(folder)
    definition = ProfileDefinition.load(folder / PROFILE_DEFINITION_FILE)
    return ServedProfile(graph=graph, weights=weights, definition=definition)


def profile_outputs(
    profile: ServedProfile, made: Mapping[str, Any], history: Any, items: Any
) -> dict[str, Any]:
    """Return the answer from the graph's outputs `made`.

    `history` string [B, L] is what the client sent and `items` int64 [B, L] what of it is known.
    """
    attributes = profile.definition.attributes
    ranked = [name for name in RANKED if name in attributes]
    dense = {f"{name}_shares" for name in ranked}
    found = {name: value for name, value in made.items() if name not in dense}
    sent = tf.cast(tf.not_equal(history, ""), tf.int64)
    known = tf.cast(items > 0, tf.int64)
    found["unknown_items"] = tf.reduce_sum(sent - known, axis=1)
    for name in ranked:
        found |= _ranked(made[f"{name}_shares"], attributes[name].labels, *RANKED[name])
    return found


def _ranked(shares: Any, labels: Sequence[str], names: str, values: str) -> dict[str, Any]:
    best = tf.math.top_k(shares, min(LISTED, len(labels)))
    return {names: tf.gather(tf.constant(list(labels)), best.indices), values: best.values}
