from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest

from tasks.contracts.errors import BadRequestError
from tasks.contracts.stages import ArtifactKind
from tasks.gates.bounds import EventBounds

BOUNDS = EventBounds(as_of="2026-01-31T00:00:00Z")
KIND = ArtifactKind.VALIDATED_EVENTS


def failed(report):
    return [check.sentence for check in report.failures]


def test_a_sound_shop_passes_without_a_warning(shop, write_events, judge) -> None:
    write_events(*shop)
    report = judge(KIND, BOUNDS)
    assert report.passed, report.sentence
    assert report.warnings == ()
    assert report.key_figures["events"] == "4,800"
    assert len(report.checks) == 41


def negative_prices(events, catalogue):
    events.loc[events.index[7], "price"] = -4.0
    return events, catalogue


def thirty_percent_copies(events, catalogue):
    copies = events.sample(frac=0.3 / 0.7, random_state=1)
    return pd.concat([events, copies], ignore_index=True), catalogue


def one_event_of_next_year(events, catalogue):
    events.loc[events.index[-1], "timestamp"] = pd.Timestamp("2027-03-01T00:00:00Z")
    return events, catalogue


def seconds_read_as_milliseconds(events, catalogue):
    first = events.index[0]
    events.loc[first, "timestamp"] = pd.Timestamp("1970-01-21T00:00:00Z")
    return events, catalogue


def an_empty_day(events, catalogue):
    return events[events["timestamp"].dt.day != 9], catalogue


def titles_beside_wrong_ids(events, catalogue):
    shuffled = catalogue.sample(frac=1, random_state=3).reset_index(drop=True)
    described = ["title", "category"]
    catalogue[described] = shuffled[described]
    return events, catalogue


def the_last_period_labelled_train(events, catalogue):
    last = events["period"] == "canary"
    events.loc[last & (events["user_id"] == "u03"), "period"] = "train"
    return events, catalogue


def the_last_period_copied_into_training(events, catalogue):
    copies = events[events["period"] == "canary"].copy()
    copies["timestamp"] -= pd.Timedelta(days=20, minutes=1)
    copies["period"] = "train"
    copies["basket_id"] = "copied-" + copies["basket_id"]
    return pd.concat([events, copies], ignore_index=True), catalogue


def a_basket_of_two_users(events, catalogue):
    events.loc[events.index[0], "basket_id"] = "b00-39"
    return events, catalogue


def an_unknown_event_type(events, catalogue):
    events.loc[events.index[3], "event_type"] = "stare"
    return events, catalogue


def users_without_id(events, catalogue):
    events.loc[events.index[:5], "user_id"] = None
    return events, catalogue


def a_catalogue_of_another_shop(events, catalogue):
    catalogue["item_id"] = "other-" + catalogue["item_id"]
    return events, catalogue


def one_item_described_twice(events, catalogue):
    return events, pd.concat([catalogue, catalogue.head(1)], ignore_index=True)


def no_gate_period(events, catalogue):
    return events[events["period"] != "gate"], catalogue


