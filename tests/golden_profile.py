"""The profiles of tests/golden/profile-1.json: worked out by hand, for numpy, torch and the served model."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tasks.contracts.columns import EVENT_TYPES
from tasks.models.profile_definition import (
    ATTRIBUTES,
    Attribute,
    ProfileDefinition,
    ProfileRequests,
)

PATH = Path(__file__).parent / "golden" / "profile-1.json"
GOLDEN: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
IDS: tuple[str, ...] = tuple(GOLDEN["definition"]["items"])
ANSWERS: tuple[dict[str, Any], ...] = tuple(case["answer"] for case in GOLDEN["requests"])


def definition(
    *, timed: bool = True, attributes: tuple[str, ...] = ATTRIBUTES
) -> ProfileDefinition:
    """Return the golden definition, or one of a set that has less."""
    told = GOLDEN["definition"]
    return ProfileDefinition(
        attributes={
            name: Attribute(
                labels=tuple(told[name]["labels"]),
                codes=np.asarray(told[name]["codes"], np.int16),
                shares=np.asarray(told[name]["shares"], np.float32),
            )
            for name in attributes
        },
        next_types=np.asarray(told["next_types"], np.float32),
        price_bounds=np.asarray(told["price_bounds"], np.float64),
        prior_events=told["prior_events"],
        timed=timed,
    )


def sent() -> dict[str, list[Any]]:
    """Return the requests as one batch that a client would send."""
    names = ("history", "steps_ago", "event_types", "days_ago")
    return {name: [case[name] for case in GOLDEN["requests"]] for name in names}


def asked() -> ProfileRequests:
    """Return the requests as the network sees them: known items at the right end."""
    rows: dict[str, list[list[Any]]] = {name: [] for name in ("items", "ago", "types", "days")}
    for case in GOLDEN["requests"]:
        events = zip(
            case["history"], case["steps_ago"], case["event_types"], case["days_ago"], strict=True
        )
        known = [event for event in events if event[0] in IDS]
        padded = [("", 0, "", -1.0)] * (len(case["history"]) - len(known)) + known
        rows["items"].append([IDS.index(item) + 1 if item else 0 for item, *_ in padded])
        rows["ago"].append([ago for _, ago, _, _ in padded])
        rows["types"].append([EVENT_TYPES.index(t) + 1 if t else 0 for _, _, t, _ in padded])
        rows["days"].append([days for *_, days in padded])
    return ProfileRequests(
        items=np.asarray(rows["items"], np.int64),
        steps_ago=np.asarray(rows["ago"], np.int64),
        event_types=np.asarray(rows["types"], np.int64),
        days_ago=np.asarray(rows["days"], np.float32),
    )


def expected(name: str) -> list[Any]:
    """Return what every request's answer has under `name`, fractions as numbers."""
    return [_number(answer[name], fraction=name.endswith("_shares")) for answer in ANSWERS]


def dense(attribute: str) -> list[list[float]]:
    """Return the expected shares in the order of the labels."""
    labels = GOLDEN["definition"][attribute]["labels"]
    plural = {"category": "categories", "brand": "brands"}.get(attribute)
    found = []
    for row, answer in enumerate(ANSWERS):
        shares = expected(f"{attribute}_shares")[row]
        order = answer[plural] if plural else labels
        found.append([dict(zip(order, shares, strict=True))[label] for label in labels])
    return found


def _number(value: Any, *, fraction: bool) -> Any:
    return [float(Fraction(*pair)) for pair in value] if fraction else value
