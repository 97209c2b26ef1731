"""Gate after ingest: events that keep the contract and from which a model may fairly learn."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import pandas as pd
import pyarrow.parquet as pq

from tasks.contracts.columns import EVENT_TYPES, PERIODS
from tasks.contracts.gate_reports import Figure, Series
from tasks.contracts.json_types import Json
from tasks.contracts.requests import parse_utc
from tasks.gates.bounds import LAST_RUN, EventBounds
from tasks.gates.checks import (
    Batch,
    Check,
    Measurement,
    Payload,
    Suite,
    between,
    joined,
    measured,
    not_null,
    one_of,
    unique,
)
from tasks.gates.event_measurements import CATALOGUE, EVENTS, Day, EventTables
from tasks.gates.records import number, read_record
from tasks.gates.wording import in_words

UNPRICED = "A price below 0 is a refund or a wrong sign: take such rows out of the export."
UNNAMED = (
    "The export has rows that say nothing of who did what: export them again, or leave them out."
)
EARLIEST = datetime(1995, 1, 1, tzinfo=UTC)  # before web shops: a clock or a unit is wrong
TYPES = {
    EVENTS: {
        "user_id": "string",
        "item_id": "string",
        "event_type": "string",
        "timestamp": "timestamp[us, tz=UTC]",
        "position": "int64",
        "basket_id": "string",
        "price": "double",
        "period": "string",
    },
    CATALOGUE: {"item_id": "string", "title": "string", "category": "string", "price": "double"},
}


def suite(payload: Payload, wanted: EventBounds) -> Suite:
    """Return what is expected of events and catalogue; columns first, for the rest needs them."""
    columns = _columns(payload.path)
    if any(
        str(item.frame[c.name].iloc[0]) not in _allowed(c) for item in columns for c in item.checks
    ):
        return Suite(batches=columns, note="only columns were looked at: they are not as expected")
    profile = read_record(payload.path / "profile.json", "events_profile")
    tables = EventTables(payload.path)
    order_only = bool(profile["order_only"])
    parts = [
        Suite(batches=(_rows(payload.path, order_only=order_only), _items(payload.path))),
        _size(tables, profile, wanted),
        _uniqueness(tables, profile, wanted),
        _periods(tables, profile, wanted),
    ]
    if not order_only:
        parts.append(_times(tables, payload, wanted))
    if LAST_RUN in payload.compared:
        parts.append(_emptied(tables, EventTables(payload.compared[LAST_RUN]), wanted))
    parts += [_catalogue(tables, payload, wanted), Suite(batches=columns)]
    return joined(*parts)


def _columns(folder: Path) -> tuple[Batch, ...]:
    """Return one row per file: column -> its type, absent where the file has no such column."""
    batches = []
    for file, types in TYPES.items():
        found = {field.name: str(field.type) for field in pq.read_schema(folder / file)}
        kinds = {
            f"{file}: {name}": found.get(name, "absent").replace("large_", "") for name in types
        }
        checks = [
            Check(
                name=f"{file}: {name}",
                expectation="expect_column_values_to_be_in_set",
                arguments={"column": f"{file}: {name}", "value_set": [kind]},
                expected=f"type {kind}",
                why="The column is missing or has another type: check the export and its mapping.",
            )
            for name, kind in types.items()
        ]
        frame = pd.DataFrame({name: [kind] for name, kind in kinds.items()})
        batches.append(Batch(name=f"columns of {file}", frame=frame, checks=tuple(checks)))
    return tuple(batches)


def _allowed(check: Check) -> Sequence[str]:
    values = check.arguments["value_set"]
    return [str(value) for value in values] if isinstance(values, list) else []


def _rows(folder: Path, *, order_only: bool) -> Batch:
    columns = ["user_id", "item_id", "event_type", "period", "price"]
    checks = [
        not_null("user_id", why=UNNAMED),
        not_null("item_id", why=UNNAMED),
        not_null("event_type", why=UNNAMED),
        one_of("event_type", EVENT_TYPES),
        not_null("period"),
        one_of("period", PERIODS),
        between("price", minimum=0, why=UNPRICED),
    ]
    if not order_only:
        columns.append("timestamp")
        checks.insert(3, not_null("timestamp"))
    frame = pq.read_table(folder / EVENTS, columns=columns).to_pandas()
    return Batch(
        name="events", frame=frame, checks=tuple(checks), row_noun="events", example="item_id"
    )


def _items(folder: Path) -> Batch:
    frame = pq.read_table(folder / CATALOGUE, columns=["item_id", "price"]).to_pandas()
    renamed = frame.rename(columns={"item_id": "catalogue item_id", "price": "catalogue price"})
    return Batch(
        name="catalogue",
        frame=renamed,
        checks=(
            not_null("catalogue item_id"),
            unique("catalogue item_id"),
            between("catalogue price", minimum=0, why=UNPRICED),
        ),
        row_noun="items",
        example="catalogue item_id",
    )


def _size(tables: EventTables, profile: dict[str, Json], wanted: EventBounds) -> Suite:
    events, users, items = tables.size()
    kinds = tables.event_types()
    shown = {"events": events, "users": users, "items": items}
    figure = Figure(
        title="Events by type",
        shape="bars",
        labels=tuple(kinds),
        series=(Series(name="events", values=tuple(float(n) for n in kinds.values())),),
    )
    return Suite(
        batches=(
            measured(
                "size",
                [
                    Measurement(
                        name="events", value=events, minimum=wanted.min_events, unit="count"
                    ),
                    _left_out(profile, wanted),
                ],
            ),
        ),
        figures=(figure,),
        key_figures={name: in_words(number, "count") for name, number in shown.items()}
        | {"order": "position only" if profile["order_only"] else "time"},
    )


def _left_out(profile: dict[str, Json], wanted: EventBounds) -> Measurement:
    """Return the share of source rows that the reader's own rules left out."""
    listed = profile.get("rejected")
    rejected = (
        [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    )
    rows, read = sum(number(item, "rows") or 0 for item in rejected), number(profile, "rows_read")
    reasons = "; ".join(f"{item['reason']}: {item['rows']}" for item in rejected)
    return Measurement(
        name="rows left out by the reader",
        value=None if read is None else rows / max(read, 1),
        maximum=wanted.max_left_out_share,
        unit="share",
        where=f"({reasons})" if reasons else "",
        why="The reader's rules, one per reason, drop rows that are no choice of an item.",
    )


def _uniqueness(tables: EventTables, profile: dict[str, Json], wanted: EventBounds) -> Suite:
    order_only = bool(profile["order_only"])
    same = ["user_id", "item_id", "event_type", "position" if order_only else "timestamp"]
    repeated = tables.repeated([*same, "basket_id", "session_id"])
    found = [
        Measurement(
            name="duplicates",
            value=repeated.share,
            maximum=wanted.max_duplicate_share,
            unit="share",
            where=repeated.example,
            why="The same user, item, type and time twice, as by an export that ran twice or a join: "
            "export once, or drop the copies.",
        )
    ]
    if not profile["repeats_allowed"]:
        again = tables.repeated(["user_id", "item_id"])
        found.append(
            Measurement(
                name="items met again",
                value=again.share,
                maximum=wanted.max_duplicate_share,
                unit="share",
                where=again.example,
                why="The set says that nobody has an item twice.",
            )
        )
    return Suite(batches=(measured("uniqueness", found),))


def _periods(tables: EventTables, profile: dict[str, Json], wanted: EventBounds) -> Suite:
    sizes = tables.period_sizes()
    overlaps = tables.period_overlaps(by="position" if profile["order_only"] else "timestamp")
    leak = (
        "What comes later would be known in training, and every number after that be too good: "
        "take the later events out of the earlier part of the export."
    )
    found = [
        Measurement(name=f"{name} period", value=size, minimum=1, unit="count", expected="events")
        for name, size in sizes.items()
    ]
    found.append(
        Measurement(
            name="leakage across periods",
            value=overlaps.count,
            maximum=0,
            unit="count",
            expected="no event at or before the end of an earlier period",
            where=overlaps.example,
            why=leak,
        )
    )
    if profile["baskets"]:
        split, (copied, usual) = tables.split_baskets(), tables.copied_baskets()
        found += [
            Measurement(
                name="baskets in two periods or of two users",
                value=split.count,
                maximum=0,
                unit="count",
                where=split.example,
                why=leak,
            ),
            Measurement(
                name="later baskets that training knows",
                value=copied.share,
                maximum=max(wanted.max_copied_basket_share, 3 * usual),
                unit="share",
                where=copied.example,
                why=f"Baskets of the same items by the same user, with another time. {leak}",
            ),
        ]
    figure = Figure(
        title="Events by period",
        shape="bars",
        labels=tuple(sizes),
        series=(Series(name="events", values=tuple(float(n) for n in sizes.values())),),
    )
    return Suite(batches=(measured("periods", found),), figures=(figure,))


def _times(tables: EventTables, payload: Payload, wanted: EventBounds) -> Suite:
    early, late = tables.outside(EARLIEST, parse_utc(wanted.as_of))
    days = tables.days()
    found = [
        Measurement(
            name="future timestamps",
            value=late.count,
            maximum=0,
            unit="count",
            expected=f"none after {wanted.as_of}",
            where=late.example,
            why="An event of the future has a wrong clock, zone or unit: correct [timestamp] in the "
            "mapping, or the export.",
        ),
        Measurement(
            name="timestamps before web shops",
            value=early.count,
            maximum=0,
            unit="count",
            expected="none before 1995",
            where=early.example,
            why="Seconds read as milliseconds, or a missing time written as 0: correct [timestamp] in "
            "the mapping, or the export.",
        ),
        *_holes(days, wanted),
    ]
    if LAST_RUN in payload.compared:
        found += _against_last_run(days, EventTables(payload.compared[LAST_RUN]).days(), wanted)
    return Suite(
        batches=(measured("times", found),),
        figures=(_events_per_day(days, wanted),) if len(days) > 1 else (),
        key_figures={"days": f"{len(days)}", "from": days[0].label, "to": days[-1].label}
        if days
        else {},
    )


def typical_days(days: Sequence[Day]) -> tuple[float, ...]:
    """Return for each day the median of its weekday: a shop shut on Sundays is no fault."""
    by_weekday = {n: [d.events for d in days[1:-1] if d.date.weekday() == n] for n in range(7)}
    middle = {n: median(counts) if counts else 0.0 for n, counts in by_weekday.items()}
    return tuple(middle[day.date.weekday()] for day in days)


def _holes(days: Sequence[Day], wanted: EventBounds) -> list[Measurement]:
    """Return one measurement of days that are missing, one of those on which shops are shut."""
    low = [
        day
        for day, typical in zip(days[1:-1], typical_days(days)[1:-1], strict=True)
        if typical >= wanted.min_typical_day and day.events < wanted.min_day_share * typical
    ]
    shut = [day for day in low if day.label[5:] in wanted.usual_closures]
    holes = [day for day in low if day not in shut]
    share = in_words(wanted.min_day_share, "share")
    return [
        Measurement(
            name="days without events",
            value=len(holes),
            maximum=0,
            unit="count",
            expected=f"no day below {share} of its weekday's median",
            where=_listed(holes),
            why="Part of the export is missing: export these days again.",
        ),
        Measurement(
            name="days shut",
            value=len(shut),
            maximum=0,
            unit="count",
            severity="warning",
            expected="no quiet holiday",
            where=_listed(shut),
            why="Nearly no events on a day on which shops are shut: most likely right.",
        ),
    ]


def _listed(days: Sequence[Day]) -> str:
    if not days:
        return ""
    more = f" and {len(days) - 3} more" if len(days) > 3 else ""
    shown = ", ".join(f"{day.label}: {day.events:,} events" for day in days[:3])
    return f"({shown}{more})"


def _against_last_run(
    days: Sequence[Day], before: Sequence[Day], wanted: EventBounds
) -> list[Measurement]:
    old = {day.label: day.events for day in before}
    last_label = max(old, default="")
    both = [day for day in days if day.label in old and day.label != last_label]
    changed = [
        day
        for day in both
        if abs(day.events - old[day.label]) > wanted.max_day_change * max(old[day.label], 1)
    ]
    found = [
        Measurement(
            name="days changed since the last run",
            value=len(changed),
            maximum=0,
            unit="count",
            expected=f"none by more than {in_words(wanted.max_day_change, 'share')}",
            where=_listed(changed),
            why="Days that the last release saw have other events now.",
        )
    ]
    new = [day.events for day in days[:-1] if day.label > last_label]
    if new and old:
        ratio = median(new) / max(median(list(old.values())), 1)
        found.append(
            Measurement(
                name="volume against the last run",
                value=ratio,
                minimum=1 / wanted.max_volume_change,
                maximum=wanted.max_volume_change,
                unit="ratio",
                where=f"(typical new day {in_words(median(new), 'count')} events)",
            )
        )
    return found


def _emptied(tables: EventTables, before: EventTables, wanted: EventBounds) -> Suite:
    """Expect every column that the last run could use: an optional one goes missing in silence."""
    filled, old = tables.filled(), before.filled()
    emptied = [
        f"{name}: {in_words(share, 'share')} filled then, {in_words(filled[name], 'share')} now"
        for name, share in old.items()
        if share >= wanted.min_used_share and filled[name] < wanted.max_emptied_share * share
    ]
    found = Measurement(
        name="columns emptied since the last run",
        value=len(emptied),
        maximum=0,
        unit="count",
        expected="none",
        where=f"({'; '.join(emptied)})" if emptied else "",
        why="A column that the last release used is gone from the export: export it again.",
    )
    return Suite(batches=(measured("columns since the last run", [found]),))


def _events_per_day(days: Sequence[Day], wanted: EventBounds) -> Figure:
    # A day belongs to the period that has most of it: cuts are not at midnight.
    owner = [day.by_period.index(max(day.by_period)) for day in days]
    lines = tuple(
        Series(
            name=name,
            values=tuple(
                float(day.events) if mine == place else None
                for day, mine in zip(days, _until_next(days, owner), strict=True)
            ),
        )
        for place, name in enumerate(PERIODS)
    )
    return Figure(
        title="Events per day (UTC)",
        shape="line",
        labels=tuple(day.label for day in days),
        series=lines,
        note=f"A day below {in_words(wanted.min_day_share, 'share')} of its weekday's median blocks.",
    )


def _until_next(days: Sequence[Day], owner: Sequence[int]) -> list[int]:
    """Return the owners, an empty day being owned like the day before it."""
    kept, latest = [], 0
    for day, mine in zip(days, owner, strict=True):
        latest = mine if day.events else latest
        kept.append(latest)
    return kept


def _catalogue(tables: EventTables, payload: Payload, wanted: EventBounds) -> Suite:
    unknown, described = tables.unknown_items(), tables.described_items()
    items, titled, with_category = described
    found = [
        Measurement(
            name="events on catalogue items",
            value=1 - unknown.share,
            minimum=wanted.min_catalogue_share,
            unit="share",
            where=unknown.example,
            why="Events and catalogue are of different shops or times, or ids were written otherwise "
            "(7 and 7.0): export both together, with ids as text.",
        ),
        Measurement(
            name="items with a title",
            value=titled / items if items else 0,
            minimum=wanted.min_titled_share,
            unit="share",
            severity="critical" if titled else "warning",  # some sets have no titles at all
        ),
        Measurement(
            name="items with a category",
            value=with_category / items if items else 0,
            minimum=wanted.min_titled_share,
            unit="share",
            severity="warning",
        ),
        *_shuffled(tables, payload, wanted),
    ]
    shown = {"catalogue items": in_words(items, "count")}
    return Suite(batches=(measured("catalogue as a whole", found),), key_figures=shown)


def _shuffled(tables: EventTables, payload: Payload, wanted: EventBounds) -> list[Measurement]:
    found, lift = [], tables.category_lift()
    why = (
        "Titles and categories lie beside the wrong ids, as after a bad sort or join: export the "
        "catalogue again."
    )
    if lift is not None and lift[1] >= wanted.min_pairs:
        found.append(
            Measurement(
                name="categories of neighbours",
                value=lift[0],
                minimum=wanted.min_category_lift,
                unit="ratio",
                expected=f"alike at least {wanted.min_category_lift:.2f} x as often as by chance",
                where=f"over {in_words(lift[1], 'count')} pairs of successive items",
                why=why,
            )
        )
    if LAST_RUN in payload.compared:
        changed = tables.titles_changed(payload.compared[LAST_RUN])
        found.append(
            Measurement(
                name="items described anew since the last run",
                value=changed.share,
                maximum=wanted.max_retitled_share,
                unit="share",
                where=changed.example,
                why=why,
            )
        )
    return found
