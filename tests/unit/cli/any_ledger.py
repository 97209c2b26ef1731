"""Ledgers of any shape on any store, and what gc may do to them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from hypothesis import strategies as st

from tasks.cli.collect import RECORDS as RECORD_KINDS
from tasks.cli.collect import keep, remove, to_remove
from tasks.cli.ledgers import ledger_mentions, named
from tasks.cli.verify import verify_release
from tests.unit.cli.conftest import TinyReleases

# What may happen to a release: promoted, refused at its last step, ended before it had a slot, or
# promoted and then rolled back by a person.
FATES = ("promoted", "refused", "never staged", "rolled back")
RECORDS = {kind.value for kind in RECORD_KINDS}
Fates = Sequence[tuple[str, int]]  # what happens to a release, and of which bytes it is made
any_fates = st.lists(st.tuples(st.sampled_from(FATES), st.integers(0, 2)), min_size=1, max_size=4)


def collect(tiny: TinyReleases, *, written_before: float | None = None) -> list[str]:
    kept = keep(tiny.store, *ledger_mentions(tiny.home))
    before = time.time() + 60 if written_before is None else written_before
    doomed = to_remove(tiny.store, kept, written_before=before)
    for folder in doomed:
        remove(tiny.store, folder)
    return [folder.path for folder in doomed]


def verified(tiny: TinyReleases, release_id: str) -> list[str]:
    release = named(tiny.state.history(), release_id, tiny.state.model)
    return verify_release(tiny.store, tiny.state, release).problems


def gc_keeps_what_is_reached(tiny: TinyReleases, fates: Fates, *, young: bool) -> None:
    """Let releases meet their fates, collect, and look at every object of the store.

    Artifacts are shared where their bytes are equal.
    """
    in_ledger = [
        name
        for number, (fate, text) in enumerate(fates)
        if happens(tiny, name := f"release-{number}", fate, f"bytes {text}")
    ]
    before = snapshot(tiny)
    reached = {path for name in in_ledger for path in files_reached(tiny, name, before)}
    removed = collect(tiny, written_before=time.time() - 3600 if young else None)
    after = snapshot(tiny)
    for name in in_ledger:
        assert verified(tiny, name) == []
    assert reached <= after.keys()
    assert all(after[path] == before[path] for path in after)
    if young:
        assert removed == []
    else:
        left = {_folder(path) for path in after} - {_folder(path) for path in reached}
        assert {folder for folder in left if folder.split("/")[0] not in RECORDS} == set()


def _folder(path: str) -> str:
    return "/".join(path.split("/")[:2])


def happens(tiny: TinyReleases, name: str, fate: str, text: str) -> bool:
    """Let a release meet its fate, as far as it can; return whether the ledger knows it."""
    serves = tiny.state.champion() is not None
    if fate == "never staged" or (fate == "refused" and not serves):
        tiny.make(name, text=text)
        return False
    if fate == "refused":
        tiny.refuse(name, text=text)
        return True
    tiny.promote(name, text=text)
    if fate == "rolled back" and serves:
        tiny.state.roll_back(name)
    return True


def snapshot(tiny: TinyReleases) -> dict[str, bytes]:
    """Every object of the store but the ledger's."""
    objects = tiny.store.objects
    return {path: objects.read(path) for path in objects.list("") if "ledger/" not in path}


def files_reached(tiny: TinyReleases, name: str, stored: Iterable[str]) -> set[str]:
    """Every file of what the release was made of, of its verdicts, and of the reports on them."""
    of_it = [one for one in tiny.sealed if one in tiny.made[name].values()]
    more = True
    while more:  # steps and verdicts are reached by what was made of the slot
        known = {str(one.address) for one in of_it}
        added = [
            one
            for one in tiny.sealed
            if str(one.address) not in known
            and one.kind.value in {"traffic_step", "step_verdict", "gate_report"}
            and one.inputs
            and all(item.address in known for item in one.inputs.values())
        ]
        of_it += added
        more = bool(added)
    folders = tuple(f"{one.address}/" for one in of_it)
    return {path for path in stored if path.startswith(folders)}