@pytest.mark.parametrize(
    ("plant", "sentence"),
    (
        (negative_prices, "price: min 0 expected, -4.0 found in 1 of 4,800 events (e.g. item i"),
        (thirty_percent_copies, "duplicates: at most 1.0 % expected, 30.0 % found (e.g. user u"),
        (
            one_event_of_next_year,
            (
                "future timestamps: none after 2026-01-31T00:00:00Z expected, 1 found "
                "(latest 2027-03-01T00:00:00Z)"
            ),
        ),
        (
            seconds_read_as_milliseconds,
            (
                "timestamps before web shops: none before 1995 expected, 1 found "
                "(oldest 1970-01-21T00:00:00Z)"
            ),
        ),
        (
            an_empty_day,
            (
                "days without events: no day below 20.0 % of its weekday's median expected, "
                "1 found (2026-01-09: 0 events)"
            ),
        ),
        (
            titles_beside_wrong_ids,
            "categories of neighbours: alike at least 1.30 x as often as by chance expected, ",
        ),
        (
            the_last_period_labelled_train,
            "leakage across periods: no event at or before the end of an earlier period expected,",
        ),
        (
            the_last_period_copied_into_training,
            "later baskets that training knows: at most 2.0 % expected, ",
        ),
        (a_basket_of_two_users, "baskets in two periods or of two users: at most 0 expected, 1"),
        (
            an_unknown_event_type,
            "event_type: one of view, favourite, cart, purchase expected, stare found in 1 of",
        ),
        (users_without_id, "user_id: a value expected, none found in 5 of 4,800 events"),
        (
            a_catalogue_of_another_shop,
            "events on catalogue items: at least 95.0 % expected, 0.0 % found",
        ),
        (
            one_item_described_twice,
            "catalogue item_id: unique values expected, i00 found in 2 of 101",
        ),
        (no_gate_period, "gate period: events expected, 0 found"),
    ),
)
def test_a_planted_fault_is_refused_and_named(shop, write_events, judge, plant, sentence) -> None:
    write_events(*plant(*shop))
    report = judge(KIND, BOUNDS)
    assert [text for text in failed(report) if text.startswith(sentence)], report.sentence


@pytest.mark.parametrize("column", ("timestamp", "basket_id", "period"))
def test_a_missing_column_is_named_and_the_rest_is_left_alone(
    shop, write_events, judge, column
) -> None:
    events, catalogue = shop
    write_events(events.drop(columns=column), catalogue)
    report = judge(KIND, BOUNDS)
    (sentence,) = failed(report)
    assert sentence.startswith(f"events.parquet: {column}: type ")
    assert sentence.endswith("expected, absent found")


def test_a_changed_type_is_named(shop, write_events, judge) -> None:
    events, catalogue = shop
    events["price"] = events["price"].map("{:.2f}".format)
    write_events(events, catalogue, types={"price": pa.string()})
    assert failed(judge(KIND, BOUNDS)) == [
        "events.parquet: price: type double expected, string found"
    ]


def test_a_quiet_christmas_only_warns(shop, write_events, judge) -> None:
    events, catalogue = shop
    events["timestamp"] -= pd.Timedelta(days=16)  # 2025-12-16 to 2026-01-14
    events = events[events["timestamp"].dt.strftime("%m-%d") != "12-25"]
    write_events(events, catalogue)
    report = judge(KIND, BOUNDS)
    assert report.passed, report.sentence
    (warning,) = report.warnings
    assert warning.sentence.endswith("1 found (2025-12-25: 0 events)")


def test_a_shop_that_is_always_shut_on_sundays_passes(shop, write_events, judge) -> None:
    events, catalogue = shop
    write_events(events[events["timestamp"].dt.day_of_week != 6], catalogue)
    report = judge(KIND, BOUNDS)
    assert report.passed, report.sentence


def test_days_that_changed_since_the_last_run_are_refused(
    shop, write_events, judge, tmp_path
) -> None:
    events, catalogue = shop
    before = write_events(events, catalogue, tmp_path / "before")
    write_events(events.drop(events.index[events["timestamp"].dt.day == 5][:60]), catalogue)
    report = judge(KIND, BOUNDS, {"last_run": before})
    (sentence,) = failed(report)
    assert sentence == (
        "days changed since the last run: none by more than 5.0 % expected, 1 found "
        "(2026-01-05: 100 events)"
    )


def test_a_tenth_of_the_last_runs_volume_is_refused(shop, write_events, judge, tmp_path) -> None:
    events, catalogue = shop
    before = write_events(events[events["timestamp"].dt.day <= 15], catalogue, tmp_path / "before")
    thin = (events["timestamp"].dt.day > 15) & (events["user_id"] > "u03")
    write_events(events[~thin], catalogue)
    report = judge(KIND, BOUNDS, {"last_run": before})
    assert any(
        text.startswith("volume against the last run: at least 0.33 x and at most 3.00 x expected,")
        for text in failed(report)
    ), report.sentence


