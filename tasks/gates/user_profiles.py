"""What gates expect of users' profiles: in the features they are made of, and in what is served."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.contracts.columns import CATEGORY_SEPARATOR, EVENT_TYPES
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json
from tasks.gates.checks import Measurement
from tasks.gates.model_measurements import none_of
from tasks.gates.records import number
from tasks.gates.saved_model_signatures import Signature, Tensor
from tasks.models.interactions import Interactions
from tasks.models.profile_definition import (
    BRAND,
    CATEGORY,
    PRICE,
    PROFILE_DEFINITION_FILE,
    Attribute,
    ProfileDefinition,
    next_types_by_last_two,
    shares_in_train,
)

MAX_DIFFERENCE = 1e-5  # of a share or of a number of days
_ROUNDING = 1e-6
_LEAK = (
    "Profiles would know of later events, or of other items: mend the code that builds features."
)
_OTHERWISE = "What is served is not what models were given in training."
_SHARES = Tensor(dtype="float32", shape=(-1, -1))
_NAMES = Tensor(dtype="string", shape=(-1, -1))
_COUNT = Tensor(dtype="int64", shape=(-1,))


def of_features(features: Interactions, items: pd.DataFrame, folder: Path) -> list[Measurement]:
    """Return what is expected of labels, shares and next types: all counted again from the events."""
    path = folder / PROFILE_DEFINITION_FILE
    if not path.is_file():
        message = f"{path.name}: expected this file in the payload, found none"
        raise BadRequestError(message)
    definition = ProfileDefinition.load(path)
    listed = items.sort_values("item_index")
    outside = (features.event_type < 0) | (features.event_type >= len(EVENT_TYPES))
    types = none_of(
        "event types outside the contract",
        outside.sum(),
        f"{', '.join(EVENT_TYPES)}, by their places",
        why="Chances of the next type are counted from them: mend the code that builds features.",
    )
    if outside.any():
        return [types]
    found = [
        types,
        Measurement(
            name="profile next types",
            value=float(
                np.abs(definition.next_types - next_types_by_last_two(features)).max(initial=0.0)
            ),
            maximum=_ROUNDING,
            expected="chances counted from the train period only",
            why=_LEAK,
        ),
    ]
    for name, attribute in definition.attributes.items():
        found += _of_attribute(name, attribute, features, listed, definition)
    return found


def _of_attribute(
    name: str,
    attribute: Attribute,
    features: Interactions,
    items: pd.DataFrame,
    definition: ProfileDefinition,
) -> list[Measurement]:
    if not len(attribute.codes) == features.num_items + 1 == len(items) + 1:
        message = (
            f"{PROFILE_DEFINITION_FILE}: expected a {name} code for 0 and each of "
            f"{features.num_items} items, found {len(attribute.codes)} codes"
        )
        raise BadRequestError(message)
    wrong = np.flatnonzero(_mislabelled(name, attribute, items, definition.price_bounds))
    counted = shares_in_train(features, attribute.codes, len(attribute.labels))
    return [
        none_of(
            f"profile labels of {name}",
            len(wrong),
            "every item under its own label",
            where=f"(e.g. item {items['item_id'].iloc[wrong[0]]})" if len(wrong) else "",
            why=_LEAK,
        ),
        Measurement(
            name=f"profile shares of {name}",
            value=float(np.abs(attribute.shares - counted).max(initial=0.0)),
            maximum=_ROUNDING,
            expected="shares counted from the train period only",
            why=_LEAK,
        ),
    ]


def _mislabelled(
    name: str, attribute: Attribute, items: pd.DataFrame, bounds: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return [I]: whether an item's label is not what the catalogue says of it."""
    codes = attribute.codes[1:]
    if name == PRICE:
        prices = items["price"].to_numpy(np.float64, na_value=np.nan)
        band = np.searchsorted(bounds, prices, side="left") + 1
        return np.asarray(np.isfinite(prices) & (codes != band))  # else it is the median paid
    labels = np.asarray(["", *attribute.labels], object)[codes]
    told = items[name].fillna("").astype(str)
    end = CATEGORY_SEPARATOR if name == CATEGORY else "\0"
    return np.asarray(
        [
            bool(label) and not f"{value}{end}".startswith(f"{label}{end}")
            for label, value in zip(labels, told, strict=True)
        ],
        np.bool_,
    )


def of_certificate(certificate: Mapping[str, Json], least: int) -> list[Measurement]:
    """Return what is expected of the served profiles: torch's and numpy's numbers."""
    record = cast("dict[str, Json]", certificate.get("profile") or {})
    found = [
        Measurement(
            name=f"profiles unlike {reference}'s",
            value=number(record, f"worst_difference_from_{reference}"),
            maximum=MAX_DIFFERENCE,
            why=_OTHERWISE,
        )
        for reference in ("torch", "numpy")
    ]
    return [
        *found,
        Measurement(
            name="golden profiles", value=number(record, "requests"), minimum=least, unit="count"
        ),
        Measurement(
            name="unknown items miscounted",
            value=number(record, "miscounted_unknown_items"),
            maximum=0,
            unit="count",
            expected="unknown items counted, and nothing else changed by them",
            why=_OTHERWISE,
        ),
    ]


def signature(history: Mapping[str, Tensor], bundle: Mapping[str, Json]) -> Signature:
    """Return the signature `profile` with the parts that the bundle says its set has."""
    record = cast("dict[str, Json]", bundle.get("profile") or {})
    parts = set(cast("list[str]", record.get("parts") or []))
    inputs = {**history, "event_types": _NAMES}
    outputs = {"events": _COUNT, "steps": _COUNT, "unknown_items": _COUNT, "next_types": _SHARES}
    if CATEGORY in parts:
        outputs |= {"categories": _NAMES, "category_shares": _SHARES}
    if BRAND in parts:
        outputs |= {"brands": _NAMES, "brand_shares": _SHARES}
    if PRICE in parts:
        outputs |= {"price_shares": _SHARES}
    if "days" in parts:
        inputs |= {"days_ago": _SHARES}
        outputs |= {
            "days_since_last": Tensor(dtype="float32", shape=(-1,)),
            "recent_events": Tensor(dtype="int64", shape=(-1, -1)),
        }
    optional = frozenset(inputs) - {"history"}
    return Signature(inputs=inputs, outputs=outputs, optional=optional)
