"""The mapping file (TOML, format `events_mapping/1`): how somebody's columns become events.

format = "events_mapping/1"
repeats_allowed = true

[columns]                 # contract column = column of the file
user_id = "customer"
item_id = "sku"
event_type = "action"
timestamp = "at"          # or position = "..." for a set that has order but no times
basket_id = "order_no"    # optional: session_id, query, variant, price, basket_id

[constants]               # event_type or variant = one value for all rows
[event_types]             # value in the file = view | cart | favourite | purchase
bought = "purchase"
[timestamp]               # unit = iso | s | ms | us; form = "%d.%m.%Y %H:%M"; zone = an IANA name
zone = "Europe/Berlin"
[csv]                     # delimiter; names = [...] for a file without a header line
[periods]                 # rule = shares | cuts | last_steps, with select, gate, canary
[catalogue.columns]       # item_id, title, category, brand, price
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from tasks.contracts.columns import (
    EVENT_TYPES,
    OPTIONAL_EVENT_COLUMNS,
    REQUIRED_EVENT_COLUMNS,
    CatalogueColumn,
    EventColumn,
)
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, check_format
from tasks.contracts.requests import parse_utc
from tasks.events.periods import LastSteps, PeriodRule, SpanShares, TimeCuts
from tasks.events.timestamps import TimestampRule

FORMAT = "events_mapping"
_EVENT_COLUMNS = {*REQUIRED_EVENT_COLUMNS, *OPTIONAL_EVENT_COLUMNS, EventColumn.POSITION}
_CONSTANTS = {EventColumn.EVENT_TYPE, EventColumn.VARIANT}


@dataclass(frozen=True, kw_only=True)
class CsvRule:
    """How a CSV file is written; `names` stand for a header line that is not there."""

    delimiter: str | None = None  # None: tab in .tsv, comma elsewhere
    names: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Return it as a record."""
        return {"delimiter": self.delimiter, "names": list(self.names)}


@dataclass(frozen=True, kw_only=True)
class EventsMapping:
    """A parsed mapping file."""

    columns: Mapping[str, str]
    constants: Mapping[str, str] = field(default_factory=dict)
    event_types: Mapping[str, str] = field(default_factory=dict)
    ignored_event_types: tuple[str, ...] = ()
    timestamp: TimestampRule = field(default_factory=TimestampRule)
    csv: CsvRule = field(default_factory=CsvRule)
    periods: PeriodRule = field(default_factory=SpanShares)
    repeats_allowed: bool = True
    catalogue_columns: Mapping[str, str] | None = None  # None: the contract's own names
    catalogue_csv: CsvRule = field(default_factory=CsvRule)

    def __post_init__(self) -> None:
        """Refuse unknown columns and types, and a mapping that leaves out a column."""
        given = {*self.columns, *self.constants}
        _demand_known("columns", given, _EVENT_COLUMNS)
        _demand_known("constants", set(self.constants), _CONSTANTS)
        constant_type = {self.constants.get(EventColumn.EVENT_TYPE, EVENT_TYPES[0])}
        _demand_known("constants", constant_type, set(EVENT_TYPES))
        _demand_known("event_types", set(self.event_types.values()), set(EVENT_TYPES))
        _demand_known("catalogue.columns", set(self.catalogue_columns or ()), set(CatalogueColumn))
        at = EventColumn.POSITION if self.order_only else EventColumn.TIMESTAMP
        needed = (EventColumn.USER_ID, EventColumn.ITEM_ID, EventColumn.EVENT_TYPE, at)
        missing = [column.value for column in needed if column not in given]
        if missing:
            message = f"mapping [columns]: expected {missing}, found only {sorted(given)}"
            raise BadRequestError(message)
        if self.order_only != isinstance(self.periods, LastSteps):
            message = (
                "mapping [periods]: expected rule last_steps exactly where [columns] names "
                f"position and no timestamp, found {type(self.periods).__name__}"
            )
            raise BadRequestError(message)

    @property
    def order_only(self) -> bool:
        """Return whether the set has order but no times."""
        return EventColumn.POSITION in self.columns and EventColumn.TIMESTAMP not in self.columns

    def to_json(self) -> dict[str, Json]:
        """Return everything but periods and repeats as a record."""
        return {
            "columns": dict(self.columns),
            "constants": dict(self.constants),
            "event_types": dict(self.event_types),
            "ignored_event_types": list(self.ignored_event_types),
            "timestamp": self.timestamp.to_json(),
            "csv": self.csv.to_json(),
            "catalogue_columns": None
            if self.catalogue_columns is None
            else dict(self.catalogue_columns),
            "catalogue_csv": self.catalogue_csv.to_json(),
        }


