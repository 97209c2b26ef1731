"""The events contract: columns of events and catalogue, event types, periods."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class EventType(StrEnum):
    """What a user did with an item, from the weakest sign of interest to the strongest."""

    VIEW = "view"
    FAVOURITE = "favourite"
    CART = "cart"
    PURCHASE = "purchase"


class Period(IntEnum):
    """Four disjoint periods in order of time; `label` is what tables hold."""

    TRAIN = 0
    SELECT = 1
    GATE = 2
    CANARY = 3

    @property
    def label(self) -> str:
        """Return the lower-case name."""
        return self.name.lower()


EVENT_TYPES: tuple[str, ...] = tuple(kind.value for kind in EventType)
PERIODS: tuple[str, ...] = tuple(period.label for period in Period)


class EventColumn(StrEnum):
    """Columns of `events.parquet`, in the order of the file."""

    USER_ID = "user_id"
    ITEM_ID = "item_id"
    EVENT_TYPE = "event_type"
    TIMESTAMP = "timestamp"  # UTC, microseconds; null in order-only sets
    POSITION = "position"  # 0.. within the user, in order of time
    BASKET_ID = "basket_id"  # items of one basket are unordered
    SESSION_ID = "session_id"
    QUERY = "query"
    VARIANT = "variant"
    PRICE = "price"  # of one unit
    PERIOD = "period"


class CatalogueColumn(StrEnum):
    """Columns of `catalogue.parquet`, in the order of the file."""

    ITEM_ID = "item_id"
    TITLE = "title"
    CATEGORY = "category"  # a path, widest first, joined by CATEGORY_SEPARATOR
    BRAND = "brand"
    PRICE = "price"


CATEGORY_SEPARATOR = " > "
REQUIRED_EVENT_COLUMNS: tuple[EventColumn, ...] = (
    EventColumn.USER_ID,
    EventColumn.ITEM_ID,
    EventColumn.EVENT_TYPE,
    EventColumn.TIMESTAMP,
)
OPTIONAL_EVENT_COLUMNS: tuple[EventColumn, ...] = (
    EventColumn.BASKET_ID,
    EventColumn.SESSION_ID,
    EventColumn.QUERY,
    EventColumn.VARIANT,
    EventColumn.PRICE,
)
