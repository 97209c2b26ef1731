"""Gate after features: a vocabulary from the training period only, sequences in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.contracts.columns import PERIODS, Period
from tasks.contracts.gate_reports import Figure, Series
from tasks.gates import user_profiles
from tasks.gates.bounds import MADE_FROM, FeatureBounds
from tasks.gates.checks import (
    Batch,
    Measurement,
    Payload,
    Suite,
    between,
    joined,
    measured,
    not_null,
    unique,
)
from tasks.gates.event_measurements import EventTables
from tasks.gates.model_measurements import none_of
from tasks.gates.wording import in_words
from tasks.models.interactions import Interactions

LEAK = (
    "What comes later would be known in training, and every number after that be too good: mend "
    "the code that builds features."
)


def suite(payload: Payload, wanted: FeatureBounds) -> Suite:
    """Return what is expected of interactions, items, users and their profiles."""
    features = Interactions.load(payload.path / "interactions.npz")
    items = pq.read_table(payload.path / "items.parquet").to_pandas()
    users = pq.read_table(payload.path / "users.parquet").to_pandas()
    examples = {period.label: len(features.examples(period)) for period in list(Period)[1:]}
    return joined(
        Suite(batches=(_items(items), _users(users))),
        Suite(batches=(measured("vocabulary", _vocabulary(features, items, users)),)),
        Suite(batches=(measured("sequences", _sequences(features)),)),
        Suite(
            batches=(
                measured("profiles", user_profiles.of_features(features, items, payload.path)),
            )
        ),
        Suite(batches=(measured("periods", _periods(features)),)),
        _beside_events(features, payload),
        Suite(batches=(measured("sizes", _sizes(features, examples, wanted)),)),
        _shown(features, examples),
    )


def _items(items: pd.DataFrame) -> Batch:
    return Batch(
        name="items",
        frame=items.assign(**{"item's price": items["price"]}),
        checks=(
            not_null("item_id"),
            unique("item_id"),
            unique("item_index"),
            between("train_count", minimum=1, unit="count"),
            between("item's price", minimum=0),
        ),
        row_noun="items",
        example="item_id",
    )


def _users(users: pd.DataFrame) -> Batch:
    return Batch(
        name="users",
        frame=users,
        checks=(not_null("user_id"), unique("user_id"), unique("user_index")),
        row_noun="users",
        example="user_id",
    )


def _vocabulary(
    features: Interactions, items: pd.DataFrame, users: pd.DataFrame
) -> list[Measurement]:
    size = features.num_items
    trained = features.items[features.period == Period.TRAIN]
    counted = np.bincount(np.clip(trained, 0, size), minlength=size + 1)[1:]
    listed = items.sort_values("item_index")
    same_size = len(listed) == size
    told = listed["train_count"].to_numpy() if same_size else np.zeros(size)
    wrong = np.flatnonzero(told != counted)
    example = f"(e.g. item {features.item_ids[wrong[0]]})" if len(wrong) else ""
    ids = [str(item) for item in listed["item_id"]]
    return [
        none_of("items outside the vocabulary", _outside(features), f"item indices of 1 to {size}"),
        none_of(
            "items not in training",
            int((counted == 0).sum()),
            "every item of the vocabulary met in the train period",
            where=f"(e.g. item {features.item_ids[int(np.argmin(counted))]})" if size else "",
            why=LEAK,
        ),
        none_of(
            "train_count",
            len(wrong),
            "counts of the train period only",
            where=example,
            why=LEAK,
        ),
        _same("items.parquet and interactions", ids, features.item_ids, "item"),
        _same(
            "users.parquet and interactions",
            [str(user) for user in users.sort_values("user_index")["user_id"]],
            features.user_ids,
            "user",
        ),
    ]


def _same(name: str, listed: list[str], held: NDArray[np.str_], noun: str) -> Measurement:
    other = [n for n, (a, b) in enumerate(zip(listed, held, strict=False)) if a != str(b)]
    count = len(other) + abs(len(listed) - len(held))
    where = f"(e.g. {noun} {listed[other[0]]})" if other else ""
    return none_of(name, count, f"the same {noun}s in the same order", where=where)


def _outside(features: Interactions) -> int:
    return int(((features.items < 1) | (features.items > features.num_items)).sum())


def _within_users(values: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return [N - 1]: whether a value falls from one row of a user to the next."""
    falls = np.diff(values.astype(np.int64)) < 0
    starts = offsets[1:-1]
    inside = starts[(starts > 0) & (starts < len(values))]
    falls[inside - 1] = False
    return np.asarray(falls, dtype=np.bool_)


