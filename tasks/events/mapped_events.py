"""Somebody's own parquet or CSV, read through a mapping; errors name column, example and count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from tasks.contracts.columns import EVENT_TYPES, EventColumn
from tasks.contracts.errors import BadRequestError, bounded
from tasks.events.mapping import CsvRule, EventsMapping
from tasks.events.raw_events import (
    ARRIVAL,
    RawEvents,
    Rejection,
    contract_catalogue,
    contract_events,
    items_of,
)
from tasks.events.warehouse import single_row

_NEXT_STEP = "next step: correct the file or the mapping file"


def read_table(connection: Backend, paths: Sequence[Path], csv: CsvRule) -> ir.Table:
    """Open parquet or CSV files of one shape; CSV columns stay text until they are mapped."""
    name, is_parquet = paths[0].name, [".parquet" in path.name for path in paths]
    if any(is_parquet) != all(is_parquet):
        message = f"{name}: expected parquet files or CSV files, found both; {_NEXT_STEP}"
        raise BadRequestError(message)
    try:
        if all(is_parquet):
            return connection.read_parquet(list(paths))
        delimiter = csv.delimiter or ("\t" if ".tsv" in name else ",")
        names = {"names": list(csv.names)} if csv.names else {}
        options = {"header": not csv.names, "delim": delimiter, "all_varchar": True, **names}
        return connection.read_csv([str(path) for path in paths], **options)
    except duckdb.Error as error:
        message = f"{name}: expected parquet or CSV, found: {bounded(str(error), 400)}"
        raise BadRequestError(message) from error


def read_mapped(
    raw: ir.Table, catalogue: ir.Table | None, mapping: EventsMapping, where: str
) -> RawEvents:
    """Map the columns of `raw` to the contract; whatever does not parse is refused by name."""
    _demand_columns(raw, mapping.columns.values(), where)
    rows_read = single_row(raw.aggregate(rows=raw.count()))["rows"]
    kept, rejected = _without_ignored(raw, mapping)
    columns = {
        name: _mapped(kept, name, mapping, where) for name in (*mapping.columns, *mapping.constants)
    }
    if mapping.order_only:
        columns[ARRIVAL] = columns.pop(EventColumn.POSITION)
    events = contract_events(kept.select(**{str(name): value for name, value in columns.items()}))
    known = items_of(events) if catalogue is None else mapped_catalogue(catalogue, mapping, where)
    return RawEvents(events=events, catalogue=known, rows_read=rows_read, rejected=rejected)


def mapped_catalogue(catalogue: ir.Table, mapping: EventsMapping, where: str) -> ir.Table:
    """Map a catalogue; without a mapping its columns have the contract's names."""
    names = mapping.catalogue_columns or {name: name for name in catalogue.columns}
    _demand_columns(catalogue, [*names.values()], f"catalogue of {where}")
    if "item_id" not in names:
        message = f"catalogue of {where}: expected a column item_id, found {sorted(names)}"
        raise BadRequestError(message)
    columns = {}
    for name, column in names.items():
        raw = catalogue[column]
        columns[name] = _price(catalogue, column, where) if name == "price" else raw
    return contract_catalogue(catalogue.select(**columns))


def _demand_columns(table: ir.Table, names: Iterable[str], where: str) -> None:
    missing = sorted(set(names) - set(table.columns))
    if missing:
        found = bounded(", ".join(table.columns), 400)
        message = f"{where}: expected columns {missing}, found {found}; {_NEXT_STEP}"
        raise BadRequestError(message)


def _without_ignored(
    raw: ir.Table, mapping: EventsMapping
) -> tuple[ir.Table, tuple[Rejection, ...]]:
    column = mapping.columns.get(EventColumn.EVENT_TYPE)
    if column is None or not mapping.ignored_event_types:
        return raw, ()
    ignored = raw[column].cast("string").isin(mapping.ignored_event_types).fill_null(False)
    rows = single_row(raw.aggregate(rows=ignored.sum().fill_null(0)))["rows"]
    reason = f"event type ignored by the mapping: {', '.join(mapping.ignored_event_types)}"
    return raw.filter(~ignored), (Rejection(reason=reason, rows=int(rows), example=column),)


def _mapped(table: ir.Table, name: str, mapping: EventsMapping, where: str) -> ir.Value:
    if name in mapping.constants:
        return ibis.literal(mapping.constants[name])
    column = mapping.columns[name]
    if name == EventColumn.EVENT_TYPE:
        return _event_type(table, column, mapping, where)
    if name == EventColumn.TIMESTAMP:
        parsed = mapping.timestamp.parse(table[column])
        expected = f"a timestamp ({mapping.timestamp.form or mapping.timestamp.unit})"
        return _parsed(table, column, parsed, expected, where)
    if name == EventColumn.PRICE:
        return _price(table, column, where)
    if name == EventColumn.POSITION:
        whole = table[column].try_cast("int64")
        return _parsed(table, column, whole, "a whole number", where)
    return table[column].cast("string")


def _price(table: ir.Table, column: str, where: str) -> ir.Value:
    return _parsed(table, column, table[column].try_cast("float64"), "a number", where)


def _event_type(table: ir.Table, column: str, mapping: EventsMapping, where: str) -> ir.Value:
    raw = table[column].cast("string")
    names = {**{kind: kind for kind in EVENT_TYPES}, **mapping.event_types}
    unknown = raw.notnull() & raw.notin(list(names))
    found = table.filter(unknown).group_by(value=raw).aggregate(rows=lambda rows: rows.count())
    rows = found.order_by([ibis.desc("rows"), "value"]).limit(5).to_pyarrow().to_pylist()
    if rows:
        listed = ", ".join(f"{row['value']!r:.60} in {row['rows']} rows" for row in rows)
        message = (
            f"{where}: column {column!r}: expected an event type of {sorted(names)}, found "
            f"{listed}; next step: map it under [event_types] or name it in ignored_event_types"
        )
        raise BadRequestError(message)
    return ibis.cases(*[(raw == value, kind) for value, kind in names.items()])


def _parsed(table: ir.Table, column: str, parsed: ir.Value, expected: str, where: str) -> ir.Value:
    bad = table[column].notnull() & parsed.isnull()
    row = single_row(
        table.aggregate(
            bad=bad.sum().fill_null(0),
            rows=table.count(),
            example=table[column].cast("string").min(where=bad),
        )
    )
    if row["bad"]:
        message = (
            f"{where}: column {column!r}: expected {expected}, found {row['example']!r:.80} and "
            f"the like in {row['bad']} of {row['rows']} rows; {_NEXT_STEP}"
        )
        raise BadRequestError(message)
    return parsed
