"""What a user's profile is, in numpy: shares, next type, activity and recency of one request's events.

`user_profile.py` says the same in torch: that is what is served and what networks are given. Every bundle's
certificate holds the three against each other.

A share is (events of the label + prior * the label's share in train) / (events + prior): nobody's is that of
all users, and with every event it becomes more the user's own (a Dirichlet prior; MacKay and Peto, 1995). Only
events on items of the vocabulary count. Label 0 stands for items without a label, or with one too rare to be
kept: it is part of the whole, so that the named shares add up to 1 or less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.columns import EVENT_TYPES
from tasks.contracts.errors import BadRequestError
from tasks.models.behaviour_chain import TYPES, count_behaviour
from tasks.models.interactions import Examples, Int64s, Interactions, history_batch, history_rows
from tasks.models.npz_files import arrays_of

PROFILE_DEFINITION_FILE = "profile_definition.npz"
CATEGORY, BRAND, PRICE = "category", "brand", "price"  # in the order of the outputs
ATTRIBUTES = (CATEGORY, BRAND, PRICE)
LAST_TYPES = 2  # how many of them foretell the next one
RECENT_DAYS = (1, 7, 28)
UNKNOWN_DAYS = -1.0
DAY_SECONDS = 86_400
_FORMAT = "profile_definition/1"

Float32s: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """A labelling of items: `codes[item]` is 0 or one more than a place in `labels`."""

    labels: tuple[str, ...]  # [A]
    codes: NDArray[np.int16]  # [I + 1]
    shares: Float32s  # [A + 1] of the train period's events

    def __post_init__(self) -> None:
        """Refuse codes without a label and shares of another number."""
        largest = int(self.codes.max(initial=0))
        lowest = int(self.codes.min(initial=0))
        if lowest < 0 or largest > len(self.labels) or len(self.shares) != len(self.labels) + 1:
            message = (
                f"profile: expected codes of 0 to {len(self.labels)} labels and a share of each, "
                f"found codes {lowest} to {largest} and {len(self.shares)} shares"
            )
            raise BadRequestError(message)


@dataclass(frozen=True, kw_only=True)
class ProfileDefinition:
    """Everything a profile depends on besides the user's events; all of it is of the train period."""

    attributes: Mapping[str, Attribute]  # those of ATTRIBUTES that the set has, in that order
    next_types: Float32s  # [(T + 1)^2, T] P(next type) by the last two, 0 where there was none
    price_bounds: NDArray[np.float64]  # [bands - 1], in the set's currency; empty without prices
    prior_events: float
    timed: bool  # whether events have times: recency and activity by days

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of the outputs in order."""
        days = ("days_since_last", "recent_events") if self.timed else ()
        shares = tuple(f"{name}_shares" for name in self.attributes)
        return ("events", "steps", *shares, "next_types", *days)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of the inputs in order."""
        return ("items", "steps_ago", "event_types", *(("days_ago",) if self.timed else ()))

    def save(self, path: Path) -> None:
        """Write an uncompressed npz: equal definitions give equal bytes."""
        arrays: dict[str, Any] = {
            "format": np.asarray(_FORMAT),
            "attributes": np.asarray([*self.attributes], np.str_),
            "next_types": self.next_types,
            "price_bounds": self.price_bounds,
            "prior_events": np.asarray(self.prior_events, np.float64),
            "timed": np.asarray(self.timed),
        }
        for name, attribute in self.attributes.items():
            arrays[f"{name}__labels"] = np.asarray(attribute.labels, np.str_)
            arrays[f"{name}__codes"] = attribute.codes
            arrays[f"{name}__shares"] = attribute.shares
        np.savez(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> ProfileDefinition:
        """Read what `save` wrote."""
        with arrays_of(path, _FORMAT) as arrays:
            return cls(
                attributes={
                    str(name): Attribute(
                        labels=tuple(str(label) for label in arrays[f"{name}__labels"]),
                        codes=arrays[f"{name}__codes"],
                        shares=arrays[f"{name}__shares"],
                    )
                    for name in arrays["attributes"]
                },
                next_types=arrays["next_types"],
                price_bounds=arrays["price_bounds"],
                prior_events=float(arrays["prior_events"]),
                timed=bool(arrays["timed"]),
            )


@dataclass(frozen=True, kw_only=True)
class ProfileRequests:
    """R requests of up to L events, right-aligned; 0 (days: -1) where there is none or it is unknown."""

    items: Int64s  # [R, L]
    steps_ago: Int64s  # [R, L] 1 for the latest step
    event_types: Int64s  # [R, L] one more than the place in EVENT_TYPES
    days_ago: Float32s  # [R, L] days between the event and the request

    def given(self, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        """Return the named inputs."""
        return {name: getattr(self, name) for name in names}


def next_types_by_last_two(interactions: Interactions) -> Float32s:
    """Return P(next type) [(T + 1)^2, T] of the train period; row = previous * (T + 1) + last."""
    chain = count_behaviour(interactions, LAST_TYPES)
    shares, after_one, after_two = (
        replace(chain, counts=chain.counts[: order + 1]).table() for order in range(LAST_TYPES + 1)
    )
    table: NDArray[Any] = np.empty((TYPES + 1, TYPES + 1, TYPES), np.float64)
    table[:, 0] = shares[0]
    table[0, 1:] = after_one
    table[1:, 1:] = after_two.reshape(TYPES, TYPES, TYPES)
    return table.reshape(-1, TYPES).astype(np.float32)


def shares_in_train(interactions: Interactions, codes: NDArray[np.int16], labels: int) -> Float32s:
    """Return [labels + 1]: the shares of the train period's events by label."""
    known = (interactions.items >= 0) & (interactions.items < len(codes))  # a gate asks, too
    trained = codes[interactions.items[known & (interactions.period == 0)]]
    counts = np.bincount(trained, minlength=labels + 1)
    return (counts / max(int(counts.sum()), 1)).astype(np.float32)


def request_moments(interactions: Interactions, examples: Examples) -> Int64s:
    """Return [E] unix seconds: when the step to foretell happened, or the last event if it is unknown."""
    steps = interactions.step_offsets[examples.user] + examples.step
    beyond = np.append(interactions.step_ends, len(interactions.items))  # a request after all steps
    seen = beyond[np.minimum(steps, len(beyond) - 1)] > examples.end
    within = steps < interactions.step_offsets[examples.user + 1]
    rows = np.where(seen & within, examples.end, examples.end - 1)
    if len(interactions.time) == 0:
        return np.zeros(len(rows), np.int64)
    moments: Int64s = interactions.time[np.clip(rows, 0, len(interactions.time) - 1)]
    return moments


def profile_requests(
    interactions: Interactions, examples: Examples, max_length: int, at: Int64s
) -> ProfileRequests:
    """Return the events before each example as a client would send them at `at` [E] unix seconds."""
    items, steps_ago = history_batch(interactions, examples, max_length)
    rows, inside = history_rows(interactions, examples, max_length)
    if len(interactions.items) == 0:
        return ProfileRequests(
            items=items,
            steps_ago=steps_ago,
            event_types=np.zeros_like(items),
            days_ago=np.full(items.shape, UNKNOWN_DAYS, np.float32),
        )
    types = interactions.event_type[rows].astype(np.int64) + 1
    days = (at[:, None] - interactions.time[rows]) / DAY_SECONDS
    return ProfileRequests(
        items=items,
        steps_ago=steps_ago,
        event_types=np.where(inside, types, 0),
        days_ago=np.where(inside, days, UNKNOWN_DAYS).astype(np.float32),
    )


def profiles(definition: ProfileDefinition, asked: ProfileRequests) -> dict[str, NDArray[Any]]:
    """Return the profile of each request, by the names of `definition.outputs`; see docs/profiles.md."""
    known = asked.items > 0
    events = known.sum(axis=1)
    found: dict[str, NDArray[Any]] = {
        "events": events.astype(np.int64),
        "steps": np.where(known, asked.steps_ago, 0).max(axis=1, initial=0),
    }
    for name, attribute in definition.attributes.items():
        counts = np.zeros((len(events), len(attribute.shares)))
        rows, places = np.nonzero(known)
        np.add.at(counts, (rows, attribute.codes[asked.items[rows, places]]), 1.0)
        prior = definition.prior_events
        whole = (counts + prior * attribute.shares) / (events[:, None] + prior)
        found[f"{name}_shares"] = whole[:, 1:].astype(np.float32)
    types = np.where(known, asked.event_types, 0)
    before = types[:, -2] if types.shape[1] > 1 else np.zeros(len(types), np.int64)
    found["next_types"] = definition.next_types[before * (len(EVENT_TYPES) + 1) + types[:, -1]]
    return found | (_by_days(known, asked.days_ago) if definition.timed else {})


def _by_days(known: NDArray[np.bool_], days_ago: Float32s) -> dict[str, NDArray[Any]]:
    dated = known & (days_ago >= 0)
    latest = np.where(dated, days_ago, np.inf).min(axis=1, initial=np.inf)
    counts = np.stack([(dated & (days_ago <= days)).sum(axis=1) for days in RECENT_DAYS], axis=1)
    undated = np.asarray(known.any(axis=1) & ~dated.any(axis=1))
    return {
        "days_since_last": np.where(np.isfinite(latest), latest, UNKNOWN_DAYS).astype(np.float32),
        "recent_events": np.where(undated[:, None], -1, counts).astype(np.int64),
    }