def _sequences(features: Interactions) -> list[Measurement]:
    offsets = features.offsets
    return [
        none_of("offsets", int((np.diff(offsets) < 0).sum()), "offsets that never fall"),
        none_of(
            "baskets",
            int(_within_users(features.basket, offsets).sum()) if len(features.items) else 0,
            "steps that never go back within a user",
        ),
        none_of(
            "times",
            int(_within_users(features.time, offsets).sum()) if len(features.items) else 0,
            "times that never go back within a user",
        ),
        none_of(
            "negative misses", int((features.step_misses < 0).sum()), "counts of unknown items >= 0"
        ),
    ]


def _periods(features: Interactions) -> list[Measurement]:
    falls = _within_users(features.period, features.offsets).sum() if len(features.items) else 0
    steps = (
        _within_users(features.step_period, features.step_offsets).sum()
        if len(features.step_period)
        else 0
    )
    known = np.isin(features.period, [int(period) for period in Period])
    found = [
        none_of("unknown periods", int((~known).sum()), f"periods {', '.join(PERIODS)}"),
        none_of(
            "leakage within users",
            int(falls + steps),
            "no event of an earlier period after a later one",
            why=LEAK,
        ),
    ]
    if not features.order_only:
        found.append(_time_overlaps(features))
    return found


def _time_overlaps(features: Interactions) -> Measurement:
    """Return events at or before the end of an earlier period, by the time their step began."""
    began = _step_times(features)
    count, latest, where = 0, None, ""
    for period in Period:
        mine = features.period == period
        if not mine.any():
            continue
        early = mine & (began <= latest) if latest is not None else np.zeros_like(mine)
        if early.any() and not where:
            row = int(np.argmax(early))
            user = int(np.searchsorted(features.offsets, row, side="right")) - 1
            where = f"(e.g. of user {features.user_ids[user]}, {period.label} period)"
        count += int(early.sum())
        end = int(began[mine].max())
        latest = end if latest is None else max(latest, end)
    return none_of(
        "leakage across periods",
        count,
        "no event at or before the end of an earlier period",
        where=where,
        why=LEAK,
    )


def _beside_events(features: Interactions, payload: Payload) -> Suite:
    """Hold the sequences against the events that they were made from."""
    if MADE_FROM not in payload.compared:
        return Suite(batches=())
    events = EventTables(payload.compared[MADE_FROM])
    user = np.repeat(np.arange(features.num_users, dtype=np.int32), np.diff(features.offsets))
    labels = np.asarray([*PERIODS, "none"])  # a period that does not exist is named elsewhere
    period = np.where(
        (features.period >= 0) & (features.period < len(PERIODS)), features.period, -1
    )
    rows = pa.table(
        {
            "user_id": features.user_ids[user].tolist(),
            "item_id": _names(features).tolist(),
            "moment": features.time,
            "period": labels[period].tolist(),
        }
    )
    unlike = events.unlike(rows, by="position" if features.order_only else "timestamp")
    known = pa.table({"item_id": pa.array(features.item_ids.tolist(), pa.string())})
    taken = events.choices(known)
    why = "Sequences were shuffled, lost or made up: mend the code that builds features."
    return Suite(
        batches=(
            measured(
                "events",
                [
                    none_of(
                        "interactions unlike their events",
                        unlike.count,
                        "every interaction an event of this user, item, time and period",
                        where=f"in {unlike.total:,} interactions {unlike.example}".strip(),
                        why=why,
                    ),
                    Measurement(
                        name="interactions",
                        value=len(features.items),
                        minimum=taken,
                        maximum=taken,
                        unit="count",
                        expected=f"{taken:,}, as the events have on these items",
                        why=why,
                    ),
                ],
            ),
        )
    )


