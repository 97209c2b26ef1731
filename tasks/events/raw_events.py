"""What every reader returns: events in the contract's columns, a catalogue, and what was left out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import MappingProxyType

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from tasks.contracts.columns import EVENT_TYPES, CatalogueColumn, EventColumn, EventType
from tasks.contracts.json_types import Json

ARRIVAL = "arrival"  # order of events where a set has no times; null elsewhere

_EVENT_TYPES = MappingProxyType(
    {
        EventColumn.USER_ID: "string",
        EventColumn.ITEM_ID: "string",
        EventColumn.EVENT_TYPE: "string",
        EventColumn.TIMESTAMP: "timestamp",
        EventColumn.BASKET_ID: "string",
        EventColumn.SESSION_ID: "string",
        EventColumn.QUERY: "string",
        EventColumn.VARIANT: "string",
        EventColumn.PRICE: "float64",
        ARRIVAL: "int64",
    }
)
_CATALOGUE_TYPES = MappingProxyType(
    {
        CatalogueColumn.ITEM_ID: "string",
        CatalogueColumn.TITLE: "string",
        CatalogueColumn.CATEGORY: "string",
        CatalogueColumn.BRAND: "string",
        CatalogueColumn.PRICE: "float64",
    }
)

EVENTS_SCHEMA = pa.schema(
    [
        pa.field(EventColumn.USER_ID, pa.string()),
        pa.field(EventColumn.ITEM_ID, pa.string()),
        pa.field(EventColumn.EVENT_TYPE, pa.string()),
        pa.field(EventColumn.TIMESTAMP, pa.timestamp("us", tz="UTC")),
        pa.field(EventColumn.POSITION, pa.int64()),
        pa.field(EventColumn.BASKET_ID, pa.string()),
        pa.field(EventColumn.SESSION_ID, pa.string()),
        pa.field(EventColumn.QUERY, pa.string()),
        pa.field(EventColumn.VARIANT, pa.string()),
        pa.field(EventColumn.PRICE, pa.float64()),
        pa.field(EventColumn.PERIOD, pa.string()),
    ]
)
CATALOGUE_SCHEMA = pa.schema(
    [
        pa.field(CatalogueColumn.ITEM_ID, pa.string()),
        pa.field(CatalogueColumn.TITLE, pa.string()),
        pa.field(CatalogueColumn.CATEGORY, pa.string()),
        pa.field(CatalogueColumn.BRAND, pa.string()),
        pa.field(CatalogueColumn.PRICE, pa.float64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Rows of the source that are no events, by a rule the reader documents."""

    reason: str
    rows: int
    example: str

    def to_json(self) -> dict[str, Json]:
        """Return it as a record."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class RawEvents:
    """Events and catalogue as lazy tables; what a gate should refuse is still in them."""

    events: ir.Table
    catalogue: ir.Table
    rows_read: int
    rejected: tuple[Rejection, ...] = ()


def contract_events(table: ir.Table) -> ir.Table:
    """Return `table` with every column of the contract and `arrival`, absent ones null."""
    return _completed(table, _EVENT_TYPES)


def contract_catalogue(table: ir.Table) -> ir.Table:
    """Return `table` with every column of the catalogue, absent ones null."""
    return _completed(table, _CATALOGUE_TYPES)


def items_of(events: ir.Table) -> ir.Table:
    """Return a catalogue that knows nothing of an item but its id."""
    return contract_catalogue(events.select(EventColumn.ITEM_ID).distinct())


def _completed(table: ir.Table, types: MappingProxyType[str, str]) -> ir.Table:
    present = set(table.columns)
    columns = {
        str(name): table[name].cast(kind) if name in present else ibis.null(kind)
        for name, kind in types.items()
    }
    return table.select(**columns)


def with_steps(events: ir.Table, *, order_only: bool) -> ir.Table:
    """Add `step_at`, when a step began: the first event of a basket, or the event itself."""
    at = events.arrival if order_only else events.timestamp
    basket = ibis.window(group_by=[events.user_id, events.basket_id])
    return events.mutate(step_at=ibis.ifelse(events.basket_id.isnull(), at, at.min().over(basket)))


def with_positions(steps: ir.Table, *, order_only: bool) -> ir.Table:
    """Add `position`, 0.. within the user: a total order, so equal events give equal bytes."""
    at = steps.arrival if order_only else steps.timestamp
    kind_rank = ibis.cases(
        *[(steps.event_type == kind, rank) for rank, kind in enumerate(EVENT_TYPES)],
        else_=len(EventType),
    )
    order = [
        steps.step_at,
        steps.basket_id,
        at,
        kind_rank,
        steps.item_id,
        steps.session_id,
        steps.price,
        steps.query,
        steps.variant,
    ]
    return steps.mutate(
        position=ibis.row_number().over(ibis.window(group_by=steps.user_id, order_by=order))
    )
