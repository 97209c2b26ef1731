"""Numbers of a feature set that a gate can check (`features_profile/1`)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.columns import EVENT_TYPES, Period
from tasks.contracts.json_types import Json
from tasks.models.behaviour_chain import bits_per_event, count_behaviour
from tasks.models.interactions import Interactions

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_BEHAVIOUR_ORDERS = 4  # 0 is the shares of the types, 3 looks at the last three


def profile_interactions(interactions: Interactions) -> dict[str, Json]:
    """Return counts, quantiles and what leakage checks need, all from the arrays themselves."""
    step_sizes = np.diff(interactions.step_ends, prepend=0) + interactions.step_misses
    return {
        "order_only": interactions.order_only,
        "repeats_allowed": interactions.repeats_allowed,
        "baskets": interactions.baskets,
        "users": interactions.num_users,
        "items": interactions.num_items,
        "interactions": len(interactions.items),
        "steps": len(interactions.step_ends),
        "items_not_in_train": _items_not_in_train(interactions),
        "steps_before_an_earlier_period": _period_reversals(interactions),
        "interactions_per_user": _quantiles(np.diff(interactions.offsets)),
        "steps_per_user": _quantiles(np.diff(interactions.step_offsets)),
        "items_per_step": _quantiles(step_sizes),
        "periods": {period.label: _period(interactions, period) for period in Period},
        "behaviour": _behaviour(interactions),
    }


def _behaviour(interactions: Interactions) -> dict[str, Json]:
    """Return P(next type | last type), and how well chains of each order foretell the next type."""
    first_order = count_behaviour(interactions, order=1)
    found: dict[str, Json] = {}
    for kind in EVENT_TYPES:
        chances = first_order.after([kind])
        found[kind] = {following: round(p, 6) for following, p in chances.items()}
    bits: list[Json] = []
    for order in range(_BEHAVIOUR_ORDERS):
        chain = count_behaviour(interactions, order)
        measured = bits_per_event(chain, interactions, Period.SELECT)
        bits.append(None if measured is None else round(measured, 6))
    return {"next_type_after": found, "select_bits_by_order": bits}


def _period(interactions: Interactions, period: Period) -> dict[str, Json]:
    steps = interactions.step_period == period
    examples = interactions.examples(period)
    known = int((interactions.period == period).sum())
    misses = int(interactions.step_misses[steps].sum())
    times = interactions.time[interactions.period == period]
    timed = len(times) > 0 and not interactions.order_only
    return {
        "events": known + misses,
        "known_events": known,
        "coverage": round(known / max(1, known + misses), 6),
        "steps": int(steps.sum()),
        "examples": len(examples),
        "users_with_examples": len(np.unique(examples.user)),
        "targets": int(examples.target_counts().sum()),
        "missed_targets": int(examples.misses.sum()),
        "history_length": _quantiles(examples.end - interactions.offsets[examples.user]),
        "min_time": _iso(int(times.min())) if timed else None,
        "max_time": _iso(int(times.max())) if timed else None,
    }


def _items_not_in_train(interactions: Interactions) -> int:
    trained = np.unique(interactions.items[interactions.period == Period.TRAIN])
    return interactions.num_items - len(trained)


def _period_reversals(interactions: Interactions) -> int:
    """Return steps that come after a step of a later period of the same user: 0 without leaks."""
    user = np.repeat(np.arange(interactions.num_users), np.diff(interactions.step_offsets))
    same_user = user[1:] == user[:-1]
    return int((same_user & (np.diff(interactions.step_period) < 0)).sum())


def _quantiles(values: NDArray[Any]) -> dict[str, Json]:
    if len(values) == 0:
        return {}
    found = np.quantile(values, _QUANTILES, method="inverted_cdf")
    return {f"p{round(q * 100)}": int(v) for q, v in zip(_QUANTILES, found, strict=True)}


def _iso(second: int) -> str:
    return datetime.fromtimestamp(second, tz=UTC).replace(tzinfo=None).isoformat() + "Z"
