"""Order, baskets and periods of landed events, worked out by hand."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest

from tasks.contracts.columns import CatalogueColumn, EventColumn
from tasks.contracts.errors import BadRequestError
from tasks.events.periods import LastSteps, SpanShares

BY_DAY = [
    ("ann", "milk", "06-24T23:59:59", None, 1.0),
    ("ann", "milk", "06-09", None, 1.0),
    ("bob", "eggs", "06-25", None, 3.0),
    ("ann", "eggs", "06-10", None, 3.0),
    ("ann", "eggs", "06-20", None, 3.0),
]


def of(events, *names):
    return [tuple(event[name] for name in names) for event in events]


def test_a_period_starts_at_its_cut_and_ends_before_the_next(landed):
    events, _, profile = landed(BY_DAY)
    assert of(events, "user_id", "position", "item_id", "period") == [
        ("ann", 0, "milk", "train"),
        ("ann", 1, "eggs", "select"),
        ("ann", 2, "eggs", "gate"),
        ("ann", 3, "milk", "gate"),
        ("bob", 0, "eggs", "canary"),
    ]
    assert profile["periods"]["gate"] == {
        "events": 2,
        "users": 1,
        "items": 2,
        "steps": 2,
        "min_time": "2024-06-20T00:00:00Z",
        "max_time": "2024-06-24T23:59:59Z",
    }
    assert profile["days"]["2024-06-09"] == 1


def test_the_file_has_the_columns_of_the_contract_and_times_in_utc(landed, tmp_path):
    landed(BY_DAY)
    schema = pq.read_schema(tmp_path / "out" / "events.parquet")
    assert schema.names == [column.value for column in EventColumn]
    assert str(schema.field("timestamp").type) == "timestamp[us, tz=UTC]"
    catalogue = pq.read_schema(tmp_path / "out" / "catalogue.parquet")
    assert catalogue.names == [column.value for column in CatalogueColumn]


def test_items_of_one_basket_have_no_order_of_their_own(landed):
    basket = [("ann", item, "06-01", "b1", 1.0) for item in ("c", "a", "b")]
    events, _, profile = landed(basket)
    other, _, _ = landed(list(reversed(basket)), folder="again")
    assert of(events, "item_id", "position") == [("a", 0), ("b", 1), ("c", 2)]
    assert events == other
    assert profile["steps"] == 1
    assert profile["baskets"] is True


def test_two_baskets_at_one_time_stay_apart(landed):
    events, _, profile = landed(
        [
            ("ann", "z", "06-01", "b1", 1.0),
            ("ann", "a", "06-01", "b2", 1.0),
            ("ann", "b", "06-01", "b1", 1.0),
        ]
    )
    assert of(events, "basket_id", "item_id") == [("b1", "b"), ("b1", "z"), ("b2", "a")]
    assert profile["steps"] == 2


def test_a_basket_over_midnight_is_in_the_period_in_which_it_began(landed):
    events, _, _ = landed(
        [
            ("ann", "milk", "06-19T23:59:59", "b1", 1.0),
            ("ann", "eggs", "06-20T00:00:01", "b1", 1.0),
            ("ann", "eggs", "06-20T00:00:01", "b2", 1.0),
        ]
    )
    assert of(events, "basket_id", "period") == [
        ("b1", "select"),
        ("b1", "select"),
        ("b2", "gate"),
    ]


def test_a_basket_number_that_two_users_share_is_two_baskets(landed):
    events, _, profile = landed(
        [("ann", "milk", "06-05", "b1", 1.0), ("bob", "milk", "06-26", "b1", 1.0)]
    )
    assert of(events, "user_id", "period") == [("ann", "train"), ("bob", "canary")]
    assert profile["steps"] == 2


def test_events_of_the_future_stay_for_the_gate_to_see(landed):
    events, _, profile = landed([*BY_DAY, ("bob", "milk", "12-31", None, 1.0)])
    assert of(events[-1:], "timestamp", "period") == [
        (datetime(2024, 12, 31, tzinfo=UTC), "canary")
    ]
    assert profile["max_time"] == "2024-12-31T00:00:00Z"


def test_shares_of_the_span_do_not_stretch_to_the_future(landed):
    days = [("ann", "milk", f"06-{day:02}", None, 1.0) for day in (1, 11, 21)]
    _, _, profile = landed([*days, ("ann", "milk", "12-31", None, 1.0)], rule=SpanShares())
    assert profile["period_rule"] == {
        "rule": "cuts",
        "select": "2024-06-15T00:00:00Z",
        "gate": "2024-06-17T00:00:00Z",
        "canary": "2024-06-19T00:00:00Z",
    }


def test_a_set_without_times_is_cut_by_place_in_the_sequence(landed):
    arrivals = ["a", "b", "c", "d", "e"]
    events, _, profile = landed(
        [("ann", item, None, None, None) for item in arrivals]
        + [("bob", item, None, None, None) for item in ("x", "y")],
        rule=LastSteps(),
        order_only=True,
    )
    assert of(events, "user_id", "item_id", "position", "period") == [
        ("ann", "a", 0, "train"),
        ("ann", "b", 1, "train"),
        ("ann", "c", 2, "select"),
        ("ann", "d", 3, "gate"),
        ("ann", "e", 4, "canary"),
        ("bob", "x", 0, "gate"),
        ("bob", "y", 1, "canary"),
    ]
    assert profile["min_time"] is None
    assert profile["days"] == {}


def test_what_a_gate_should_refuse_is_still_there(landed):
    bad = [
        ("ann", "milk", "06-01", None, -4.0),
        ("ann", "milk", "06-01", None, -4.0),
        (None, "milk", "06-01", None, 1.0),
        ("bob", "milk", None, None, 1.0),
    ]
    events, _, profile = landed(bad)
    assert sorted(of(events, "price")) == [(-4.0,), (-4.0,), (1.0,), (1.0,)]
    assert profile["duplicates"] == 1
    assert profile["nulls"]["user_id"] == 1
    assert profile["nulls"]["timestamp"] == 1
    assert [event["period"] for event in events if event["user_id"] == "bob"] == [None]


def test_an_unknown_price_is_the_median_paid_in_train_only(landed):
    _, catalogue, _ = landed(
        [
            ("ann", "milk", "06-01", None, 1.0),
            ("ann", "milk", "06-02", None, 2.0),
            ("ann", "milk", "06-03", None, 9.0),
            ("ann", "milk", "06-26", None, 100.0),
            ("ann", "eggs", "06-26", None, 3.0),
        ],
        catalogue={
            "item_id": ["milk", "eggs", "soap"],
            "title": ["Milk", "Eggs", "Soap"],
            "price": [None, None, 5.5],
        },
    )
    assert of(catalogue, "item_id", "price") == [("eggs", None), ("milk", 2.0), ("soap", 5.5)]


def test_equal_events_give_equal_bytes_whatever_order_they_arrive_in(landed, tmp_path):
    landed(BY_DAY, folder="one")
    landed(list(reversed(BY_DAY)), folder="two")
    for name in ("events.parquet", "catalogue.parquet", "profile.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_set_without_events_is_refused(duck, table, tmp_path):
    from tasks.events.datasets import SetKind
    from tasks.events.landing import Landing, land
    from tasks.events.raw_events import RawEvents, contract_events, items_of

    events = contract_events(table(user_id=["ann"])).filter(False)
    landing = Landing(
        dataset="events",
        kind=SetKind(repeats_allowed=True, order_only=True),
        periods=LastSteps(),
        as_of=datetime(2024, 7, 1, tzinfo=UTC),
        sources=(),
    )
    raw = RawEvents(events=events, catalogue=items_of(events), rows_read=7)
    with pytest.raises(BadRequestError, match="expected events, found none in 7 rows read"):
        land(duck, raw, landing, tmp_path)
