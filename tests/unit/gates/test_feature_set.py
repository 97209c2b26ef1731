from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tasks.contracts.errors import BadRequestError
from tasks.contracts.stages import ArtifactKind
from tasks.gates.bounds import FeatureBounds
from tasks.models.interactions import EventRows, Interactions
from tasks.models.profile_definition import (
    Attribute,
    ProfileDefinition,
    next_types_by_last_two,
    shares_in_train,
)

KIND = ArtifactKind.FEATURE_SET
ITEMS, USERS, DAYS = 30, 24, 12
PERIOD_OF_DAY = np.repeat([0, 1, 2, 3], [6, 2, 2, 2])


def interactions(**changes) -> Interactions:
    """Two items a day for each user: one basket a day, every item met in the train period."""
    user, day, place = np.meshgrid(range(USERS), range(DAYS), range(2), indexing="ij")
    rows = EventRows(
        item_ids=np.array([f"i{n:02}" for n in range(ITEMS)]),
        user_ids=np.array([f"u{n:02}" for n in range(USERS)]),
        user=user.ravel(),
        item=1 + ((user * 5 + day * 2 + place) % ITEMS).ravel(),
        basket=day.ravel(),
        event_type=np.full(user.size, 3),
        time=day.ravel() * 86_400,
        period=PERIOD_OF_DAY[day.ravel()],
        repeats_allowed=True,
        baskets=True,
        order_only=False,
    )
    return replace(Interactions.from_rows(rows), **changes)


def definition(features: Interactions) -> ProfileDefinition:
    """All of one category and one price, as the items below have them."""
    codes = np.asarray([0, *[1] * ITEMS], np.int16)
    labels = {"category": ("Aisle",), "price": ("up to 1", "above 1")}
    return ProfileDefinition(
        attributes={
            name: Attribute(
                labels=names, codes=codes, shares=shares_in_train(features, codes, len(names))
            )
            for name, names in labels.items()
        },
        next_types=next_types_by_last_two(features),
        price_bounds=np.asarray([1.0]),
        prior_events=5.0,
        timed=True,
    )


@pytest.fixture
def verdict(judge, tmp_path):
    def run(
        features: Interactions, items=None, users=None, bounds=None, compared=None, profiles=None
    ):
        features.save(tmp_path / "interactions.npz")
        (profiles or definition(features)).save(tmp_path / "profile_definition.npz")
        train = features.items[features.period == 0]
        counts = np.bincount(train, minlength=ITEMS + 1)[1 : ITEMS + 1]
        known = pd.DataFrame(
            {
                "item_index": np.arange(1, ITEMS + 1, dtype=np.int32),
                "item_id": features.item_ids,
                "title": "Thing",
                "category": "Aisle",
                "brand": None,
                "price": 1.0,
                "train_count": counts,
            }
        )
        people = pd.DataFrame(
            {"user_index": np.arange(USERS, dtype=np.int32), "user_id": features.user_ids}
        )
        known.assign(**(items or {})).to_parquet(tmp_path / "items.parquet")
        people.assign(**(users or {})).to_parquet(tmp_path / "users.parquet")
        return judge(KIND, bounds or FeatureBounds(), compared)

    return run


def test_sound_features_pass(verdict) -> None:
    report = verdict(interactions())
    assert report.passed, report.sentence
    assert report.warnings == ()
    assert report.key_figures["items"] == "30"


def changed(array, place, value):
    copy = array.copy()
    copy[place] = value
    return copy


def rows_of_user(features: Interactions, user: int) -> slice:
    return slice(features.offsets[user], features.offsets[user + 1])


def the_last_day_labelled_train(features: Interactions) -> Interactions:
    """One user's canary events are said to be of the train period."""
    mine = rows_of_user(features, 3)
    period = features.period.copy()
    period[mine][-2:] = 0
    return replace(features, period=period)


def a_whole_users_history_labelled_train(features: Interactions) -> Interactions:
    """Within the user the order is kept: only the clock of the whole set can tell."""
    period, step_period = features.period.copy(), features.step_period.copy()
    period[rows_of_user(features, 3)] = 0
    step_period[features.step_offsets[3] : features.step_offsets[4]] = 0
    return replace(features, period=period, step_period=step_period)


