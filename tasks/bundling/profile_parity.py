"""What the signature `profile` answers, against torch's sealed answers and against numpy's.

Torch's answers came with the compressed model; numpy's are computed here from its definition. A ranking of
labels agrees when each listed label has its own share and no label that is left out has a larger one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.bundling.golden_profiles import GoldenProfiles
from tasks.bundling.profile_signature import RANKED
from tasks.bundling.served_model import LoadedModel
from tasks.contracts.columns import EVENT_TYPES
from tasks.contracts.json_types import Json
from tasks.models.profile_definition import ProfileDefinition, ProfileRequests, profiles

BATCH = 64
TIE = 1e-6  # of a share: float32 in another order
UNKNOWN_ITEM = "\x00 no such item"

Answer = Mapping[str, NDArray[Any]]


def certify_profiles(
    model: LoadedModel,
    definition: ProfileDefinition,
    golden: GoldenProfiles,
    item_ids: Sequence[str],
) -> dict[str, Json]:
    """Ask every golden request alone and in batches; return how far the answers are from each other."""
    asked = golden.requests
    served = [
        _together(model.ask("profile", one) for one in requests)
        for requests in (_alone(asked, definition, item_ids), _batches(asked, definition, item_ids))
    ]
    unknown = [
        int(np.abs(found["unknown_items"] - added).max(initial=0))
        for added, found in enumerate(served)  # the batches have one more item each
    ]
    references = {"torch": golden.answers, "numpy": profiles(definition, asked)}
    differences = {
        name: max(_difference(found, reference, definition) for found in served)
        for name, reference in references.items()
    }
    return {
        "requests": len(asked.items),
        "outputs": [*sorted(served[0])],
        "worst_difference_from_torch": _finite(differences["torch"]),
        "worst_difference_from_numpy": _finite(differences["numpy"]),
        "miscounted_unknown_items": max(unknown),
    }


def _difference(found: Answer, expected: Answer, definition: ProfileDefinition) -> float:
    """Return the largest difference of any number; infinite where labels are ranked wrongly."""
    worst = 0.0
    for name, values in expected.items():
        attribute = name.removesuffix("_shares")
        if attribute in RANKED:
            labels = definition.attributes[attribute].labels
            worst = max(worst, _ranking_difference(found, values, labels, *RANKED[attribute]))
        else:
            away = np.abs(found[name].astype(np.float64) - values)
            worst = max(worst, float(np.where(np.isfinite(away), away, np.inf).max(initial=0.0)))
    return worst


def _ranking_difference(
    found: Answer, shares: NDArray[Any], labels: Sequence[str], names: str, values: str
) -> float:
    place = {label.encode(): code for code, label in enumerate(labels)}
    listed = np.asarray([place.get(name, -1) for name in found[names].ravel()], np.int64)
    listed = listed.reshape(found[names].shape)
    distinct = bool((np.diff(np.sort(listed, axis=1), axis=1) > 0).all())
    if (listed < 0).any() or not distinct or (np.diff(found[values], axis=1) > 0).any():
        return float("inf")
    own = np.take_along_axis(shares, listed, axis=1).astype(np.float64)
    left_out = shares.astype(np.float64)
    np.put_along_axis(left_out, listed, -np.inf, axis=1)
    if (left_out.max(axis=1) > found[values].min(axis=1) + TIE).any():
        return float("inf")
    return float(np.abs(found[values] - own).max(initial=0.0))


def _alone(
    asked: ProfileRequests, definition: ProfileDefinition, item_ids: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield each request without padding; an empty id where nothing is left."""
    sent = _sent(asked, definition, item_ids)
    for row, known in enumerate(asked.items > 0):
        kept = known.copy()
        kept[-1] = True
        yield {name: array[row : row + 1, kept] for name, array in sent.items()}


def _batches(
    asked: ProfileRequests, definition: ProfileDefinition, item_ids: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield batches with an item that nobody knows behind every request: it must change nothing."""
    sent = _sent(asked, definition, item_ids)
    unknown = {
        "history": UNKNOWN_ITEM,
        "steps_ago": 1,
        "event_types": EVENT_TYPES[0],
        "days_ago": 0.0,
    }
    for start in range(0, len(asked.items), BATCH):
        part = {name: array[start : start + BATCH] for name, array in sent.items()}
        yield {
            name: np.concatenate(
                [array, np.full((len(array), 1), unknown[name], array.dtype)], axis=1
            )
            for name, array in part.items()
        }


def _sent(
    asked: ProfileRequests, definition: ProfileDefinition, item_ids: Sequence[str]
) -> dict[str, NDArray[Any]]:
    types = np.asarray(["", *EVENT_TYPES], object)
    sent: dict[str, NDArray[Any]] = {
        "history": np.asarray(["", *item_ids], object)[asked.items],
        "steps_ago": asked.steps_ago,
        "event_types": types[asked.event_types],
    }
    return sent | ({"days_ago": asked.days_ago} if definition.timed else {})


def _together(answers: Iterator[Answer]) -> dict[str, NDArray[Any]]:
    found = list(answers)
    return {name: np.concatenate([answer[name] for answer in found]) for name in found[0]}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
