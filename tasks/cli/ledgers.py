"""State records and ledgers as the commands read them: by release id, number or time."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.adapters.chain import addresses_in, mentions
from tasks.adapters.config_map_records import named_records
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError, HeadraceError
from tasks.contracts.requests import parse_utc
from tasks.rollout.file_records import FileRecords
from tasks.rollout.ledger import LedgerEntry, entry_path, read_ledger
from tasks.rollout.state import ModelState, open_state

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.cli.home import Home
    from tasks.contracts.artifacts import Address
    from tasks.contracts.record_store import RecordStore
    from tasks.rollout.ledger import LedgerStore


def records_of(home: Home, environment: Mapping[str, str] = os.environ) -> RecordStore:
    """Return where state records lie: the cluster's, or files of this home."""
    named = named_records(environment)
    return FileRecords(state_dir=home.state) if named is None else named


def opened(home: Home, model: str, store: LedgerStore | None = None) -> ModelState:
    """Open a model's state where this installation keeps it."""
    return open_state(home.state, model, store, records=records_of(home))


def state_of(home: Home, model: str) -> ModelState:
    """Return the state of a model that exists; an unknown model is refused."""
    state = opened(home, model, ObjectStore(home.store_url))
    if state.text() is None:
        known = ", ".join(state.records.models()) or "none"
        message = f"model {model}: expected one that was released, found none; known: {known}"
        raise BadRequestError(message)
    return state


def demand_written(home: Home, state: ModelState) -> None:
    """Say after a change that this shell's store is not the ledger's; the change stands."""
    entry = state.held_back()
    if entry is None:
        return
    where = (
        f"HEADRACE_STORE={home.store_url}"
        if os.environ.get("HEADRACE_STORE")
        else (f"{home.store_url}, for HEADRACE_STORE is not set")
    )
    before = entry_path(entry.model, entry.sequence - 1)
    message = (
        f"{state.model}: the change was made; its ledger entry was not written, for it expected "
        f"{before} in the store ({where}), and found none that it follows. The state record keeps "
        "the entry; set HEADRACE_STORE to the store of this model's releases, and the next change "
        f"writes it. If this is that store, restore {before} from a copy"
    )
    raise HeadraceError(message)


def known_state(home: Home, model: str) -> ModelState:
    """Return the state of a model that has a ledger, even where its state record is lost."""
    state = opened(home, model, ObjectStore(home.store_url))
    return state if readable_entries(state) else state_of(home, model)


def readable_entries(state: ModelState) -> list[LedgerEntry]:
    """Return the entries that can be read, oldest first; `headrace verify` names the others."""
    objects = {} if state.store is None else read_ledger(state.store, state.model)
    found = {}
    for number, data in objects.items():
        with suppress(BadRequestError):
            found[number] = LedgerEntry.parse(data, entry_path(state.model, number))
    with suppress(BadRequestError):
        found |= {entry.sequence: entry for entry in state.peek().entries}
    return [entry for _, entry in sorted(found.items())]


@dataclass(frozen=True, kw_only=True)
class ReleaseName:
    """A release as the ledger knows it."""

    release_id: str
    release_number: int


def named(entries: Sequence[LedgerEntry], name: str, model: str) -> ReleaseName:
    """Return the release with this id or number; unknown names are refused with the known ones."""
    for entry in entries:
        if entry.release_id is None or entry.release_number is None:
            continue
        if name in {entry.release_id, str(entry.release_number)}:
            return ReleaseName(release_id=entry.release_id, release_number=entry.release_number)
    known = dict.fromkeys(
        f"{entry.release_number} ({entry.release_id})" for entry in entries if entry.release_id
    )
    message = (
        f"release {name!r} of {model}: expected an id or number of the ledger, found neither; "
        f"known: {', '.join(list(known)[-10:]) or 'none'}"
    )
    raise BadRequestError(message)


def up_to(entries: Sequence[LedgerEntry], moment: str | None) -> list[LedgerEntry]:
    """Return the entries written at or before a UTC time, all of them for None."""
    if moment is None:
        return list(entries)
    limit = parse_utc(moment)
    return [entry for entry in entries if parse_utc(entry.at) <= limit]


def ledger_mentions(home: Home) -> tuple[set[Address], set[str], set[str]]:
    """Return the artifacts and the release ids that any ledger or state record mentions.

    Last come those ids that are hotfixes: each has the bundle of another release, and no request.
    The ledgers of the store count, also those whose state record is lost or in another home.
    """
    addresses: set[Address] = set()
    release_ids: set[str] = set()
    objects = ObjectStore(home.store_url)
    entries = []
    for model in records_of(home).models():
        state = opened(home, model, objects)
        addresses |= addresses_in(state.text() or b"")
        entries += state.history()
    for path in objects.list("ledger"):
        text = objects.read(path)
        addresses |= addresses_in(text)
        entries.append(LedgerEntry.parse(text, path))
    for entry in entries:
        addresses |= mentions(dict(entry.details))
        release_ids |= {entry.release_id} if entry.release_id else set()
    hotfixes = {entry.release_id for entry in entries if entry.kind == "hotfix_reserved"}
    return addresses, release_ids, release_ids & hotfixes
