"""Ledgers of any shape on any store, and what gc may do to them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from hypothesis import strategies as st

from tasks.cli.collect import RECORDS as RECORD_KINDS
from tasks.cli.collect import collect as collect_from
from tasks.cli.home import Home
from tasks.cli.ledgers import named
from tasks.cli.verify import verify_release
from tasks.contracts.artifacts import Manifest
from tasks.contracts.stages import ArtifactKind, Stage
from tests.unit.cli.conftest import TinyReleases

# What may happen to a release: promoted, refused at its last step, ended before it had a slot,
# promoted and then rolled back by the command or by a person's run of the DAG.
FATES = ("promoted", "refused", "never staged", "rolled back", "taken back by a person")
# Whose gc it is: of the home that released, of one that lost its state records, of a second one.
HOMES = ("its own", "lost records", "a second one")
RECORDS = {kind.value for kind in RECORD_KINDS}
# What happens to a release, of which bytes it is made, by which code.
Plan = Sequence[tuple[str, int, str]]
any_plan = st.lists(
    st.tuples(st.sampled_from(FATES), st.integers(0, 1), st.sampled_from("cd")),
    min_size=1,
    max_size=4,
)


def collect(tiny, *, written_before: float | None = None, home: Home | None = None) -> list[str]:
    before = time.time() + 60 if written_before is None else written_before
    doomed = collect_from(home or tiny.home, written_before=before, say=lambda _folder: None)
    return [folder.path for folder in doomed]


def verified(tiny, release_id: str) -> list[str]:
    release = named(tiny.state.history(), release_id, tiny.state.model)
    return verify_release(tiny.store, tiny.state, release).problems


def gc_keeps_what_is_reached(tiny: TinyReleases, plan: Plan, *, young: bool, whose: str) -> None:
    """Any ledger, over artifacts of which some are shared, or equal but made by other code."""
    in_ledger = []
    for number, (fate, text, code) in enumerate(plan):
        tiny.code = code
        if happens(tiny, name := f"release-{number}", fate, f"bytes {text}"):
            in_ledger.append(name)
    before = snapshot(tiny)
    reached = {path for name in in_ledger for path in files_reached(tiny, name, before)}
    with the_home(tiny, whose) as home:
        removed = collect(tiny, written_before=time.time() - 3600 if young else None, home=home)
    after = snapshot(tiny)
    for name in in_ledger:
        assert verified(tiny, name) == []
    assert reached <= after.keys()
    assert all(after[path] == before[path] for path in after)
    if young:
        assert removed == []
    else:
        left = {"/".join(path.split("/")[:2]) for path in after} - {
            "/".join(path.split("/")[:2]) for path in reached
        }
        assert {folder for folder in left if folder.split("/")[0] not in RECORDS} == set()


@contextmanager
def the_home(tiny: TinyReleases, whose: str) -> Iterator[Home]:
    if whose == "a second one":
        yield Home(root=tiny.root / "second", store_url=tiny.home.store_url)
        return
    lost = tiny.root / "lost"
    if whose == "lost records" and tiny.home.state.exists():
        tiny.home.state.rename(lost)
    yield tiny.home
    if lost.exists():
        lost.rename(tiny.home.state)


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
    if fate == "taken back by a person" and serves:
        tiny.made[name][Stage.ROLL_BACK_RELEASE] = tiny.taken_back_by_a_person(f"run-of-{name}")
    return True


def snapshot(tiny: TinyReleases) -> dict[str, bytes]:
    """Every object of the store but the ledger's."""
    objects = tiny.store.objects
    return {path: objects.read(path) for path in objects.list("") if "ledger/" not in path}


def files_reached(tiny: TinyReleases, name: str, stored: Iterable[str]) -> set[str]:
    """Every file of what the release was made of, of its verdicts, and of the reports on them."""
    of_it = [one for one in tiny.sealed if one in tiny.made[name].values()]
    more = True
    while more:
        known = {str(one.address) for one in of_it}
        added = [
            one for one in tiny.sealed if str(one.address) not in known and belongs(one, of_it)
        ]
        of_it += added
        more = bool(added)
    folders = tuple(f"{one.address}/" for one in of_it)
    return {path for path in stored if path.startswith(folders)}


def belongs(one: Manifest, of_it: list[Manifest]) -> bool:
    """An input of what is reached; a step or verdict made from it; a report on its bytes."""
    if any(item.address == str(one.address) for other in of_it for item in other.inputs.values()):
        return True
    if one.kind is ArtifactKind.GATE_REPORT:
        return one.inputs["artifact"].content in {other.content for other in of_it}
    known = {str(other.address) for other in of_it}
    return (
        one.kind in {ArtifactKind.TRAFFIC_STEP, ArtifactKind.STEP_VERDICT}
        and bool(one.inputs)
        and all(item.address in known for item in one.inputs.values())
    )
