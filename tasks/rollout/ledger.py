"""The ledger of one model: hash-chained entries, one object each, written put-if-absent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from types import NoneType
from typing import Any, Protocol, cast

from tasks.contracts.errors import BadRequestError, CorruptArtifactError
from tasks.contracts.json_types import Json, canonical_json, check_format, parse_object

FIRST_PREVIOUS = "0" * 64


# What each field of an entry may hold; no field holds a boolean.
_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("model", "previous", "kind", "at", "who", "why"), (str,)),
    **dict.fromkeys(("sequence", "share"), (int,)),
    **dict.fromkeys(("release_number", "step"), (int, NoneType)),
    "release_id": (str, NoneType),
    "details": (dict,),
}


class LedgerStore(Protocol):
    """What the ledger needs of an object store."""

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write the object unless there is one; return whether it was written."""
        ...

    def read(self, path: str) -> bytes:
        """Return the object's bytes; raise FileNotFoundError where there is none."""
        ...

    def list(self, prefix: str) -> Iterable[str]:
        """Return the paths of all objects below a folder."""
        ...


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """Who did what to which release, when, why and on which numbers (`ledger_entry/1`)."""

    model: str
    sequence: int
    previous: str  # digest of the entry before
    kind: str
    at: str
    who: str
    why: str
    release_id: str | None = None
    release_number: int | None = None
    step: int | None = None
    share: int = 0  # of the candidate after this entry, in basis points
    details: Mapping[str, Json] = field(default_factory=dict)

    def to_text(self) -> str:
        """Return the one text of the entry; its sha256 is the link of the chain."""
        return canonical_json({"format": "ledger_entry/1", **asdict(self)}) + "\n"

    @property
    def digest(self) -> str:
        """Return the hex sha256 of the text."""
        return hashlib.sha256(self.to_text().encode()).hexdigest()

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> LedgerEntry:
        """Read an entry; errors name `where`."""
        return cls.from_record(parse_object(text, where), where)

    @classmethod
    def from_record(cls, record: Mapping[str, Json], where: str) -> LedgerEntry:
        """Build an entry from parsed JSON; errors name `where`."""
        check_format(record, "ledger_entry", 1, where)
        values = {name: value for name, value in record.items() if name != "format"}
        for name, value in values.items():
            kinds = _KINDS.get(name, (object,))
            if not isinstance(value, kinds) or isinstance(value, bool):
                expected = " or ".join(kind.__name__ for kind in kinds)
                message = f"{where}: field {name}: expected {expected}, found {value!r:.80}"
                raise BadRequestError(message)
        try:
            return cls(**cast("dict[str, Any]", values))
        except TypeError as error:
            message = f"{where}: expected a complete ledger_entry/1, found: {error}"
            raise BadRequestError(message) from error


def entry_path(model: str, sequence: int) -> str:
    """Return where the entry lies in the store."""
    return f"ledger/{model}/{sequence:08d}.json"


def write_entry(store: LedgerStore, entry: LedgerEntry) -> None:
    """Write the entry unless it is there; another entry in its place is corruption."""
    path = entry_path(entry.model, entry.sequence)
    data = entry.to_text().encode()
    if store.put_if_absent(path, data) or store.read(path) == data:
        return
    message = (
        f"{path}: expected the entry that the state record holds (sha256 {entry.digest}), found "
        f"other bytes; run `headrace verify --model {entry.model}` and restore the object from a "
        "backup"
    )
    raise CorruptArtifactError(message)


def is_written(store: LedgerStore, entry: LedgerEntry) -> bool:
    """Return whether the ledger holds exactly this entry."""
    try:
        return store.read(entry_path(entry.model, entry.sequence)) == entry.to_text().encode()
    except FileNotFoundError:
        return False


def continues(store: LedgerStore, entry: LedgerEntry) -> bool:
    """Return whether the store holds the entry before this one: a store of others does not."""
    if entry.sequence == 1:
        return True
    try:
        before = store.read(entry_path(entry.model, entry.sequence - 1))
    except FileNotFoundError:
        return False
    return hashlib.sha256(before).hexdigest() == entry.previous


def read_ledger(store: LedgerStore, model: str) -> dict[int, bytes]:
    """Return sequence -> bytes of every ledger object of a model."""
    found = {}
    for path in store.list(f"ledger/{model}"):
        stem = path.rsplit("/", 1)[-1].removesuffix(".json")
        if stem.isdigit():
            found[int(stem)] = store.read(path)
    return found


def read_entry(store: LedgerStore, model: str, sequence: int) -> LedgerEntry | None:
    """Return one entry, None where its object is missing: no listing, so cheap at any length."""
    path = entry_path(model, sequence)
    try:
        return LedgerEntry.parse(store.read(path), path)
    except FileNotFoundError:
        return None


def with_unwritten(
    objects: Mapping[int, bytes], entries: Iterable[LedgerEntry]
) -> dict[int, bytes]:
    """Return a ledger's objects and, where they lack one, entries that the state record still holds."""
    return {entry.sequence: entry.to_text().encode() for entry in entries} | dict(objects)


def verify_chain(model: str, objects: Mapping[int, bytes], sequence: int, head: str) -> list[str]:
    """Return what is wrong with the ledger, given the state record's sequence and head.

    Walks back from the head, which is trusted: each entry must hash to what its successor says.
    """
    problems = [
        f"{entry_path(model, number)}: ahead of the state record, which ends at {sequence}"
        for number in sorted(objects)
        if number > sequence or number < 1
    ]
    present = [number for number in objects if 1 <= number <= sequence]
    last = max(present, default=0)
    expected: str | None = head
    for number in range(sequence, 0, -1):
        where = entry_path(model, number)
        if number not in objects:
            kind = "the tail was cut" if number > last else "deleted"
            problems.append(f"{where}: missing ({kind})")
            expected = None
            continue
        problem, expected = _check_link(model, number, objects[number], expected)
        problems += [f"{where}: {problem}"] if problem else []
    if expected is not None and expected != FIRST_PREVIOUS:
        problems.append(f"{entry_path(model, 1)}: expected no entry before it, found a link")
    return problems


def _check_link(
    model: str, number: int, data: bytes, expected: str | None
) -> tuple[str | None, str | None]:
    """Return a problem or None, and the digest that the entry before must have, if known."""
    try:
        entry = LedgerEntry.parse(data, entry_path(model, number))
    except BadRequestError as error:
        return f"edited (cannot be read: {error})", None
    if entry.sequence != number or entry.model != model:
        return f"reordered (holds entry {entry.sequence} of {entry.model})", None
    if expected is not None and hashlib.sha256(data).hexdigest() != expected:
        return "edited (differs from the digest that its successor or the state keeps)", None
    return None, entry.previous
