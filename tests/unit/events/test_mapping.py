"""The mapping file: what it may say, and what it is told when it says something else."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from tasks.contracts.errors import BadRequestError
from tasks.events.mapping import identity_mapping, parse_mapping
from tasks.events.periods import LastSteps, SpanShares, TimeCuts

HEAD = 'format = "events_mapping/1"\n'
COLUMNS = """
[columns]
user_id = "customer"
item_id = "sku"
event_type = "action"
timestamp = "at"
"""
PLACES = COLUMNS.replace('timestamp = "at"', 'position = "place"')


def parsed(text):
    return parse_mapping(text, "shop.toml")


def test_a_whole_mapping_file_is_understood():
    mapping = parsed(
        HEAD
        + 'repeats_allowed = false\nignored_event_types = ["banner"]\n'
        + COLUMNS
        + """
        [constants]
        variant = "web"
        [event_types]
        bought = "purchase"
        [timestamp]
        form = "%d.%m.%Y"
        zone = "Europe/Berlin"
        [csv]
        delimiter = ";"
        names = ["customer", "sku", "action", "at"]
        [periods]
        rule = "cuts"
        select = 2024-05-01T00:00:00Z
        gate = "2024-06-01T00:00:00Z"
        canary = 2024-07-01T00:00:00Z
        [catalogue.columns]
        item_id = "sku"
        title = "name"
        """
    )
    assert mapping.columns["user_id"] == "customer"
    assert mapping.periods == TimeCuts(
        select=datetime(2024, 5, 1, tzinfo=UTC),
        gate=datetime(2024, 6, 1, tzinfo=UTC),
        canary=datetime(2024, 7, 1, tzinfo=UTC),
    )
    assert mapping.csv.names == ("customer", "sku", "action", "at")
    assert mapping.timestamp.zone == "Europe/Berlin"
    assert mapping.repeats_allowed is False
    assert mapping.order_only is False
    record = json.loads(json.dumps(mapping.to_json()))
    assert record["catalogue_columns"] == {"item_id": "sku", "title": "name"}
    assert record["ignored_event_types"] == ["banner"]


def test_periods_are_shares_of_the_span_unless_the_file_says_otherwise():
    assert parsed(HEAD + COLUMNS).periods == SpanShares(select=0.1, gate=0.1, canary=0.1)


def test_a_position_without_a_timestamp_makes_a_set_that_has_order_only():
    mapping = parsed(HEAD + PLACES)
    assert mapping.order_only is True
    assert mapping.periods == LastSteps()


def test_a_file_with_the_contracts_columns_needs_no_mapping():
    mapping = identity_mapping(("user_id", "item_id", "event_type", "timestamp", "price", "shop"))
    assert sorted(mapping.columns) == ["event_type", "item_id", "price", "timestamp", "user_id"]


@pytest.mark.parametrize(
    ("text", "message"),
    (
        pytest.param("format = ", "shop.toml: expected a TOML file", id="not TOML"),
        pytest.param(COLUMNS, "expected format events_mapping/1", id="no format"),
        pytest.param(
            HEAD + COLUMNS.replace('item_id = "sku"', ""),
            r"\[columns\]: expected \['item_id'\], found only",
            id="a column is left out",
        ),
        pytest.param(
            HEAD + COLUMNS.replace("item_id", "itemid"),
            r"found \['itemid'\]",
            id="a misspelt column",
        ),
        pytest.param(
            HEAD + COLUMNS + '[event_types]\nbought = "buy"',
            r"\[event_types\]: expected any of \['cart', 'favourite', 'purchase', 'view'\], found",
            id="a type that the contract does not have",
        ),
        pytest.param(
            HEAD + COLUMNS + "[time]\nunit = 's'",
            r"\[tables\].*found \['time'\]",
            id="unknown table",
        ),
        pytest.param(
            HEAD + COLUMNS + '[timestamp]\nunits = "s"', "units", id="a misspelt word of a table"
        ),
        pytest.param(
            HEAD + COLUMNS + "[timestamp]\nunit = 5", "expected text values", id="a number as text"
        ),
        pytest.param(
            HEAD + COLUMNS + '[periods]\nrule = "weeks"',
            "expected shares, cuts or last_steps, found 'weeks'",
            id="an unknown rule of periods",
        ),
        pytest.param(
            HEAD + PLACES + '[periods]\nrule = "shares"',
            "expected rule last_steps exactly where",
            id="shares of a span that has no times",
        ),
        pytest.param(
            HEAD + COLUMNS + '[periods]\nrule = "last_steps"',
            "expected rule last_steps exactly where",
            id="places for a set that has times",
        ),
        pytest.param(
            HEAD
            + COLUMNS
            + '[periods]\nrule = "cuts"\nselect = 2024-05-01T00:00:00\ngate = 1\ncanary = 2',
            "a time in UTC",
            id="a cut without a zone",
        ),
        pytest.param(
            HEAD + COLUMNS + '[constants]\nuser_id = "me"', r"\[constants\]", id="one user for all"
        ),
        pytest.param(
            HEAD + COLUMNS + '[constants]\nevent_type = "buy"',
            r"\[constants\].*found \['buy'\]",
            id="a constant type that the contract does not have",
        ),
    ),
)
def test_a_mistake_in_the_file_is_named(text, message):
    with pytest.raises(BadRequestError, match=message) as refused:
        parsed(text)
    assert str(refused.value).startswith("shop.toml: ")
