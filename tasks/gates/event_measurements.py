"""Numbers about events and catalogue that need all rows at once, counted by DuckDB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa

from tasks.contracts.columns import OPTIONAL_EVENT_COLUMNS, PERIODS

MICROSECONDS_A_DAY = 86_400_000_000
MIN_BASKET_ITEMS = 4  # smaller baskets are often bought again as they were
EVENTS, CATALOGUE = "events.parquet", "catalogue.parquet"


@dataclass(frozen=True, kw_only=True)
class Violation:
    """How many rows break a rule, of how many, and one of them in words."""

    count: int
    total: int
    example: str = ""

    @property
    def share(self) -> float:
        """Return count / total, 0 where there is nothing."""
        return self.count / self.total if self.total else 0.0


@dataclass(frozen=True, kw_only=True)
class Day:
    """Events of one UTC day, by period."""

    date: datetime
    events: int
    by_period: tuple[int, ...]  # as in PERIODS

    @property
    def label(self) -> str:
        """Return the ISO date."""
        return self.date.strftime("%Y-%m-%d")


class EventTables:
    """The two tables of `validated_events`, opened for counting; rows never leave DuckDB."""

    def __init__(self, folder: Path) -> None:
        """Open `events.parquet` and `catalogue.parquet` below `folder`."""
        self.folder = folder
        self._base = duckdb.connect()
        self._base.execute("set threads = 2")
        for view, file in (("events", EVENTS), ("catalogue", CATALOGUE)):
            self._base.read_parquet(str(folder / file)).create_view(view)

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Return all rows of the query."""
        found: list[tuple[object, ...]] = self._base.execute(query, list(values)).fetchall()
        return found

    def counts(self, query: str, values: Sequence[object] = ()) -> tuple[int, ...]:
        """Return the first row of a query that counts; nothing counts as 0."""
        return tuple(int(str(value or 0)) for value in self.rows(query, values)[0])

    def size(self) -> tuple[int, int, int]:
        """Return the numbers of events, users and items."""
        query = "select count(*), count(distinct user_id), count(distinct item_id) from events"
        events, users, items = self.counts(query)
        return events, users, items

    def repeated(self, columns: Sequence[str]) -> Violation:
        """Return how many events repeat an earlier one in all of `columns`."""
        keys = ", ".join(columns)
        groups = f"select {keys}, count(*) as n from events group by {keys}"  # noqa: S608
        query = f"select sum(n - 1), sum(n) from ({groups})"  # noqa: S608
        count, total = self.counts(query)
        worst = self.rows(
            f"select user_id, item_id, n from ({groups}) where n > 1 "  # noqa: S608
            "order by n desc, user_id, item_id limit 1"
        )
        example = "" if not worst else "(e.g. user {}, item {}: {} times)".format(*worst[0])
        return Violation(count=count, total=total, example=example)

    def outside(self, first: datetime, last: datetime) -> tuple[Violation, Violation]:
        """Return the events before `first` and those after `last`."""
        query = (
            "select count(*), count(*) filter (t < $1), count(*) filter (t > $2), min(t), max(t) "
            "from (select epoch_us(timestamp) as t from events)"
        )
        total, early, late, oldest, latest = self.counts(query, [_micro(first), _micro(last)])
        return (
            Violation(
                count=early, total=total, example=f"(oldest {_utc(oldest)})" if early else ""
            ),
            Violation(count=late, total=total, example=f"(latest {_utc(latest)})" if late else ""),
        )

    def days(self) -> tuple[Day, ...]:
        """Return every UTC day from the first event to the last, empty ones included."""
        by_period = ", ".join(f"count(*) filter (period = '{name}')" for name in PERIODS)
        query = (
            f"select epoch_us(timestamp) // {MICROSECONDS_A_DAY} as day, count(*), {by_period} "  # noqa: S608
            "from events where timestamp is not null group by day order by day"
        )
        found = {int(str(row[0])): row[1:] for row in self.rows(query)}
        if not found:
            return ()
        empty: tuple[object, ...] = (0,) * (len(PERIODS) + 1)
        rows = {day: found.get(day, empty) for day in range(min(found), max(found) + 1)}
        return tuple(_day(day, [int(str(n)) for n in row]) for day, row in rows.items())

    def event_types(self) -> dict[str, int]:
        """Return events per type, the most frequent first."""
        query = (
            "select event_type, count(*) as n from events group by all order by n desc, event_type"
        )
        return {str(kind): int(str(count)) for kind, count in self.rows(query)}

    def filled(self) -> dict[str, float]:
        """Return the share of events with a value, for each column that a shop may leave out."""
        names = [column.value for column in OPTIONAL_EVENT_COLUMNS]
        total, *counted = self.counts(
            f"select count(*), {', '.join(f'count({name})' for name in names)} from events"  # noqa: S608
        )
        return {name: n / max(total, 1) for name, n in zip(names, counted, strict=True)}

    def unlike(self, rows: pa.Table, *, by: str) -> Violation:
        """Return rows (user_id, item_id, moment, period) of features that no event is like.

        `moment` is a position, or a time in seconds, which may have been rounded either way.
        """
        second = "epoch_us(timestamp) / 1e6"
        moments = "position" if by == "position" else f"unnest([floor({second}), ceil({second})])"
        self._base.register("rows_of_features", rows)
        query = f"""
            with e as (select distinct user_id, item_id, period, {moments}::bigint as moment
                       from events)
            select count(*) filter (e.moment is null), count(*),
                   min(f.user_id) filter (e.moment is null)
            from rows_of_features f left join e using (user_id, item_id, period, moment)
        """  # noqa: S608
        count, total, user = self.rows(query)[0]
        example = f"(e.g. of user {user})" if user is not None else ""
        return Violation(count=int(str(count)), total=int(str(total)), example=example)

    def choices(self, items: pa.Table) -> int:
        """Return how many of the known items (item_id) were taken, once per basket."""
        self._base.register("known_items", items)
        (count,) = self.counts(
            "select count(*) from (select distinct user_id, item_id, basket_id, "
            "case when basket_id is null then position end from events "
            "semi join known_items using (item_id))"
        )
        return count

    def described_items(self) -> tuple[int, int, int]:
        """Return the numbers of items, of those with a title, of those with a category."""
        query = "select count(*), count(title), count(category) from catalogue"
        items, titles, categories = self.counts(query)
        return items, titles, categories

    def period_sizes(self) -> dict[str, int]:
        """Return events per period, 0 for a period without events."""
        counted = self.rows("select period, count(*) from events group by period")
        found = {str(name): int(str(count)) for name, count in counted}
        return {name: found.get(name, 0) for name in PERIODS}

    def period_overlaps(self, *, by: str) -> Violation:
        """Return events at or before the end of an earlier period; `by` is timestamp or position.

        Times are compared over the whole set, positions within the user.
        """
        moment, scope = (
            ("epoch_us(timestamp)", "1") if by == "timestamp" else ("position", "user_id")
        )
        number = " ".join(f"when '{name}' then {place}" for place, name in enumerate(PERIODS))
        query = f"""
            with e as (select {scope} as scope, case period {number} end as period, {moment} as t,
                              user_id, item_id from events),
            ends as (select scope, period, max(t) as t from e group by all),
            limits as (select scope, period, max(t) over (partition by scope order by period
                       rows between unbounded preceding and 1 preceding) as t from ends)
            select count(*) filter (e.t <= limits.t), count(*),
                   min(e.user_id) filter (e.t <= limits.t)
            from e join limits on e.scope = limits.scope and e.period = limits.period
        """  # noqa: S608
        count, total, user = self.rows(query)[0]
        example = f"(e.g. of user {user})" if user is not None else ""
        return Violation(count=int(str(count)), total=int(str(total)), example=example)

    def split_baskets(self) -> Violation:
        """Return baskets that lie in more than one period or belong to more than one user."""
        query = """
            with b as (select basket_id, count(distinct period) as p, count(distinct user_id) as u
                       from events where basket_id is not null group by basket_id)
            select count(*) filter (p > 1 or u > 1), count(*),
                   min(basket_id) filter (p > 1 or u > 1) from b
        """
        count, total, basket = self.rows(query)[0]
        example = f"(e.g. basket {basket})" if basket is not None else ""
        return Violation(count=int(str(count)), total=int(str(total)), example=example)

    def copied_baskets(self) -> tuple[Violation, float]:
        """Return later baskets whose very items the same user has in a training basket.

        The second number is what is usual: the share of training baskets that have a twin there.
        """
        query = f"""
            with b as (select user_id, basket_id, min(period) = 'train' as old,
                              list_sort(list(distinct item_id)) as items
                       from events where basket_id is not null group by user_id, basket_id
                       having count(distinct item_id) >= {MIN_BASKET_ITEMS}),
            known as (select user_id, items, count(*) as n from b where old group by user_id, items)
            select count(n) filter (not old), count(*) filter (not old),
                   min(basket_id) filter (not old and n is not null),
                   count(*) filter (old and n > 1), count(*) filter (old)
            from b left join known using (user_id, items)
        """  # noqa: S608
        count, total, basket, twins, trained = self.rows(query)[0]
        example = f"(e.g. basket {basket})" if basket is not None else ""
        found = Violation(count=int(str(count)), total=int(str(total)), example=example)
        return found, int(str(twins)) / max(int(str(trained)), 1)

    def unknown_items(self) -> Violation:
        """Return events on items that the catalogue does not have."""
        query = """
            select count(*) filter (c.item_id is null), count(*),
                   min(e.item_id) filter (c.item_id is null)
            from events e left join (select distinct item_id from catalogue) c using (item_id)
        """
        count, total, item = self.rows(query)[0]
        example = f"(e.g. item {item})" if item is not None else ""
        return Violation(count=int(str(count)), total=int(str(total)), example=example)

    def category_lift(self) -> tuple[float, int] | None:
        """Return how much oftener than by chance neighbours share a category, and the pairs.

        Neighbours are successive, different items of one user; by chance means: were categories
        dealt anew to the same items. About 1 for a shuffled catalogue, 1.9 to 42 on real sets.
        None where the catalogue has fewer than two categories.
        """
        query = """
            with c as (select item_id, any_value(category) as category from catalogue
                       where category is not null and item_id is not null group by item_id),
            used as (select * from c where item_id in (select item_id from events)),
            sizes as (select count(*) as n from used group by category),
            chance as (select sum(n * (n - 1))::double / nullif(sum(n) * (sum(n) - 1), 0) as q,
                              count(*) as categories from sizes),
            pairs as (select item_id as a,
                      lead(item_id) over (partition by user_id order by position) as b from events),
            met as (select x.category = y.category as same from pairs
                    join c x on x.item_id = a join c y on y.item_id = b where a <> b)
            select avg(same::int), count(*), any_value(q), any_value(categories) from met, chance
        """
        same, pairs, chance, categories = self.rows(query)[0]
        if not pairs or not chance or int(str(categories)) < 2:
            return None
        return float(str(same)) / float(str(chance)), int(str(pairs))

    def titles_changed(self, last_run: Path) -> Violation:
        """Return items whose title or category is not that of the last run's catalogue."""
        self._base.read_parquet(str(last_run / CATALOGUE)).create_view("last_catalogue")
        query = """
            select count(*) filter (n.title is distinct from o.title
                                    or n.category is distinct from o.category), count(*),
                   min(n.item_id) filter (n.title is distinct from o.title
                                          or n.category is distinct from o.category)
            from catalogue n join last_catalogue o using (item_id)
        """
        count, total, item = self.rows(query)[0]
        example = f"(e.g. item {item})" if item is not None else ""
        return Violation(count=int(str(count)), total=int(str(total)), example=example)


def _micro(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)


def _utc(microseconds: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _day(day: int, counts: Sequence[int]) -> Day:
    date = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)
    return Day(date=date, events=counts[0], by_period=tuple(counts[1:]))
