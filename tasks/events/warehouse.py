"""Tables in Ibis on DuckDB, and the one way they are written: parquet by pyarrow, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

ROWS_PER_GROUP = 131_072

timestamp_at_zone = ibis.udf.scalar.builtin(
    name="timezone", signature=((dt.string, dt.Timestamp()), dt.Timestamp("UTC"))
)(lambda _zone, _at: ...)
utc_of_timestamp = ibis.udf.scalar.builtin(
    name="timezone", signature=((dt.string, dt.Timestamp("UTC")), dt.Timestamp())
)(lambda _zone, _at: ...)
try_parse_timestamp = ibis.udf.scalar.builtin(
    name="try_strptime", signature=((dt.string, dt.string), dt.Timestamp())
)(lambda _text, _form: ...)


def connect(spill: Path) -> Backend:
    """Open an empty DuckDB that spills to `spill` and reads every plain timestamp as UTC."""
    spill.mkdir(parents=True, exist_ok=True)
    connection = ibis.duckdb.connect(temp_directory=str(spill))
    connection.raw_sql("SET TimeZone = 'UTC'")
    return connection


def arrow_table(connection: Backend, name: str, table: pa.Table) -> ir.Table:
    """Show an Arrow table to DuckDB without a copy.

    Ibis 12's create_table sends a statement for Arrow tables that DuckDB 2 does not parse.
    """
    connection.con.register(name, table)
    return connection.table(name)


def timestamp_literal(moment: datetime) -> ir.TimestampScalar:
    """Return a plain timestamp in UTC: tables hold no zones until they are written."""
    return ibis.timestamp(moment.astimezone(UTC).replace(tzinfo=None).isoformat())


def single_row(table: ir.Table) -> dict[str, Any]:
    """Run a query that has one row and return it."""
    row: dict[str, Any] = table.to_pyarrow().to_pylist()[0]
    return row


def write_parquet(connection: Backend, table: ir.Table, schema: pa.Schema, path: Path) -> int:
    """Write `table` in its order, a bounded number of rows in memory; return the number of rows."""
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in _groups(connection, table, schema):
            writer.write_table(group, row_group_size=ROWS_PER_GROUP)
            rows += group.num_rows
    return rows


def _groups(connection: Backend, table: ir.Table, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield groups of equal size, whatever batches the engine gives: bytes must not depend on it.

    Ibis 12's own to_pyarrow_batches asks for a cursor method that DuckDB 2 has dropped.
    """
    kept: list[pa.Table] = []
    batches = connection.con.sql(connection.compile(table)).to_arrow_reader(ROWS_PER_GROUP)
    for batch in batches:
        kept.append(pa.Table.from_batches([batch]).select(schema.names).cast(schema))
        while sum(part.num_rows for part in kept) >= ROWS_PER_GROUP:
            joined = pa.concat_tables(kept)
            yield joined.slice(0, ROWS_PER_GROUP)
            kept = [joined.slice(ROWS_PER_GROUP)]
    rest = pa.concat_tables(kept) if kept else schema.empty_table()
    if rest.num_rows:
        yield rest
