"""What users' profiles are made of: labels of items and their shares, all from the train period."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
from ibis.backends.duckdb import Backend
from numpy.typing import NDArray

from tasks.contracts.columns import CATEGORY_SEPARATOR, Period
from tasks.contracts.json_types import Json
from tasks.features.event_log import EventLog
from tasks.features.settings import FeatureSettings
from tasks.models.interactions import Interactions
from tasks.models.profile_definition import (
    BRAND,
    CATEGORY,
    PRICE,
    Attribute,
    ProfileDefinition,
    next_types_by_last_two,
    shares_in_train,
)

_BAND_CUTS = (0.2, 0.4, 0.6, 0.8)

Floats = NDArray[np.float64]


def define_profiles(
    connection: Backend,
    log: EventLog,
    items: pa.Table,
    interactions: Interactions,
    settings: FeatureSettings,
) -> ProfileDefinition:
    """Return how profiles of this set are computed, with the parts that its items have."""
    depth, most = settings.category_depth, settings.max_labels
    categories = [_widest(path, depth) for path in items.column("category").to_pylist()]
    brands = [name or "" for name in items.column("brand").to_pylist()]
    prices = _prices(connection, log, items)
    bounds = _bounds(prices, interactions)
    found = {
        CATEGORY: _labelled(categories, interactions, most),
        BRAND: _labelled(brands, interactions, most),
        PRICE: _banded(prices, bounds, interactions),
    }
    return ProfileDefinition(
        attributes={name: attribute for name, attribute in found.items() if attribute.labels},
        next_types=next_types_by_last_two(interactions),
        price_bounds=bounds,
        prior_events=settings.prior_events,
        timed=not log.order_only,
    )


def describe_profiles(definition: ProfileDefinition) -> dict[str, Json]:
    """Return the parts, and the share of the train period's events that each can label."""
    return {
        "timed": definition.timed,
        "prior_events": definition.prior_events,
        "parts": {
            name: {
                "labels": len(attribute.labels),
                "labelled_share": round(1.0 - float(attribute.shares[0]), 6),
            }
            for name, attribute in definition.attributes.items()
        },
    }


def _widest(path: str | None, depth: int) -> str:
    return CATEGORY_SEPARATOR.join((path or "").split(CATEGORY_SEPARATOR)[:depth])


def _labelled(names: list[str], interactions: Interactions, most: int) -> Attribute:
    """Return the `most` labels that train has most often, by frequency and then by name."""
    counts = np.bincount(
        interactions.items[interactions.period == Period.TRAIN],
        minlength=interactions.num_items + 1,
    )
    events: dict[str, int] = {}
    for name, count in zip(names, counts[1:], strict=True):
        if name:
            events[name] = events.get(name, 0) + int(count)
    labels = sorted(events, key=lambda name: (-events[name], name))[:most]
    place = {name: code for code, name in enumerate(labels, start=1)}
    codes = np.asarray([0, *[place.get(name, 0) for name in names]], np.int16)
    return _attribute(labels, codes, interactions)


def _prices(connection: Backend, log: EventLog, items: pa.Table) -> Floats:
    """Return [I] of the catalogue, else the median paid in train, else not a number."""
    train = log.events.filter(log.events.period == Period.TRAIN.label)
    paid = train.group_by("item_id").aggregate(price=train.price.median())
    rows = connection.to_pyarrow(paid.order_by("item_id")).to_pylist()
    median = {row["item_id"]: row["price"] for row in rows if row["price"] is not None}
    listed = zip(
        items.column("item_id").to_pylist(), items.column("price").to_pylist(), strict=True
    )
    known: list[Any] = [median.get(item) if price is None else price for item, price in listed]
    return np.asarray([np.nan if price is None else price for price in known], np.float64)


def _bounds(prices: Floats, interactions: Interactions) -> Floats:
    """Return the prices that cut the train period's events into five equal parts, each once."""
    trained = interactions.items[interactions.period == Period.TRAIN]
    paid = prices[trained - 1]
    paid = paid[np.isfinite(paid)]
    if len(paid) == 0:
        return np.zeros(0, np.float64)
    return np.unique(np.quantile(paid, _BAND_CUTS, method="inverted_cdf"))


def _banded(prices: Floats, bounds: Floats, interactions: Interactions) -> Attribute:
    """Return price bands: the first up to and with the first bound, the last above the last one."""
    if len(bounds) == 0:
        return _attribute([], np.zeros(len(prices) + 1, np.int16), interactions)
    band = np.searchsorted(bounds, prices, side="left") + 1
    codes = np.concatenate([[0], np.where(np.isfinite(prices), band, 0)]).astype(np.int16)
    shown = [f"{bound:g}" for bound in bounds]
    between = [f"above {low} up to {high}" for low, high in itertools.pairwise(shown)]
    return _attribute([f"up to {shown[0]}", *between, f"above {shown[-1]}"], codes, interactions)


def _attribute(
    labels: list[str], codes: NDArray[np.int16], interactions: Interactions
) -> Attribute:
    shares = shares_in_train(interactions, codes, len(labels))
    return Attribute(labels=tuple(labels), codes=codes, shares=shares)