def _names(features: Interactions) -> NDArray[np.str_]:
    names = np.asarray(["", *features.item_ids.tolist()])
    inside = (features.items > 0) & (features.items <= features.num_items)
    chosen: NDArray[np.str_] = names[np.where(inside, features.items, 0)]
    return chosen


def _step_times(features: Interactions) -> NDArray[np.int64]:
    """Return [N]: the first time of the step that a row belongs to."""
    ends = features.step_ends
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    filled = ends > starts
    rows = np.minimum.reduceat(features.time, starts[filled]) if filled.any() else starts[filled]
    return np.repeat(rows, (ends - starts)[filled]).astype(np.int64)


def _sizes(
    features: Interactions, examples: dict[str, int], wanted: FeatureBounds
) -> list[Measurement]:
    later = features.step_period != Period.TRAIN
    missed = int(features.step_misses[later].sum())
    known = int((features.period != Period.TRAIN).sum())
    return [
        Measurement(
            name="vocabulary", value=features.num_items, minimum=wanted.min_items, unit="count"
        ),
        Measurement(
            name="users of the set",
            value=features.num_users,
            minimum=wanted.min_users,
            unit="count",
        ),
        Measurement(
            name="coverage of later events",
            value=known / max(known + missed, 1),
            minimum=wanted.min_known_share,
            unit="share",
            why="Nearly all of what users choose later is unknown to the model.",
        ),
        Measurement(
            name="usual coverage",
            value=known / max(known + missed, 1),
            minimum=wanted.usual_known_share,
            unit="share",
            severity="warning",
            why="Most of what users choose later is unknown to the model: train on more data.",
        ),
        *(
            Measurement(
                name=f"examples to {label}",
                value=count,
                minimum=wanted.min_examples,
                unit="count",
                expected=f"at least {wanted.min_examples} requests with history",
            )
            for label, count in examples.items()
        ),
    ]


def _shown(features: Interactions, examples: dict[str, int]) -> Suite:
    lengths = np.diff(features.offsets)
    shares = [0, 5, 25, 50, 75, 95, 100]
    cuts = np.percentile(lengths, shares) if len(lengths) else np.zeros(len(shares))
    counts = np.sort(np.bincount(features.items, minlength=features.num_items + 1)[1:])[::-1]
    total = max(int(counts.sum()), 1)
    tops = [n for n in (10, 100, 1000, 10_000) if n < features.num_items]
    return Suite(
        batches=(),
        figures=(
            Figure(
                title="Interactions per user",
                shape="bars",
                labels=tuple(f"{share} % of users have up to" for share in shares[1:]),
                series=(Series(name="interactions", values=tuple(float(c) for c in cuts[1:])),),
            ),
            Figure(
                title="Share of all interactions that the most popular items have",
                shape="bars",
                labels=tuple(f"top {n:,}" for n in tops),
                series=(
                    Series(
                        name="share",
                        values=tuple(round(float(counts[:n].sum()) / total, 4) for n in tops),
                    ),
                ),
            ),
        ),
        key_figures={
            "items": in_words(features.num_items, "count"),
            "users": in_words(features.num_users, "count"),
            "interactions": in_words(len(features.items), "count"),
            "kind": "baskets" if features.baskets else "sequences",
            **{f"requests to {label}": in_words(n, "count") for label, n in examples.items()},
        },
    )
