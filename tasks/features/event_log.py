"""Validated events as an Ibis table, with what their profile says of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from tasks.contracts.json_types import Json, check_format, parse_object

EVENTS_FILE = "events.parquet"
CATALOGUE_FILE = "catalogue.parquet"
PROFILE_FILE = "profile.json"


@dataclass(frozen=True, kw_only=True)
class EventLog:
    """Events sorted by user and position, the catalogue, and the kind of the set."""

    events: ir.Table
    catalogue: ir.Table
    dataset: str
    repeats_allowed: bool
    baskets: bool
    order_only: bool


def connect(spill: Path) -> Backend:
    """Open an empty DuckDB that spills to `spill`."""
    spill.mkdir(parents=True, exist_ok=True)
    connection = ibis.duckdb.connect(temp_directory=str(spill))
    connection.raw_sql("SET TimeZone = 'UTC'")
    return connection


def read_profile(folder: Path) -> dict[str, Json]:
    """Read the profile of validated events."""
    where = f"validated events, {PROFILE_FILE}"
    profile = parse_object((folder / PROFILE_FILE).read_bytes(), where)
    check_format(profile, "events_profile", 1, where)
    return profile


def open_event_log(connection: Backend, folder: Path) -> EventLog:
    """Open a payload of validated events; nothing is read yet."""
    profile = read_profile(folder)
    return EventLog(
        events=connection.read_parquet(folder / EVENTS_FILE),
        catalogue=connection.read_parquet(folder / CATALOGUE_FILE),
        dataset=cast("str", profile["dataset"]),
        repeats_allowed=profile["repeats_allowed"] is True,
        baskets=profile["baskets"] is True,
        order_only=profile["order_only"] is True,
    )
