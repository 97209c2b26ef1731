"""The requests of a replay: the set's last period in order of time, split between the steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.columns import EVENT_TYPES, Period
from tasks.contracts.served_signatures import NEXT_EVENT, SERVING_DEFAULT
from tasks.models.event_types import history_types
from tasks.models.interactions import (
    Examples,
    Int8s,
    Int32s,
    Int64s,
    Interactions,
    Strings,
    history_batch,
)
from tasks.rollout.step_requests import StepRequests, step_ends

TOP_K = 10
MAX_HISTORY = 400  # items sent; a served model takes the latest ones that it can use
MAX_REQUESTS = 20_000  # of one rollout


@dataclass(frozen=True, kw_only=True)
class ReplayRequests(StepRequests):
    """E requests: who asks with which history, and what this user really chose next."""

    FORMAT: ClassVar[str] = "replay_requests/1"

    item_ids: Strings  # [I]: index i + 1 is item_ids[i]
    user_ids: Strings  # [U]
    user: Int32s  # [E]
    history: Int32s  # [E, L] right-aligned, 0 = none
    steps_ago: Int32s  # [E, L]
    target_offsets: Int64s  # [E + 1]
    targets: Int32s  # [T]

    def __len__(self) -> int:
        """Return E."""
        return len(self.user)

    def user_of(self, request: int) -> str:
        """Return the id of the user who asks."""
        return str(self.user_ids[self.user[request]])

    def body_of(self, request: int) -> bytes:
        """Return the JSON body of the predict request, without padding."""
        body = {"signature_name": self.signature, "inputs": self.inputs_of(request)}
        return json.dumps(body).encode()

    @property
    def signature(self) -> str:
        """Return the entry of the served model that is asked."""
        return SERVING_DEFAULT

    def inputs_of(self, request: int) -> dict[str, Any]:
        """Return the inputs of one request by name, one row each."""
        known = self.history[request] > 0
        items = [str(self.item_ids[item - 1]) for item in self.history[request][known]]
        return {"history": [items], "steps_ago": [self.steps_ago[request][known].tolist()]}

    def targets_of(self, request: int) -> set[str]:
        """Return the items that the user chose next, as far as they are in the vocabulary."""
        rows = slice(self.target_offsets[request], self.target_offsets[request + 1])
        return {str(self.item_ids[item - 1]) for item in self.targets[rows]}

    def is_hit(self, request: int, body: Any) -> bool:
        """Say whether one of the first ten items is what the user chose next."""
        items = [str(item) for item in body["outputs"]["items"][0]]
        return not self.targets_of(request).isdisjoint(items[:TOP_K])


@dataclass(frozen=True, kw_only=True)
class TypedReplayRequests(ReplayRequests):
    """The same, with the type of each event: for rollouts whose models both read types."""

    FORMAT: ClassVar[str] = "replay_requests/2"

    event_types: Int8s  # [E, L] codes of `models.event_types`

    @property
    def signature(self) -> str:
        """Return the entry of the served model that is asked."""
        return NEXT_EVENT

    def inputs_of(self, request: int) -> dict[str, Any]:
        """Return the inputs of one request by name, one row each."""
        known = self.history[request] > 0
        kinds = [("", *EVENT_TYPES)[code] for code in self.event_types[request][known]]
        return {**super().inputs_of(request), "event_types": [kinds]}


def plan_replay(
    interactions: Interactions, shares: Sequence[float], *, typed: bool = False
) -> ReplayRequests:
    """Return the canary period's requests; each step gets its share, one after the other in time."""
    examples = _in_order_of_time(interactions, _at_most(interactions, MAX_REQUESTS))
    history, steps_ago = history_batch(interactions, examples, MAX_HISTORY)
    planned: dict[str, Any] = {
        "item_ids": interactions.item_ids,
        "user_ids": interactions.user_ids,
        "user": examples.user,
        "history": history.astype(np.int32),
        "steps_ago": steps_ago.astype(np.int32),
        "target_offsets": examples.target_offsets,
        "targets": examples.targets,
        "step_ends": step_ends(shares, len(examples)),
    }
    if not typed:
        return ReplayRequests(**planned)
    types = history_types(interactions, examples, MAX_HISTORY)
    return TypedReplayRequests(**planned, event_types=types.astype(np.int8))


def _at_most(interactions: Interactions, limit: int) -> Examples:
    """Return at most `limit` examples: fewer per user before fewer users."""
    examples = interactions.examples(Period.CANARY)
    if len(examples) <= limit:
        return examples
    per_user = max(1, limit // max(1, len(np.unique(examples.user))))
    examples = interactions.examples(Period.CANARY, max_per_user=per_user)
    rows = np.unique(np.linspace(0, len(examples) - 1, min(limit, len(examples))).astype(np.int64))
    return examples.take(rows)


def _in_order_of_time(interactions: Interactions, examples: Examples) -> Examples:
    return examples.take(np.argsort(_times(interactions, examples), kind="stable"))


def _times(interactions: Interactions, examples: Examples) -> NDArray[np.int64]:
    """Return [E]: when each user chose, or last chose where nothing known was chosen."""
    if len(interactions.time) == 0:
        return np.zeros(len(examples), dtype=np.int64)
    has_target = np.diff(examples.target_offsets) > 0
    rows = np.where(has_target, examples.end, examples.end - 1)
    return interactions.time[rows]