def identity_mapping(columns: tuple[str, ...]) -> EventsMapping:
    """Return the mapping of a file that already has the contract's columns."""
    known = {*REQUIRED_EVENT_COLUMNS, *OPTIONAL_EVENT_COLUMNS}
    return EventsMapping(columns={name: name for name in columns if name in known})


def parse_mapping(text: str, where: str) -> EventsMapping:
    """Parse a mapping file; every error names `where` and the table of the file."""
    try:
        record = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = f"{where}: expected a TOML file, found text that does not parse: {error}"
        raise BadRequestError(message) from error
    check_format(record, FORMAT, 1, where)
    try:
        return _from_record({name: value for name, value in record.items() if name != "format"})
    except BadRequestError as error:
        raise BadRequestError(f"{where}: {error}") from error
    except (TypeError, AttributeError) as error:
        message = f"{where}: expected the tables of {FORMAT}/1, found: {error}"
        raise BadRequestError(message) from error


def _from_record(record: dict[str, Any]) -> EventsMapping:
    tables = {*(item.name for item in fields(EventsMapping)), "catalogue"}
    _demand_known("tables", set(record), tables - {"catalogue_columns", "catalogue_csv"})
    catalogue = record.pop("catalogue", {})
    _demand_known("catalogue", set(catalogue), {"columns", "csv"})
    columns = _texts("columns", record.pop("columns", {}))
    constants = _texts("constants", record.pop("constants", {}))
    order_only = "timestamp" not in columns and "position" in columns
    return EventsMapping(
        columns=columns,
        constants=constants,
        event_types=_texts("event_types", record.pop("event_types", {})),
        ignored_event_types=tuple(record.pop("ignored_event_types", ())),
        timestamp=TimestampRule(**_texts("timestamp", record.pop("timestamp", {}))),
        csv=_csv(record.pop("csv", {})),
        periods=_periods(record.pop("periods", None), order_only=order_only),
        catalogue_columns=_texts("catalogue.columns", catalogue["columns"])
        if "columns" in catalogue
        else None,
        catalogue_csv=_csv(catalogue.get("csv", {})),
        repeats_allowed=bool(record.pop("repeats_allowed", True)),
    )


def _csv(record: dict[str, Any]) -> CsvRule:
    return CsvRule(delimiter=record.pop("delimiter", None), names=tuple(record.pop("names", ())))


def _periods(record: dict[str, Any] | None, *, order_only: bool) -> PeriodRule:
    if record is None:
        return LastSteps() if order_only else SpanShares()
    values = dict(record)
    rule = values.pop("rule", None)
    if rule == "last_steps":
        return LastSteps(**values)
    if rule == "shares":
        return SpanShares(**values)
    if rule == "cuts":
        return TimeCuts(**{name: _moment(value) for name, value in values.items()})
    message = f"[periods] rule: expected shares, cuts or last_steps, found {rule!r:.40}"
    raise BadRequestError(message)


def _moment(value: datetime | str) -> datetime:
    return parse_utc(value.isoformat() if isinstance(value, datetime) else value)


def _texts(table: str, record: Mapping[str, Any]) -> dict[str, str]:
    wrong = {name: value for name, value in record.items() if not isinstance(value, str)}
    if wrong:
        message = f"[{table}]: expected text values, found {wrong!r:.200}"
        raise BadRequestError(message)
    return dict(record)


def _demand_known(table: str, found: AbstractSet[str], known: AbstractSet[str]) -> None:
    unknown = sorted(str(name) for name in found - known)
    if unknown:
        message = f"[{table}]: expected any of {sorted(map(str, known))}, found {unknown}"
        raise BadRequestError(message)
