"""From somebody's time column to plain timestamps in UTC, null where a value does not parse."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from zoneinfo import ZoneInfo

import ibis
import ibis.expr.types as ir

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json
from tasks.events.warehouse import timestamp_at_zone, try_parse_timestamp, utc_of_timestamp

MICROSECONDS = MappingProxyType({"s": 1_000_000, "ms": 1_000, "us": 1})
ISO = "iso"
_OFFSET = r":\d{2}(\.\d+)? ?(Z|[+-]\d{2}(:?\d{2})?)$"  # after a time: a date ends in -01 too


@dataclass(frozen=True, kw_only=True)
class TimestampRule:
    """How a time column is written: seconds since 1970, ISO 8601, or a strptime form."""

    unit: str = ISO
    form: str | None = None  # such as "%d.%m.%Y %H:%M"; with unit iso only
    zone: str = "UTC"  # of times that carry no offset themselves

    def __post_init__(self) -> None:
        """Refuse unknown units and zones."""
        if self.unit not in {ISO, *MICROSECONDS}:
            message = f"timestamp unit: expected iso, s, ms or us, found {self.unit!r:.40}"
            raise BadRequestError(message)
        if self.unit != ISO and (self.form or self.zone != "UTC"):
            message = f"timestamp: expected neither form nor zone with unit {self.unit!r}"
            raise BadRequestError(message)
        try:
            ZoneInfo(self.zone)
        except (ValueError, OSError, LookupError) as error:
            message = f"timestamp zone: expected an IANA name, found {self.zone!r:.80}"
            raise BadRequestError(message) from error

    def to_json(self) -> dict[str, Json]:
        """Return it as a record."""
        return {"unit": self.unit, "form": self.form, "zone": self.zone}

    def parse(self, column: ir.Column) -> ir.TimestampColumn:
        """Return plain timestamps in UTC; null where the value is null or does not parse."""
        kind = column.type()
        if self.unit != ISO:
            return _since_1970(column, MICROSECONDS[self.unit])
        if kind.is_timestamp() and kind.timezone:
            return utc_of_timestamp("UTC", column.cast("timestamp('UTC')"))
        if kind.is_timestamp() or kind.is_date():
            return self._in_utc(column.cast("timestamp"))
        if not kind.is_string():
            message = (
                f"timestamp: expected times or text, found a column of {kind}; next step: set "
                "unit to s, ms or us in the mapping file"
            )
            raise BadRequestError(message)
        if self.form:
            return self._in_utc(try_parse_timestamp(column, self.form))
        # DuckDB drops an offset where text becomes a plain timestamp, so zoned text goes by way of
        # a timestamp with a zone; the session's zone, UTC, stands where the text has none.
        zoned = utc_of_timestamp("UTC", column.try_cast("timestamp('UTC')"))
        if self.zone == "UTC":
            return zoned
        plain = self._in_utc(column.try_cast("timestamp"))
        return ibis.ifelse(column.re_search(_OFFSET), zoned, plain)

    def _in_utc(self, plain: ir.TimestampColumn) -> ir.TimestampColumn:
        if self.zone == "UTC":
            return plain
        return utc_of_timestamp("UTC", timestamp_at_zone(self.zone, plain))


def _since_1970(column: ir.Column, microseconds: int) -> ir.TimestampColumn:
    kind = column.type()
    whole = column.try_cast("int64") if kind.is_string() else column
    if not whole.type().is_integer():
        whole = (whole * microseconds).round().try_cast("int64")
    else:
        whole = whole * microseconds
    return ibis.timestamp("1970-01-01T00:00:00") + whole.as_interval("us")