def test_a_catalogue_described_anew_is_refused_beside_the_last_run(
    shop, write_events, judge, tmp_path
) -> None:
    events, catalogue = shop
    before = write_events(events, catalogue, tmp_path / "before")
    changed = catalogue.assign(title=catalogue["title"].to_numpy()[::-1])
    write_events(events, changed)
    report = judge(KIND, BOUNDS, {"last_run": before})
    (sentence,) = failed(report)
    assert sentence.startswith(
        "items described anew since the last run: at most 5.0 % expected, 100.0 % found"
    )


def numbered(events: pd.DataFrame, filled: float) -> pd.DataFrame:
    """Give a session to this share of the events."""
    with_id = events.index < filled * len(events)
    return events.assign(session_id=pd.Series("s-1", events.index).where(with_id, None))


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    (
        pytest.param(1.0, 0.0, True, id="a column that the last run had is gone"),
        pytest.param(1.0, 0.09, True, id="a column has a value in 9 of 100 events, not in all"),
        pytest.param(1.0, 0.11, False, id="a column is sparser, but still there"),
        pytest.param(0.49, 0.0, False, id="a column that was mostly empty is empty"),
        pytest.param(0.0, 0.0, False, id="a column that was never there is still not there"),
    ),
)
def test_a_column_that_the_last_run_had_may_not_be_empty(
    shop, write_events, judge, tmp_path, before: float, after: float, refused: bool
) -> None:
    events, catalogue = shop
    last = write_events(numbered(events, before), catalogue, tmp_path / "before")
    write_events(numbered(events, after), catalogue)
    found = failed(judge(KIND, BOUNDS, {"last_run": last}))
    share = f"{after:.1%}".replace("%", " %")
    said = (
        "columns emptied since the last run: none expected, 1 found "
        f"(session_id: 100.0 % filled then, {share} now)"
    )
    assert found == ([said] if refused else [])


def order_only(events: pd.DataFrame) -> pd.DataFrame:
    return events.assign(timestamp=pd.NaT, basket_id=None)


def test_a_set_with_order_only_takes_no_time_gates(shop, write_events, judge) -> None:
    events, catalogue = shop
    write_events(order_only(events), catalogue, order_only=True, baskets=False)
    report = judge(KIND, BOUNDS)
    assert report.passed, report.sentence
    assert not [check.name for check in report.checks if "timestamps" in check.name]


def test_leakage_by_position_is_found_without_times(shop, write_events, judge) -> None:
    events, catalogue = shop
    events = order_only(events)
    users_last = events["position"] == events["position"].max()
    events.loc[users_last & (events["user_id"] == "u07"), "period"] = "train"
    write_events(events, catalogue, order_only=True, baskets=False)
    (sentence,) = failed(judge(KIND, BOUNDS))
    assert sentence.startswith("leakage across periods: ")
    assert sentence.endswith("(e.g. of user u07)")


def test_items_met_again_are_refused_where_nobody_has_an_item_twice(
    shop, write_events, judge
) -> None:
    events, catalogue = shop
    write_events(
        order_only(events), catalogue, order_only=True, baskets=False, repeats_allowed=False
    )
    (sentence,) = failed(judge(KIND, BOUNDS))
    assert sentence.startswith("items met again: at most 1.0 % expected, ")


def test_too_many_rows_left_out_by_the_reader_are_refused(shop, write_events, judge) -> None:
    events, catalogue = shop
    left_out = [{"reason": "fuel", "rows": 3000, "example": "product 7"}]
    write_events(events, catalogue, rows_read=7800, rejected=left_out)
    assert failed(judge(KIND, BOUNDS)) == [
        "rows left out by the reader: at most 20.0 % expected, 38.5 % found (fuel: 3000)"
    ]


def test_a_payload_without_a_profile_is_a_bad_request(shop, write_events, judge, tmp_path) -> None:
    write_events(*shop)
    (tmp_path / "profile.json").unlink()
    with pytest.raises(BadRequestError, match=r"profile\.json: expected this file"):
        judge(KIND, BOUNDS)


def test_equal_payloads_give_equal_reports(shop, write_events, judge) -> None:
    write_events(*shop)
    once, again = (judge(KIND, BOUNDS).to_text() for _ in range(2))
    assert once == again
