"""JSON values, their canonical text, and checked reading of fields."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TypeAlias

from tasks.contracts.errors import BadRequestError

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


def canonical_json(value: object) -> str:
    """Return the one text of `value`: sorted keys, no spaces, no NaN (after RFC 8785)."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def pretty_json(value: object) -> str:
    """Return `value` as text for people: sorted keys, two spaces, a newline at the end."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def digest_of_json(value: object) -> str:
    """Return the hex sha256 of the canonical text of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def parse_object(text: str | bytes, where: str) -> dict[str, Json]:
    """Parse a JSON object; anything else is a bad request that names `where`."""
    try:
        value = json.loads(text)
    except ValueError as error:
        message = f"{where}: expected a JSON object, found text that does not parse: {error}"
        raise BadRequestError(message) from error
    if not isinstance(value, dict):
        message = f"{where}: expected a JSON object, found {type(value).__name__}"
        raise BadRequestError(message)
    return value


def check_format(record: Mapping[str, Json], name: str, newest: int, where: str) -> int:
    """Return the format number of a record `name/N`; accept every N up to `newest`."""
    found = record.get("format")
    prefix, _, number = str(found).partition("/")
    if prefix != name or not number.isdigit() or not 1 <= int(number) <= newest:
        message = (
            f"{where}: expected format {name}/1 to {name}/{newest}, found {found!r}; "
            "was it written by a newer Headrace?"
        )
        raise BadRequestError(message)
    return int(number)
