import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError, CorruptArtifactError
from tasks.rollout.ledger import (
    FIRST_PREVIOUS,
    LedgerEntry,
    entry_path,
    read_ledger,
    verify_chain,
    write_entry,
)

LENGTH = 12


def chain(length: int = LENGTH) -> tuple[dict[int, bytes], str]:
    objects, previous = {}, FIRST_PREVIOUS
    for number in range(1, length + 1):
        entry = LedgerEntry(
            model="shop",
            sequence=number,
            previous=previous,
            kind="step_began",
            at=f"2026-01-01T00:00:{number:02d}.000Z",
            who="airflow",
            why="a test",
            release_id=f"release-{number // 4}",
            share=500,
            details={"users": number},
        )
        objects[number], previous = entry.to_text().encode(), entry.digest
    return objects, previous


def test_an_untouched_chain_holds() -> None:
    objects, head = chain()
    assert verify_chain("shop", objects, LENGTH, head) == []


def test_an_empty_ledger_holds() -> None:
    assert verify_chain("shop", {}, 0, FIRST_PREVIOUS) == []


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    (
        pytest.param("details", "text", "dict", id="details that are text"),
        pytest.param("share", "500", "int", id="a share that is text"),
        pytest.param("sequence", True, "int", id="a number that is a boolean"),
        pytest.param("step", [1], "int or NoneType", id="a step that is a list"),
        pytest.param("release_id", 7, "str or NoneType", id="a name that is a number"),
    ),
)
def test_a_field_of_another_kind_is_refused_by_its_name(
    field: str, value: object, expected: str
) -> None:
    objects, _ = chain(1)
    record = json.loads(objects[1]) | {field: value}
    with pytest.raises(BadRequestError, match=f"here: field {field}: expected {expected}, found"):
        LedgerEntry.parse(json.dumps(record), "here")


@given(number=st.integers(1, LENGTH), field=st.sampled_from(["who", "why", "at", "kind", "share"]))
def test_an_edited_entry_is_named(number: int, field: str) -> None:
    objects, head = chain()
    record = json.loads(objects[number])
    record[field] = 9999 if field == "share" else "changed"
    objects[number] = LedgerEntry.from_record(record, "here").to_text().encode()
    found = verify_chain("shop", objects, LENGTH, head)
    assert [entry_path("shop", number)] == [line.split(":")[0] for line in found]
    assert "edited" in found[0]


@settings(max_examples=200)
@given(
    number=st.integers(1, LENGTH), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7)
)
def test_any_flipped_bit_is_named(number: int, place: float, bit: int) -> None:
    objects, head = chain()
    data = bytearray(objects[number])
    data[int(place * len(data))] ^= 1 << bit
    objects[number] = bytes(data)
    found = verify_chain("shop", objects, LENGTH, head)
    assert found
    assert found[-1].startswith(entry_path("shop", number))


@given(number=st.integers(1, LENGTH - 1))
def test_a_deleted_entry_is_named(number: int) -> None:
    objects, head = chain()
    del objects[number]
    found = verify_chain("shop", objects, LENGTH, head)
    assert found == [f"{entry_path('shop', number)}: missing (deleted)"]


@given(kept=st.integers(0, LENGTH - 1))
def test_a_cut_tail_is_named(kept: int) -> None:
    objects, head = chain()
    left = {number: data for number, data in objects.items() if number <= kept}
    found = verify_chain("shop", left, LENGTH, head)
    assert len(found) == LENGTH - kept
    assert all("the tail was cut" in line for line in found)


@given(pair=st.lists(st.integers(1, LENGTH), min_size=2, max_size=2, unique=True))
def test_swapped_entries_are_both_named(pair: list[int]) -> None:
    objects, head = chain()
    objects[pair[0]], objects[pair[1]] = objects[pair[1]], objects[pair[0]]
    found = verify_chain("shop", objects, LENGTH, head)
    assert sorted(line.split(":")[0] for line in found) == [
        entry_path("shop", number) for number in sorted(pair)
    ]
    assert all("reordered" in line for line in found)


def test_an_entry_behind_the_head_is_named() -> None:
    objects, _ = chain()
    _, head = chain(LENGTH - 1)
    found = verify_chain("shop", objects, LENGTH - 1, head)
    assert found == [f"{entry_path('shop', LENGTH)}: ahead of the state record, which ends at 11"]


def test_a_rewritten_history_does_not_meet_the_head() -> None:
    forged, head = chain()
    record = json.loads(forged[LENGTH])
    record["who"] = "nobody"
    forged[LENGTH] = LedgerEntry.from_record(record, "here").to_text().encode()
    assert verify_chain("shop", forged, LENGTH, head)


def test_an_entry_is_written_once_and_again_is_no_error(tmp_path: Path) -> None:
    store = ObjectStore(f"file://{tmp_path}")
    entry = LedgerEntry.parse(chain()[0][1], "here")
    write_entry(store, entry)
    write_entry(store, entry)
    assert read_ledger(store, "shop") == {1: entry.to_text().encode()}


def test_another_entry_in_the_same_place_is_corruption(tmp_path: Path) -> None:
    store = ObjectStore(f"file://{tmp_path}")
    store.put_if_absent(entry_path("shop", 1), b"something else")
    with pytest.raises(CorruptArtifactError, match="headrace verify --model shop"):
        write_entry(store, LedgerEntry.parse(chain()[0][1], "here"))


def test_an_unreadable_entry_names_its_place() -> None:
    with pytest.raises(BadRequestError, match="ledger/shop/1"):
        LedgerEntry.parse(b'{"format": "ledger_entry/1"}', "ledger/shop/1")