@pytest.mark.parametrize(
    ("plant", "sentence"),
    (
        (
            the_last_day_labelled_train,
            "leakage within users: no event of an earlier period after a later one expected, 1",
        ),
        (
            a_whole_users_history_labelled_train,
            "leakage across periods: no event at or before the end of an earlier period expected",
        ),
        (
            lambda f: replace(f, items=changed(f.items, 7, ITEMS + 4)),
            "items outside the vocabulary: item indices of 1 to 30 expected, 1 found",
        ),
        (
            lambda f: replace(f, basket=changed(f.basket, 9, 0)),
            "baskets: steps that never go back within a user expected, 1 found",
        ),
        (
            lambda f: replace(f, time=changed(f.time, 9, 0)),
            "times: times that never go back within a user expected, 1 found",
        ),
        (
            lambda f: replace(f, period=changed(f.period, 0, 9)),
            "unknown periods: periods train, select, gate, canary expected, 1 found",
        ),
    ),
)
def test_a_planted_fault_is_refused_and_named(verdict, plant, sentence) -> None:
    report = verdict(plant(interactions()))
    assert sentence in report.sentence, report.sentence


def test_counts_over_all_periods_are_a_leak(verdict) -> None:
    features = interactions()
    everything = np.bincount(features.items, minlength=ITEMS + 1)[1 : ITEMS + 1]
    report = verdict(features, items={"train_count": everything})
    assert "train_count: counts of the train period only expected, " in report.sentence


def test_an_item_first_met_after_training_is_a_leak(verdict) -> None:
    features = interactions()
    later = (features.items == 5) & (features.period == 0)
    features = replace(features, items=np.where(later, 6, features.items).astype(np.int32))
    report = verdict(features)
    assert (
        "items not in training: every item of the vocabulary met in the train period expected, "
        "1 found (e.g. item i04)"
    ) in report.sentence


def test_items_in_another_order_than_the_vocabulary_are_refused(verdict) -> None:
    features = interactions()
    report = verdict(features, items={"item_id": features.item_ids[::-1]})
    assert "items.parquet and interactions: the same items in the same order" in report.sentence


def test_a_user_listed_twice_is_refused(verdict) -> None:
    features = interactions()
    report = verdict(features, users={"user_id": changed(features.user_ids, 1, "u00")})
    assert "user_id: unique values expected, u00 found in 2 of 24 users" in report.sentence


def test_nearly_unknown_later_events_are_refused_and_many_warn(verdict) -> None:
    features = interactions()
    misses = np.where(features.step_period > 0, 4, 0).astype(np.int32)
    report = verdict(replace(features, step_misses=misses))
    assert [check.name for check in report.warnings] == ["usual coverage"]
    assert report.passed, report.sentence
    report = verdict(replace(features, step_misses=misses * 20))
    assert "coverage of later events: at least 5.0 % expected, 2.4 % found" in report.sentence


def test_a_period_without_examples_is_refused(verdict) -> None:
    features = interactions()
    no_gate = np.where(features.step_period == 2, 1, features.step_period).astype(np.int8)
    report = verdict(replace(features, step_period=no_gate))
    assert "examples to gate: at least 20 requests with history expected, 0" in report.sentence


def test_a_set_with_order_only_takes_no_time_gates(verdict) -> None:
    report = verdict(interactions(order_only=True))
    assert report.passed, report.sentence
    assert "leakage across periods" not in {check.name for check in report.checks}


def events_of(features: Interactions) -> pd.DataFrame:
    """The events that these features were made from, half a second before each rounded time."""
    user = np.repeat(np.arange(USERS), np.diff(features.offsets))
    frame = pd.DataFrame(
        {
            "user_id": features.user_ids[user],
            "item_id": features.item_ids[features.items - 1],
            "event_type": "purchase",
            "timestamp": pd.to_datetime(features.time * 1000 - 500, unit="ms", utc=True),
            "basket_id": [f"b{u}-{day}" for u, day in zip(user, features.basket, strict=True)],
            "price": 1.0,
            "period": np.array(["train", "select", "gate", "canary"])[features.period],
        }
    )
    frame["position"] = frame.groupby("user_id").cumcount()
    return frame.assign(**dict.fromkeys(["session_id", "query", "variant"]))


@pytest.fixture
def beside(verdict, write_events, tmp_path):
    """Judge features beside the events of sound ones."""

    def run(features: Interactions):
        catalogue = pd.DataFrame({"item_id": features.item_ids, "title": "Thing"})
        catalogue = catalogue.assign(category="Aisle", brand=None, price=1.0)
        events = write_events(events_of(interactions()), catalogue, tmp_path / "events")
        return verdict(features, compared={"made_from": events})

    return run


def test_features_like_their_events_pass(beside) -> None:
    report = beside(interactions())
    assert report.passed, report.sentence
    assert "interactions unlike their events" in {check.name for check in report.checks}


