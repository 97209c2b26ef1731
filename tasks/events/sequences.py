"""Sets that keep the order of a user's items but no times: MovieLens-1M and Amazon reviews.

MovieLens-1M (`ml-1m.txt`, the file of the SASRec repository): one `user item` a line, in order; a
rating tells that a film was watched, so the event is a view; titles and genres from `items.csv`.
Amazon Beauty 2014, 5-core: one `user item item ...` a line; a review tells of a purchase; no titles.
No user has an item twice in either.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path

import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from tasks.contracts.columns import EventType
from tasks.contracts.errors import BadRequestError
from tasks.events.raw_events import RawEvents, contract_catalogue, contract_events, items_of
from tasks.events.warehouse import arrow_table


def read_ml_1m(connection: Backend, paths: Sequence[Path]) -> RawEvents:
    """Read sequences, and titles and genres of films."""
    events = _events(connection, paths[0], EventType.VIEW, items_per_line=1)
    films = connection.read_csv(paths[1], header=True, all_varchar=True)
    films = films.filter(films.sas_item_id.notnull())
    catalogue = films.select(item_id=films.sas_item_id, title=films.title, category=films.genres)
    return _raw(events, contract_catalogue(catalogue))


def read_amazon(connection: Backend, paths: Sequence[Path]) -> RawEvents:
    """Read sequences of reviewed items."""
    events = _events(connection, paths[0], EventType.PURCHASE, items_per_line=None)
    return _raw(events, items_of(events))


def _raw(events: ir.Table, catalogue: ir.Table) -> RawEvents:
    rows = int(events.count().to_pyarrow().as_py())
    return RawEvents(events=events, catalogue=catalogue, rows_read=rows)


def _events(
    connection: Backend, path: Path, kind: EventType, *, items_per_line: int | None
) -> ir.Table:
    users: list[str] = []
    items: list[str] = []
    for user, *line_items in _lines(path, items_per_line):
        users.extend([user] * len(line_items))
        items.extend(line_items)
    table = pa.table(
        {
            "user_id": users,
            "item_id": items,
            "event_type": pa.repeat(kind.value, len(users)),
            "arrival": pa.array(range(len(users)), pa.int64()),
        }
    )
    return contract_events(arrow_table(connection, "sequences", table))


def _lines(path: Path, items_per_line: int | None) -> Iterator[list[str]]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.split()
            if len(fields) < 2 or items_per_line not in {None, len(fields) - 1}:
                message = (
                    f"{path.name}, line {number}: expected a user and {items_per_line or 'its'} "
                    f"items, found {line.strip()!r:.80}; next step: check that the file is whole"
                )
                raise BadRequestError(message)
            yield fields
