"""A shop whose customers walk through its aisles in order: the events that faults are planted in.

What comes next depends on what came last, so a model of sequences beats counting. Every customer
keeps to one part of each shelf: most to the first, fewer to the middle, fewest to the end, so head,
mid and tail items all have users of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tests.faults.form import Form

FIRST_DAY = pd.Timestamp("2026-01-01T08:00:00Z")
PARTS = (0.38, 0.335, 0.285)  # of the customers keep to the first, middle and last part of a shelf
ELSEWHERE = 0.02  # how often an item of another part is taken, for once of one's own
VISIT, ONWARD = 0.6, 0.9  # chances: of a visit on a day, and of the next aisle at the next visit
MAPPING = """
format = "events_mapping/1"
repeats_allowed = true

[columns]
user_id = "customer"
item_id = "sku"
event_type = "action"
timestamp = "at"
basket_id = "order_no"
price = "price"

[event_types]
bought = "purchase"

[periods]
rule = "shares"
select = 0.1
gate = 0.15
canary = 0.2

[catalogue.columns]
item_id = "sku"
title = "name"
category = "aisle"
price = "list_price"
"""


@dataclass(frozen=True, kw_only=True)
class Shop:
    """The export of a shop as files that a release request can name."""

    events: Path
    catalogue: Path
    mapping: Path
    as_of: str

    @property
    def urls(self) -> dict[str, str]:
        """Return the three fields of the trigger form."""
        return {
            "events_url": f"file://{self.events}",
            "catalogue_url": f"file://{self.catalogue}",
            "mapping_url": f"file://{self.mapping}",
        }


def _sku(aisle: int, place: int) -> str:
    return f"sku-{aisle:02}-{place:02}"


def shop_events(form: Form, seed: int = 1) -> pd.DataFrame:
    """Return one row per bought item, in the shop's own columns."""
    draw = np.random.default_rng(seed)
    part = np.arange(form.items_per_aisle) * len(PARTS) // form.items_per_aisle
    tastes = draw.choice(len(PARTS), form.users, p=PARTS)
    rows = []
    for user in range(form.users):
        chances = np.where(part == tastes[user], 1.0, ELSEWHERE)
        chances /= chances.sum()
        aisle = int(draw.integers(form.aisles))
        for day in np.flatnonzero(draw.random(form.days) < VISIT):
            onward = draw.random() < ONWARD
            aisle = (aisle + 1) % form.aisles if onward else int(draw.integers(form.aisles))
            at = FIRST_DAY + pd.Timedelta(days=int(day), seconds=user * 7)
            taken = draw.choice(form.items_per_aisle, 5, replace=False, p=chances)
            rows += [(user, aisle, int(place), at, f"o-{user}-{day}") for place in taken]
    frame = pd.DataFrame(rows, columns=["user", "aisle", "place", "at", "order_no"])
    return pd.DataFrame(
        {
            "customer": frame["user"].map("c-{:04}".format),
            "sku": [_sku(a, p) for a, p in zip(frame["aisle"], frame["place"], strict=True)],
            "action": "bought",
            "at": frame["at"],
            "order_no": frame["order_no"],
            "price": 1.0 + frame["aisle"] + frame["place"] / 10,
        }
    )


def shop_catalogue(form: Form) -> pd.DataFrame:
    """Return one row per item."""
    return pd.DataFrame(
        [
            (_sku(aisle, place), f"Thing {aisle}.{place}", f"Aisle {aisle}", 1.0 + aisle)
            for aisle in range(form.aisles)
            for place in range(form.items_per_aisle)
        ],
        columns=["sku", "name", "aisle", "list_price"],
    )


def write_shop(folder: Path, form: Form, events: pd.DataFrame, catalogue: pd.DataFrame) -> Shop:
    """Write an export; equal frames give equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    shop = Shop(
        events=folder / "events.parquet",
        catalogue=folder / "catalogue.csv",
        mapping=folder / "mapping.toml",
        as_of=(FIRST_DAY + pd.Timedelta(days=form.days)).strftime("%Y-%m-%dT00:00:00Z"),
    )
    events.to_parquet(shop.events, index=False)
    catalogue.to_csv(shop.catalogue, index=False)
    shop.mapping.write_text(MAPPING)
    return shop
