"""Times, hosts and figures beside an artifact (`facts/2`): outside its digest, with one of their own.

Nothing is decided by them and a stage goes on without them. Their own digest says only that they
are as they were written.
"""

from __future__ import annotations

from collections.abc import Mapping

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, check_format, digest_of_json, parse_object, pretty_json

DIGEST = "digest"
FIRST_WITH_DIGEST = 2


def facts_text(facts: Mapping[str, Json]) -> str:
    """Return `facts.json` as text."""
    return pretty_json(with_digest({"format": "facts/2", **facts}))


def facts_problems(text: bytes, where: str) -> list[str]:
    """Return what is wrong with a `facts.json`; one of format 1 has nothing to be held to."""
    try:
        record = parse_object(text, where)
        number = check_format(record, "facts", 2, where)
    except BadRequestError as error:
        return [str(error)]
    return self_digest_problems(record, text, where, demanded=number >= FIRST_WITH_DIGEST)


def with_digest(record: Mapping[str, Json]) -> dict[str, Json]:
    """Return a record with the digest of all its other fields."""
    return {**record, DIGEST: digest_of_json(dict(record))}


def self_digest_problems(
    record: Mapping[str, Json], text: bytes, where: str, *, demanded: bool
) -> list[str]:
    """Return why a record's text is not as it was written: its own digest and its one text."""
    if not demanded:
        unexpected = DIGEST in record
        return [f"{where}: field {DIGEST}: expected none in this format"] if unexpected else []
    others = {name: value for name, value in record.items() if name != DIGEST}
    expected, found = digest_of_json(others), record.get(DIGEST)
    if found != expected:
        return [f"{where}: field {DIGEST}: expected {expected} from the fields, found {found!r}"]
    if text != pretty_json(record).encode():
        return [f"{where}: is not the one text of its fields"]
    return []
