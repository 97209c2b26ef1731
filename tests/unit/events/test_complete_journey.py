"""Till transactions to events, on the quirks that the real data have."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.events.complete_journey import (
    FUEL,
    NOTHING_SOLD,
    TILL_CODE,
    UNKNOWN_PRODUCT,
    read_complete_journey,
)

MORNING = datetime.fromisoformat("2017-01-01T11:53:26")
PRODUCTS = [  # id, department, brand, category, type, size
    (1, "GROCERY", "National", "BAG SNACKS", "POTATO CHIPS", "6.5 OZ"),
    (2, "GROCERY", "Private", "ICE CREAM", None, None),
    (3, "FUEL", "National", "COUPON/MISC ITEMS", "GASOLINE-REG UNLEADED", None),
    (4, "MISCELLANEOUS", "National", "COUPON/MISC ITEMS", "GASOLINE-REG UNLEADED", None),
    (5, "MISCELLANEOUS", "National", None, None, None),
    (6, "MISCELLANEOUS", "National", "COUPON/MISC ITEMS", "ELECTRONIC GIFT CARDS", None),
    (7, "COUPON", "National", "COUPONS/STORE & MFG", "COUPONS/STORE & MFG", None),
    (8, None, "National", None, None, None),
    (9, "CHEF SHOPPE", "National", None, "INSTORE CUT VEGETABLES", None),
]


@pytest.fixture
def journey(tmp_path, duck):
    """Read transactions given as (product, quantity, sales value) of one basket."""

    def read(*lines):
        products = list(zip(*PRODUCTS, strict=True))
        names = ("product_id", "department", "brand", "product_category", "product_type")
        columns = dict(zip((*names, "package_size"), map(list, products), strict=True))
        pq.write_table(pa.table(columns), tmp_path / "products.parquet")
        transactions = {
            "household_id": [900] * len(lines),
            "basket_id": [31198570044] * len(lines),
            "product_id": [line[0] for line in lines],
            "quantity": [line[1] for line in lines],
            "sales_value": [line[2] for line in lines],
            "transaction_timestamp": [MORNING] * len(lines),
        }
        pq.write_table(pa.table(transactions), tmp_path / "transactions.parquet")
        paths = [tmp_path / "transactions.parquet", tmp_path / "products.parquet"]
        return read_complete_journey(duck, paths)

    return read


def test_a_line_of_the_till_is_a_purchase_at_the_price_of_one_unit(journey):
    raw = journey((1, 2, 2.78))
    (event,) = raw.events.to_pyarrow().to_pylist()
    assert event == {
        "user_id": "900",
        "item_id": "1",
        "event_type": "purchase",
        "timestamp": MORNING,
        "basket_id": "31198570044",
        "session_id": None,
        "query": None,
        "variant": None,
        "price": 1.39,
        "arrival": None,
    }


def test_free_goods_cost_nothing_and_stay(journey):
    assert journey((1, 1, 0.0)).events.to_pyarrow().column("price").to_pylist() == [0.0]


def test_rows_that_are_no_choice_of_a_product_are_counted_by_reason(journey):
    raw = journey(*[(product, 1, 1.0) for product in range(1, 10)], (1, 0, 0.0), (77, 1, 1.0))
    assert sorted(raw.events.to_pyarrow().column("item_id").to_pylist()) == ["1", "2", "9"]
    assert {rejection.reason: rejection.rows for rejection in raw.rejected} == {
        FUEL: 2,
        TILL_CODE: 3,
        UNKNOWN_PRODUCT: 2,
        NOTHING_SOLD: 1,
    }
    assert raw.rows_read == 11
    examples = {rejection.reason: rejection.example for rejection in raw.rejected}
    assert examples[UNKNOWN_PRODUCT] == "product 8"


def test_titles_and_paths_leave_out_what_is_not_known(journey):
    rows = journey((1, 1, 1.0)).catalogue.order_by("item_id").to_pyarrow().to_pylist()
    told = [(row["item_id"], row["title"], row["category"], row["brand"]) for row in rows]
    assert told == [
        (
            "1",
            "Potato chips (bag snacks), 6.5 OZ",
            "GROCERY > BAG SNACKS > POTATO CHIPS",
            "National",
        ),
        ("2", "Ice cream", "GROCERY > ICE CREAM", "Private"),
        ("9", "Instore cut vegetables", "CHEF SHOPPE > INSTORE CUT VEGETABLES", "National"),
    ]