def two_days_exchanged(features: Interactions) -> Interactions:
    """What user 5 bought on the first day is said of the second, and the other way round."""
    mine = features.offsets[5]
    items = features.items.copy()
    items[mine : mine + 4] = np.roll(items[mine : mine + 4], 2)
    return replace(features, items=items)


def the_select_period_labelled_gate(features: Interactions) -> Interactions:
    period = features.period.copy()
    period[rows_of_user(features, 3)][12:16] = 2
    steps = features.step_period.copy()
    steps[features.step_offsets[3] : features.step_offsets[4]][6:8] = 2
    return replace(features, period=period, step_period=steps)


@pytest.mark.parametrize(
    ("plant", "user"),
    (
        pytest.param(two_days_exchanged, "u05", id="items of one user exchanged"),
        pytest.param(the_select_period_labelled_gate, "u03", id="periods labelled otherwise"),
    ),
)
def test_interactions_that_no_event_is_like_are_counted_and_named(beside, plant, user) -> None:
    report = beside(plant(interactions()))
    (check,) = [c for c in report.failures if c.name == "interactions unlike their events"]
    assert check.found == "4"
    assert check.where == f"in 576 interactions (e.g. of user {user})"


def test_interactions_that_were_lost_are_refused(beside) -> None:
    features = interactions()
    kept = np.ones(len(features.items), dtype=bool)
    kept[-1] = False
    lost = replace(
        features,
        **{
            name: getattr(features, name)[kept]
            for name in ("items", "basket", "event_type", "time", "period")
        },
        offsets=changed(features.offsets, -1, len(features.items) - 1),
        step_ends=changed(features.step_ends, -1, len(features.items) - 1),
    )
    (check,) = [c for c in beside(lost).failures if c.name == "interactions"]
    assert check.sentence == (
        "interactions: 576, as the events have on these items expected, 575 found"
    )


def of_later_events(features: Interactions) -> ProfileDefinition:
    """Shares counted over all periods, where one item of two labels is taken later only more often."""
    codes = np.asarray([0, *[1 + place % 2 for place in range(ITEMS)]], np.int16)
    everything = np.bincount(codes[features.items], minlength=3) / len(features.items)
    labels = Attribute(labels=("Aisle", "Aisle > Shelf"), codes=codes, shares=everything)
    labels = replace(labels, shares=everything.astype(np.float32) + np.float32([0, 0.01, -0.01]))
    return replace(definition(features), attributes={"category": labels})


def under_another_price(features: Interactions) -> ProfileDefinition:
    sound = definition(features)
    codes = changed(sound.attributes["price"].codes, 7, 2)
    price = replace(
        sound.attributes["price"], codes=codes, shares=shares_in_train(features, codes, 2)
    )
    return replace(sound, attributes={"price": price})


def under_another_category(features: Interactions) -> ProfileDefinition:
    sound = definition(features)
    category = replace(sound.attributes["category"], labels=("Ais",))
    return replace(sound, attributes={"category": category})


def of_other_next_types(features: Interactions) -> ProfileDefinition:
    sound = definition(features)
    return replace(sound, next_types=sound.next_types[::-1].copy())


@pytest.mark.parametrize(
    ("plant", "sentence"),
    (
        (of_later_events, "profile shares of category: shares counted from the train period only"),
        (
            under_another_price,
            "profile labels of price: every item under its own label expected, 1 found (e.g. item i06)",
        ),
        (
            under_another_category,
            "profile labels of category: every item under its own label expected, 30 found",
        ),
        (of_other_next_types, "profile next types: chances counted from the train period only"),
    ),
)
def test_a_profile_of_other_items_or_later_events_is_refused(verdict, plant, sentence) -> None:
    features = interactions()
    report = verdict(features, profiles=plant(features))
    assert not report.passed
    assert any(sentence in check.sentence for check in report.failures), report.sentence


def test_features_without_profiles_are_a_bad_request(verdict, tmp_path, judge) -> None:
    verdict(interactions())
    (tmp_path / "profile_definition.npz").unlink()
    with pytest.raises(BadRequestError, match="profile_definition.npz: expected this file"):
        judge(KIND, FeatureBounds())


@pytest.mark.parametrize("other", (4, -1))
def test_an_event_type_outside_the_contract_is_refused_and_counted(verdict, other) -> None:
    sound = interactions()
    features = replace(sound, event_type=changed(sound.event_type, 7, other))

    report = verdict(features, profiles=definition(sound))

    assert any(
        "event types outside the contract: view, favourite, cart, purchase, by their places expected, 1 found"
        in check.sentence
        for check in report.failures
    ), report.sentence
