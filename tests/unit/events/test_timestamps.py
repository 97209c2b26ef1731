"""Every way of writing a time ends as the same plain timestamp in UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from tasks.contracts.errors import BadRequestError
from tasks.events.timestamps import TimestampRule

SUMMER = datetime.fromisoformat("2024-07-01T10:30")
SECOND = int(SUMMER.replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("rule", "values"),
    (
        pytest.param(TimestampRule(unit="s"), [SECOND], id="seconds as numbers"),
        pytest.param(TimestampRule(unit="s"), [str(SECOND)], id="seconds as text"),
        pytest.param(TimestampRule(unit="s"), [float(SECOND)], id="seconds as floats"),
        pytest.param(TimestampRule(unit="ms"), [SECOND * 1000], id="milliseconds"),
        pytest.param(TimestampRule(unit="us"), [SECOND * 1_000_000], id="microseconds"),
        pytest.param(TimestampRule(), ["2024-07-01T10:30:00Z"], id="text ending in Z"),
        pytest.param(TimestampRule(), ["2024-07-01 10:30:00"], id="text without an offset"),
        pytest.param(TimestampRule(), ["2024-07-01T12:30:00+02:00"], id="text with an offset"),
        pytest.param(
            TimestampRule(zone="Europe/Berlin"), ["2024-07-01 12:30:00"], id="text in a zone"
        ),
        pytest.param(
            TimestampRule(zone="Europe/Berlin"),
            ["2024-07-01T10:30:00Z"],
            id="text with an offset needs no zone",
        ),
        pytest.param(
            TimestampRule(form="%d.%m.%Y %H:%M", zone="Europe/Berlin"),
            ["01.07.2024 12:30"],
            id="text in a form of its own",
        ),
        pytest.param(TimestampRule(), pa.array([SUMMER], pa.timestamp("ns")), id="timestamps"),
        pytest.param(
            TimestampRule(zone="America/New_York"),
            pa.array([datetime.fromisoformat("2024-07-01T06:30")], pa.timestamp("us")),
            id="plain timestamps in a zone",
        ),
        pytest.param(
            TimestampRule(),
            pa.array([SUMMER.replace(tzinfo=UTC)], pa.timestamp("us", tz="Asia/Tokyo")),
            id="timestamps that carry a zone",
        ),
    ),
)
def test_a_time_is_read_as_utc(table, rule, values):
    raw = table(at=values)
    parsed = raw.select(at=rule.parse(raw["at"])).to_pyarrow().column("at")
    assert parsed.cast(pa.timestamp("us")).to_pylist() == [SUMMER]


def test_winter_and_summer_differ_in_a_zone_that_has_both(table):
    raw = table(at=["2024-01-01 12:00:00", "2024-07-01 12:00:00"])
    parsed = raw.select(at=TimestampRule(zone="Europe/Berlin").parse(raw["at"]))
    assert [at.hour for at in parsed.to_pyarrow().column("at").to_pylist()] == [11, 10]


def test_a_date_as_text_is_midnight_in_its_zone_not_an_offset(table):
    raw = table(at=["2024-07-01"])
    parsed = raw.select(at=TimestampRule(zone="Europe/Berlin").parse(raw["at"]))
    assert parsed.to_pyarrow().column("at").to_pylist() == [
        datetime.fromisoformat("2024-06-30T22:00")
    ]


def test_a_date_is_its_midnight(table):
    raw = table(at=[date(2024, 7, 1)])
    parsed = raw.select(at=TimestampRule().parse(raw["at"])).to_pyarrow().column("at")
    assert parsed.to_pylist() == [datetime.fromisoformat("2024-07-01")]


@pytest.mark.parametrize(
    ("rule", "value"),
    (
        (TimestampRule(), "yesterday"),
        (TimestampRule(unit="s"), "2024-07-01"),
        (TimestampRule(form="%d.%m.%Y"), "2024-07-01"),
    ),
    ids=["not a time", "text where seconds should be", "another form"],
)
def test_what_does_not_parse_is_null(table, rule, value):
    raw = table(at=[value])
    assert raw.select(at=rule.parse(raw["at"])).to_pyarrow().column("at").to_pylist() == [None]


def test_numbers_without_a_unit_are_refused_with_the_next_step(table):
    with pytest.raises(BadRequestError, match="next step: set unit to s, ms or us"):
        TimestampRule().parse(table(at=[SECOND])["at"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    (
        ({"unit": "minutes"}, "expected iso, s, ms or us, found 'minutes'"),
        ({"zone": "Berlin"}, "expected an IANA name, found 'Berlin'"),
        ({"unit": "s", "zone": "Europe/Berlin"}, "expected neither form nor zone with unit 's'"),
    ),
)
def test_a_rule_that_means_nothing_is_refused(wrong, message):
    with pytest.raises(BadRequestError, match=message):
        TimestampRule(**wrong)
