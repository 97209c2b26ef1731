"""Somebody's own files, good and bad."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.contracts.errors import BadRequestError
from tasks.events.mapped_events import read_mapped, read_table
from tasks.events.mapping import CsvRule, EventsMapping
from tasks.events.periods import LastSteps
from tasks.events.timestamps import TimestampRule

MAPPING = EventsMapping(
    columns={
        "user_id": "customer",
        "item_id": "sku",
        "event_type": "action",
        "timestamp": "at",
        "price": "paid",
    },
    event_types={"bought": "purchase", "seen": "view"},
    ignored_event_types=("banner",),
    timestamp=TimestampRule(unit="s"),
)
GOOD = """customer,sku,action,at,paid
7,milk,bought,1714521600,1.25
8,eggs,seen,1714521601,
8,,view,,-4
9,x,banner,1714521602,1
"""


@pytest.fixture
def shop(tmp_path, duck):
    """Write a CSV file and read it through a mapping."""

    def read(text, mapping=MAPPING, name="shop.csv", catalogue=None):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        raw = read_table(duck, [path], mapping.csv)
        return read_mapped(raw, catalogue, mapping, name)

    return read


def rows(events, *names):
    return [tuple(row[name] for name in names) for row in events.to_pyarrow().to_pylist()]


def test_columns_types_and_times_are_mapped_and_holes_stay_for_the_gate(shop):
    raw = shop(GOOD)
    first_of_may = datetime.fromisoformat("2024-05-01")
    assert rows(raw.events, "user_id", "item_id", "event_type", "timestamp", "price") == [
        ("7", "milk", "purchase", first_of_may, 1.25),
        ("8", "eggs", "view", first_of_may.replace(second=1), None),
        ("8", None, "view", None, -4.0),
    ]
    assert raw.rows_read == 4


def test_ignored_types_are_counted(shop):
    (rejection,) = shop(GOOD).rejected
    assert (rejection.rows, rejection.reason) == (1, "event type ignored by the mapping: banner")


def test_without_a_catalogue_items_have_ids_only(shop):
    assert rows(
        shop(GOOD.replace("8,,view,,-4\n", "")).catalogue.order_by("item_id"), "item_id", "title"
    ) == [
        ("eggs", None),
        ("milk", None),
    ]


def test_a_catalogue_is_mapped_too(shop, table):
    catalogue = table("items", sku=["milk"], label=["Milk, 1 l"], cost=["0.99"])
    mapping = EventsMapping(
        columns=MAPPING.columns,
        event_types=MAPPING.event_types,
        ignored_event_types=MAPPING.ignored_event_types,
        timestamp=MAPPING.timestamp,
        catalogue_columns={"item_id": "sku", "title": "label", "price": "cost"},
    )
    known = shop(GOOD, mapping, catalogue=catalogue).catalogue
    assert rows(known, "item_id", "title", "brand", "price") == [("milk", "Milk, 1 l", None, 0.99)]


def test_a_catalogue_without_item_ids_is_refused(shop, table):
    with pytest.raises(BadRequestError, match=r"catalogue of shop.csv: expected a column item_id"):
        shop(GOOD, catalogue=table("items", title=["Milk"]))


def test_a_missing_column_is_named_with_those_that_are_there(shop):
    with pytest.raises(BadRequestError) as refused:
        shop(GOOD.replace("paid", "price"))
    assert str(refused.value) == (
        "shop.csv: expected columns ['paid'], found customer, sku, action, at, price; "
        "next step: correct the file or the mapping file"
    )


def test_unknown_event_types_are_named_and_counted(shop):
    more = GOOD + "9,x,clicked,1714521602,1\n9,y,clicked,1714521602,1\n9,x,sold,1714521602,1\n"
    with pytest.raises(BadRequestError) as refused:
        shop(more)
    assert "column 'action'" in str(refused.value)
    assert "found 'clicked' in 2 rows, 'sold' in 1 rows" in str(refused.value)
    assert "next step: map it under [event_types]" in str(refused.value)


@pytest.mark.parametrize(
    ("bad", "message"),
    (
        (
            "9,x,seen,yesterday,1\n9,x,seen,zero,1\n",
            "column 'at': expected a timestamp .s., found 'yesterday' and the like in 2 of 5 rows",
        ),
        ("9,x,seen,1714521602,free\n", "column 'paid': expected a number, found 'free'.* 1 of 4"),
    ),
    ids=["a time", "a price"],
)
def test_what_does_not_parse_is_refused_with_column_example_and_count(shop, bad, message):
    with pytest.raises(BadRequestError, match=message):
        shop(GOOD + bad)


def test_a_file_without_a_header_gets_its_names_from_the_mapping(shop):
    mapping = EventsMapping(
        columns=MAPPING.columns,
        event_types=MAPPING.event_types,
        timestamp=MAPPING.timestamp,
        csv=CsvRule(delimiter=";", names=("customer", "sku", "action", "at", "paid")),
    )
    raw = shop("7;milk;bought;1714521600;1,5\n".replace(",", "."), mapping)
    assert rows(raw.events, "user_id", "price") == [("7", 1.5)]


def test_one_event_type_may_stand_for_all_rows(shop):
    mapping = EventsMapping(
        columns={"user_id": "u", "item_id": "i", "timestamp": "at", "basket_id": "b"},
        constants={"event_type": "purchase"},
    )
    raw = shop("u,i,at,b\n1,milk,2024-05-01T00:00:00Z,44\n", mapping)
    assert rows(raw.events, "event_type", "basket_id") == [("purchase", "44")]


def test_a_position_takes_the_place_of_times(shop):
    mapping = EventsMapping(
        columns={"user_id": "u", "item_id": "i", "position": "place"},
        constants={"event_type": "view"},
        periods=LastSteps(),
    )
    raw = shop("u,i,place\n1,b,2\n1,a,1\n", mapping)
    assert rows(raw.events, "item_id", "arrival", "timestamp") == [("b", 2, None), ("a", 1, None)]


def test_parquet_is_read_like_csv(tmp_path, duck):
    path = tmp_path / "shop.parquet"
    columns = {"customer": [7], "sku": [1234], "action": ["seen"], "at": [1714521600], "paid": [2]}
    pq.write_table(pa.table(columns), path)
    raw = read_mapped(read_table(duck, [path], CsvRule()), None, MAPPING, path.name)
    assert rows(raw.events, "user_id", "item_id", "price") == [("7", "1234", 2.0)]


def test_many_files_of_one_shape_are_one_table(tmp_path, duck):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(GOOD, encoding="utf-8")
    raw = read_table(duck, [tmp_path / "a.csv", tmp_path / "b.csv"], CsvRule())
    assert read_mapped(raw, None, MAPPING, "shop").rows_read == 8


def test_a_file_that_is_no_table_is_refused(tmp_path, duck):
    path = tmp_path / "shop.parquet"
    path.write_bytes(b"not parquet at all")
    with pytest.raises(BadRequestError, match=r"shop.parquet: expected parquet or CSV, found"):
        read_table(duck, [path], CsvRule())


def test_parquet_and_csv_do_not_mix(tmp_path, duck):
    with pytest.raises(BadRequestError, match="found both"):
        read_table(duck, [tmp_path / "a.csv", tmp_path / "b.parquet"], CsvRule())
