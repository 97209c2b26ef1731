"""The one in-memory shape of features: users' steps in order, items as indices, baskets as sets.

A *step* is one basket, or one event where events are not grouped into baskets. Item index 0 is
padding; item index i + 1 is `item_ids[i]`. Items outside the vocabulary are not in `items`, but
their steps and their number are kept, so that a target nobody can predict still counts as a miss.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.errors import BadRequestError
from tasks.models.npz_files import arrays_of

Int64s: TypeAlias = NDArray[np.int64]
Int32s: TypeAlias = NDArray[np.int32]
Int8s: TypeAlias = NDArray[np.int8]
Strings: TypeAlias = NDArray[np.str_]

PADDING = 0
_FORMAT = "interactions/1"


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Requests with what really came next: E steps, each with the history before it.

    The history of example e is `items[offsets[user[e]]:end[e]]`; its targets, an unordered set,
    are `targets[target_offsets[e]:target_offsets[e + 1]]`; `misses[e]` more targets are outside
    the vocabulary. `step[e]` is the ordinal of the target step within the user.
    """

    user: Int32s  # [E]
    end: Int64s  # [E]
    step: Int32s  # [E]
    target_offsets: Int64s  # [E + 1]
    targets: Int32s  # [T]
    misses: Int32s  # [E]

    def __len__(self) -> int:
        """Return E."""
        return len(self.user)

    def take(self, rows: Int64s | slice) -> Examples:
        """Return the examples at `rows`, in that order."""
        index = np.arange(len(self), dtype=np.int64)[rows]
        starts, ends = self.target_offsets[index], self.target_offsets[index + 1]
        return Examples(
            user=self.user[index],
            end=self.end[index],
            step=self.step[index],
            target_offsets=_offsets(ends - starts),
            targets=self.targets[_ranges(starts, ends)],
            misses=self.misses[index],
        )

    def target_rows(self) -> Int64s:
        """Return [T]: the example that each entry of `targets` belongs to."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.target_offsets))

    def target_counts(self) -> Int64s:
        """Return [E]: number of targets, those outside the vocabulary included."""
        return (np.diff(self.target_offsets) + self.misses).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class EventRows:
    """One row per event, sorted by (user, basket); `Interactions.from_rows` groups them."""

    item_ids: Strings  # [I]
    user_ids: Strings  # [U]
    user: NDArray[Any]  # 0..U-1
    item: NDArray[Any]  # 1..I, 0 outside the vocabulary
    basket: NDArray[Any]  # non-decreasing within a user; equal values make one step
    event_type: NDArray[Any]
    time: NDArray[Any]
    period: NDArray[Any]
    repeats_allowed: bool
    baskets: bool
    order_only: bool


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """Events of U users on I items: N known interactions in K steps, sorted by user and step."""

    item_ids: Strings  # [I]
    user_ids: Strings  # [U]
    offsets: Int64s  # [U + 1] rows of each user
    items: Int32s  # [N] 1..I
    basket: Int32s  # [N] ordinal of the step within the user, counting steps of unknown items
    event_type: Int8s  # [N] place in contracts.columns.EVENT_TYPES
    time: Int64s  # [N] unix seconds, or the step where the set has no times
    period: Int8s  # [N] contracts.columns.Period
    step_offsets: Int64s  # [U + 1] steps of each user
    step_ends: Int64s  # [K] row after the last known interaction of the step
    step_period: Int8s  # [K]
    step_misses: Int32s  # [K] items outside the vocabulary in the step
    repeats_allowed: bool
    baskets: bool
    order_only: bool

    def __post_init__(self) -> None:
        """Refuse arrays whose shapes cannot belong together."""
        users, rows, steps = len(self.user_ids), len(self.items), len(self.step_ends)
        ends = (self.offsets[-1] if users else 0, self.step_offsets[-1] if users else 0)
        shapes = {
            "offsets": (len(self.offsets), users + 1),
            "step_offsets": (len(self.step_offsets), users + 1),
            "last offset": (int(ends[0]), rows),
            "last step offset": (int(ends[1]), steps),
            **{
                name: (len(getattr(self, name)), rows)
                for name in ("basket", "event_type", "time", "period")
            },
            **{name: (len(getattr(self, name)), steps) for name in ("step_period", "step_misses")},
        }
        wrong = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
        if wrong:
            message = f"interactions: expected matching lengths, found (found, expected): {wrong}"
            raise BadRequestError(message)

    @property
    def num_items(self) -> int:
        """Return I."""
        return len(self.item_ids)

    @property
    def num_users(self) -> int:
        """Return U."""
        return len(self.user_ids)

    @classmethod
    def from_rows(cls, rows: EventRows) -> Interactions:
        """Group rows into steps; rows of unknown items become counts of misses."""
        steps = _steps(rows.user, rows.basket)
        starts, ends = steps[:-1], steps[1:]
        known = np.asarray(rows.item) != PADDING
        unknown_before = np.concatenate([[0], np.cumsum(~known)]).astype(np.int64)
        users = len(rows.user_ids)
        ordinal = _ordinals(rows.user[starts])
        return cls(
            item_ids=rows.item_ids,
            user_ids=rows.user_ids,
            offsets=_offsets(np.bincount(rows.user[known], minlength=users)),
            items=rows.item[known].astype(np.int32),
            basket=np.repeat(ordinal, ends - starts)[known].astype(np.int32),
            event_type=rows.event_type[known].astype(np.int8),
            time=rows.time[known].astype(np.int64),
            period=rows.period[known].astype(np.int8),
            step_offsets=_offsets(np.bincount(rows.user[starts], minlength=users)),
            step_ends=ends - unknown_before[ends],
            step_period=rows.period[starts].astype(np.int8),
            step_misses=np.diff(unknown_before[steps]).astype(np.int32),
            repeats_allowed=rows.repeats_allowed,
            baskets=rows.baskets,
            order_only=rows.order_only,
        )

    def save(self, path: Path) -> None:
        """Write an uncompressed npz: equal interactions give equal bytes."""
        arrays = {item.name: np.asarray(getattr(self, item.name)) for item in fields(self)}
        np.savez(path, allow_pickle=False, format=np.asarray(_FORMAT), **arrays)

    @classmethod
    def load(cls, path: Path) -> Interactions:
        """Read what `save` wrote."""
        with arrays_of(path, _FORMAT) as arrays:
            values: dict[str, Any] = {item.name: arrays[item.name] for item in fields(cls)}
        for flag in ("repeats_allowed", "baskets", "order_only"):
            values[flag] = bool(values[flag])
        return cls(**values)

    def examples(self, period: int, max_per_user: int | None = None) -> Examples:
        """Return one example per step of `period` with history; per user the latest at most."""
        starts = self._step_starts()
        user = np.repeat(np.arange(self.num_users, dtype=np.int32), np.diff(self.step_offsets))
        wanted = (self.step_period == period) & (starts > self.offsets[user])
        steps = np.flatnonzero(wanted)
        if max_per_user is not None:
            steps = steps[_places_from_end(user[steps]) < max_per_user]
        return self._examples_of(steps, user[steps], starts[steps])

    def after_all(self, users: NDArray[Any]) -> Examples:
        """Return one example without targets per user: a request after the user's last step."""
        rows = np.asarray(users, dtype=np.int32)
        return Examples(
            user=rows,
            end=self.offsets[rows + 1],
            step=np.diff(self.step_offsets)[rows].astype(np.int32),
            target_offsets=np.zeros(len(rows) + 1, dtype=np.int64),
            targets=np.zeros(0, dtype=np.int32),
            misses=np.zeros(len(rows), dtype=np.int32),
        )

    def _step_starts(self) -> Int64s:
        return np.concatenate([np.zeros(1, np.int64), self.step_ends])[: len(self.step_ends)]

    def _examples_of(self, steps: Int64s, user: Int32s, starts: Int64s) -> Examples:
        ends = self.step_ends[steps]
        rows = np.repeat(np.arange(len(steps), dtype=np.int64), ends - starts)
        # One number per (example, item): np.unique over it is far faster than over rows of pairs.
        codes = np.unique(rows * (self.num_items + 1) + self.items[_ranges(starts, ends)])
        example, target = np.divmod(codes, self.num_items + 1)
        return Examples(
            user=user,
            end=starts,
            step=(steps - self.step_offsets[user]).astype(np.int32),
            target_offsets=_offsets(np.bincount(example, minlength=len(steps))),
            targets=target.astype(np.int32),
            misses=self.step_misses[steps],
        )


