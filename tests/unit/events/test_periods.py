"""Rules of periods."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tasks.contracts.errors import BadRequestError
from tasks.events.periods import SpanShares, TimeCuts, cuts_of_span, iso_utc

MAY = datetime(2024, 5, 1, tzinfo=UTC)


def test_cuts_must_come_in_order():
    TimeCuts(select=MAY, gate=MAY + timedelta(days=1), canary=MAY + timedelta(days=2))
    with pytest.raises(BadRequestError, match="expected select < gate < canary"):
        TimeCuts(select=MAY, gate=MAY, canary=MAY + timedelta(days=2))


def test_cuts_must_say_their_zone():
    plain = MAY.replace(tzinfo=None)
    with pytest.raises(BadRequestError, match="with a zone"):
        TimeCuts(select=plain, gate=plain + timedelta(1), canary=plain + timedelta(2))


@pytest.mark.parametrize("shares", ((0.5, 0.3, 0.2), (0.0, 0.1, 0.1), (-0.1, 0.1, 0.1)))
def test_shares_leave_something_to_train_on(shares):
    with pytest.raises(BadRequestError, match="above 0 and below 1 in sum"):
        SpanShares(select=shares[0], gate=shares[1], canary=shares[2])


def test_shares_become_times_floored_to_the_second():
    first = datetime.fromisoformat("2024-05-01")
    rule = SpanShares(select=0.2, gate=0.2, canary=0.1)
    cuts = cuts_of_span(rule, first, first + timedelta(seconds=1001), MAY)
    assert iso_utc(cuts.select) == "2024-05-01T00:08:20Z"  # 500.5 s
    assert iso_utc(cuts.gate) == "2024-05-01T00:11:40Z"  # 700.7 s
    assert iso_utc(cuts.canary) == "2024-05-01T00:15:00Z"  # 900.9 s


def test_a_span_too_short_to_cut_is_refused_with_the_next_step():
    first = datetime.fromisoformat("2024-05-01")
    with pytest.raises(BadRequestError, match="next step: check as_of and the timestamp unit"):
        cuts_of_span(SpanShares(), first, first + timedelta(seconds=99), MAY)
    with pytest.raises(BadRequestError, match="at least 100 s"):
        cuts_of_span(SpanShares(), None, None, MAY)


def test_times_in_other_zones_are_told_in_utc():
    berlin = datetime.fromisoformat("2024-05-01T02:00:00+02:00")
    assert iso_utc(berlin) == "2024-05-01T00:00:00Z"
