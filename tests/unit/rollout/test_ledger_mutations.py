"""Random changes of a real ledger's objects: each is found, and every object it touched is named.

HEADRACE_LEDGER_MUTATIONS=1000 is the long form (`make ledger-mutations`).
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.requests import PLANS
from tasks.rollout.hotfix import apply_hotfix, reserve_hotfix
from tasks.rollout.ledger import LedgerEntry, entry_path
from tasks.rollout.phases import Decision
from tasks.rollout.record import Colour
from tasks.rollout.state import ModelState, Note, open_state

PLAN = PLANS["replay"]
MUTATIONS = int(os.environ.get("HEADRACE_LEDGER_MUTATIONS", "150"))
Objects = dict[int, bytes]
Touched = set[int]  # numbers of the objects that must be named


@pytest.fixture
def state(tmp_path: Path) -> ModelState:
    """A ledger of every kind of entry: releases that won, were cut, paused, hotfixed, taken back."""
    made = open_state(tmp_path / "state", "shop", ObjectStore(f"file://{tmp_path}/store"))
    made.reserve_slot("first")
    made.promote("first")
    for number in range(4):
        name = f"release-{number}"
        made.reserve_slot(name)
        made.begin_step(name, 1, PLAN, per_try_timeout_ms=50 + number)
        made.pause(name, note=Note(who="person ann", why="odd"))
        made.resume(name, note=Note(who="person bea", why="explained"))
        made.lapse(name, made.peek().lease.renewals)
        made.renew(name, 60)
        if number % 2:
            made.cut(name, 1, numbers={"bad": number}, note=Note(who="keeper", why="errors"))
            made.roll_back(name)
            continue
        reserved = reserve_hotfix(made, f"fix-{number}")
        apply_hotfix(made, f"fix-{number}", reserved.release_number)
        for step, said in enumerate((Decision.PROCEED, Decision.PROCEED, Decision.SHIP), start=1):
            made.begin_step(name, step, PLAN, per_try_timeout_ms=50)
            made.record_verdict(name, step, said, numbers={"users": 1000 + step})
        made.promote(name)
    made.reserve_slot("last")
    made.begin_step("last", 1, PLAN, per_try_timeout_ms=50)
    made.look({made.peek().roles.stable or Colour.BLUE}, note=Note(who="keeper"))
    assert made.verify() == []
    kinds = {entry.kind for entry in made.history()}
    assert kinds >= {"paused", "resumed", "cut", "judged", "promoted", "rolled_back", "hotfixed"}
    assert "halted" in kinds
    return made


def flip_a_bit(objects: Objects, chance: random.Random) -> Touched:
    number = chance.choice(sorted(objects))
    data = bytearray(objects[number])
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    objects[number] = bytes(data)
    return {number}


def cut_some_bytes_off(objects: Objects, chance: random.Random) -> Touched:
    number = chance.choice(sorted(objects))
    objects[number] = objects[number][: chance.randrange(len(objects[number]))]
    return {number}


def add_bytes(objects: Objects, chance: random.Random) -> Touched:
    number = chance.choice(sorted(objects))
    objects[number] += chance.choice([b"\n", b" ", b"{}", b"\0"])
    return {number}


def edit_a_field_well(objects: Objects, chance: random.Random) -> Touched:
    """Write an entry that parses, is canonical, and says something else."""
    number = chance.choice(sorted(objects))
    record = json.loads(objects[number])
    name = chance.choice(["who", "why", "at", "kind", "share", "step", "details", "release_id"])
    record[name] = {
        "share": (record["share"] + 1) % 10_001,
        "step": (record["step"] or 0) + 1,
        "details": {**record["details"], "users": chance.random()},
    }.get(name, f"another {chance.random()}")
    objects[number] = LedgerEntry.from_record(record, "here").to_text().encode()
    return {number}


def rewrite_history_from_here(objects: Objects, chance: random.Random) -> Touched:
    """Edit an entry and hash all that follow anew: only the state record's head tells."""
    last = max(objects)
    number = chance.choice(sorted(objects))
    record = json.loads(objects[number]) | {"who": f"nobody {chance.random()}"}
    for place in range(number, last + 1):
        entry = LedgerEntry.from_record(record, "here")
        objects[place] = entry.to_text().encode()
        if place < last:
            record = json.loads(objects[place + 1]) | {"previous": entry.digest}
    return {last}


def delete_one(objects: Objects, chance: random.Random) -> Touched:
    number = chance.choice(sorted(objects))
    del objects[number]
    return {number}


def cut_the_tail(objects: Objects, chance: random.Random) -> Touched:
    first = chance.choice(sorted(objects))
    gone = {number for number in objects if number >= first}
    for number in gone:
        del objects[number]
    return gone


def swap_two(objects: Objects, chance: random.Random) -> Touched:
    one, other = chance.sample(sorted(objects), 2)
    objects[one], objects[other] = objects[other], objects[one]
    return {one, other}


def copy_one_over_another(objects: Objects, chance: random.Random) -> Touched:
    one, other = chance.sample(sorted(objects), 2)
    objects[one] = objects[other]
    return {one}


def move_a_run_along(objects: Objects, chance: random.Random) -> Touched:
    """Turn a run of entries by one place, as after an insertion."""
    length = chance.randrange(2, 6)
    first = chance.randrange(1, max(objects) - length + 1)
    run = list(range(first, first + length))
    moved = [objects[number] for number in (*run[1:], run[0])]
    objects.update(zip(run, moved, strict=True))
    return set(run)


def add_one_behind_the_head(objects: Objects, chance: random.Random) -> Touched:
    last = max(objects)
    entry = LedgerEntry.parse(objects[last], "here")
    record = json.loads(objects[last])
    record |= {"sequence": last + 1, "previous": entry.digest, "why": str(chance.random())}
    objects[last + 1] = LedgerEntry.from_record(record, "here").to_text().encode()
    return {last + 1}


KINDS: tuple[Callable[[Objects, random.Random], Touched], ...] = (
    flip_a_bit,
    cut_some_bytes_off,
    add_bytes,
    edit_a_field_well,
    rewrite_history_from_here,
    delete_one,
    cut_the_tail,
    swap_two,
    copy_one_over_another,
    move_a_run_along,
    add_one_behind_the_head,
)


def test_every_random_change_of_the_ledger_is_found_and_named(
    state: ModelState, tmp_path: Path
) -> None:
    folder = tmp_path / "store" / "ledger" / "shop"
    paths = {int(path.stem): path for path in folder.iterdir()}
    whole = {number: path.read_bytes() for number, path in paths.items()}
    chance, done = random.Random(2026), Counter[str]()
    for turn in range(MUTATIONS):
        mutate = KINDS[turn % len(KINDS)]
        objects = dict(whole)
        touched = mutate(objects, chance)
        _write(folder, objects)
        problems = state.verify()
        named = {line.split(":")[0] for line in problems}
        missed = {entry_path("shop", number) for number in touched} - named
        assert not missed, f"{mutate.__name__} (turn {turn}): not named: {missed} in {problems}"
        done[mutate.__name__] += 1
        _write(folder, whole)
    assert state.verify() == []
    assert min(done.values()) >= MUTATIONS // len(KINDS)
    print(f"{sum(done.values())} changes of {len(whole)} entries, each named: {dict(done)}")


def _write(folder: Path, objects: Objects) -> None:
    for path in folder.iterdir():
        if int(path.stem) not in objects:
            path.unlink()
    for number, data in objects.items():
        path = folder / f"{number:08d}.json"
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)
