"""Reading the JSON records of a payload: a gate names what is missing instead of crashing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, check_format, parse_object


def read_record(path: Path, name: str | None = None) -> dict[str, Json]:
    """Read a JSON object; with `name`, one of format `name/1`."""
    if not path.is_file():
        message = f"{path.name}: expected this file in the payload, found none"
        raise BadRequestError(message)
    record = parse_object(path.read_bytes(), path.name)
    if name is not None:
        check_format(record, name, 1, path.name)
    return record


def number(record: Mapping[str, Json], key: str) -> float | None:
    """Return the finite number at `key`, None where there is none: a check on None fails."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