def history_batch(
    interactions: Interactions, examples: Examples, max_length: int
) -> tuple[Int64s, Int64s]:
    """Return items and steps_ago, both int64 [B, L], right-aligned, 0 where there is no history.

    steps_ago is 1 for the step just before the request, 2 for the one before it, and so on.
    """
    rows, inside = history_rows(interactions, examples, max_length)
    if len(interactions.items) == 0:
        return np.zeros_like(rows), np.zeros_like(rows)
    ago = examples.step[:, None].astype(np.int64) - interactions.basket[rows]
    items = interactions.items[rows].astype(np.int64)
    return np.where(inside, items, PADDING), np.where(inside, ago, 0)


def history_rows(
    interactions: Interactions, examples: Examples, max_length: int
) -> tuple[Int64s, NDArray[np.bool_]]:
    """Return the rows of each history [B, L], right-aligned, and which of them there are (else row 0)."""
    rows = examples.end[:, None] + np.arange(-max_length, 0, dtype=np.int64)
    inside = rows >= interactions.offsets[examples.user][:, None]
    return np.where(inside, rows, 0), inside


def _offsets(counts: NDArray[Any]) -> Int64s:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _ranges(starts: Int64s, ends: Int64s) -> Int64s:
    """Return the concatenation of the ranges starts[i]..ends[i] without a loop."""
    counts = ends - starts
    shift = np.repeat(starts - (np.cumsum(counts) - counts), counts)
    rows: Int64s = np.arange(len(shift), dtype=np.int64) + shift
    return rows


def _steps(user: NDArray[Any], basket: NDArray[Any]) -> Int64s:
    """Return [K + 1]: the first row of each step, then the number of rows."""
    rows = len(user)
    if rows == 0:
        return np.zeros(1, dtype=np.int64)
    order = (np.diff(user) > 0) | ((np.diff(user) == 0) & (np.diff(basket) >= 0))
    if not order.all():
        row = int(np.argmin(order)) + 1
        message = f"interactions: expected rows sorted by user and basket, found row {row} before"
        raise BadRequestError(message)
    changes = np.flatnonzero((np.diff(user) != 0) | (np.diff(basket) != 0)) + 1
    return np.concatenate([[0], changes, [rows]]).astype(np.int64)


def _ordinals(groups: NDArray[Any]) -> Int64s:
    """Return 0, 1, .. within each run of equal values."""
    places = np.arange(len(groups), dtype=np.int64)
    new = np.concatenate([[True], groups[1:] != groups[:-1]])[: len(groups)]
    started = np.maximum.accumulate(np.where(new, places, 0))
    return (places - started).astype(np.int64)


def _places_from_end(groups: NDArray[Any]) -> Int64s:
    from_end: Int64s = _ordinals(groups[::-1])[::-1]
    return from_end
