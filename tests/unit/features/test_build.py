"""Vocabulary, sequences and profile of a few baskets."""

from __future__ import annotations

from datetime import timedelta
from math import log2

import pytest

from tasks.contracts.columns import Period
from tasks.contracts.errors import BadRequestError
from tasks.features.build import FeatureSet, build_feature_set
from tasks.features.settings import FeatureSettings
from tasks.models.interactions import history_batch


@pytest.fixture
def built(events_folder, tmp_path):
    def build(*args, min_count=1, max_items=100, **kwargs) -> FeatureSet:
        settings = FeatureSettings(min_count=min_count, max_items=max_items)
        folder = events_folder(*args, **kwargs)
        return build_feature_set(folder, settings, tmp_path / "duckdb", lambda _s, _f: None)

    return build


def items_of(features):
    return [
        (row["item_index"], row["item_id"], row["train_count"])
        for row in features.items.to_pylist()
    ]


def test_the_vocabulary_is_what_train_has_most_frequent_first(built):
    # tea is bought in gate and canary only; bread and milk are equally frequent: by id.
    assert items_of(built()) == [(1, "bread", 2), (2, "milk", 2), (3, "soap", 1)]


def test_rare_items_are_left_out(built):
    assert items_of(built(min_count=2)) == [(1, "bread", 2), (2, "milk", 2)]


def test_a_vocabulary_has_a_largest_size(built):
    assert items_of(built(max_items=1)) == [(1, "bread", 2)]


def test_an_item_without_a_title_is_called_by_its_id(built):
    titles = {row["item_id"]: (row["title"], row["price"]) for row in built().items.to_pylist()}
    assert titles == {"bread": ("bread", None), "milk": ("Milk, 1 l", 0.99), "soap": ("soap", None)}


def test_baskets_become_sets_in_order_with_unknown_items_as_misses(built):
    known = built().interactions
    assert known.item_ids.tolist() == ["bread", "milk", "soap"]
    assert known.user_ids.tolist() == ["ann", "bob", "cid"]
    assert known.items.tolist() == [1, 2, 2, 3, 2, 1, 2]
    assert known.basket.tolist() == [0, 0, 1, 1, 2, 0, 1]
    assert known.step_misses.tolist() == [0, 0, 1, 0, 0, 1]
    assert known.step_period.tolist() == [0, 0, 2, 0, 1, 3]
    assert known.event_type.tolist() == [3] * 7
    assert known.baskets is True


def test_an_item_twice_in_a_basket_is_there_once(built):
    known = built().interactions
    bob = known.examples(Period.SELECT)
    assert bob.targets.tolist() == [2]
    assert known.offsets.tolist() == [0, 5, 7, 7]


def test_the_gate_example_sees_both_train_baskets(built):
    known = built().interactions
    items, ago = history_batch(known, known.examples(Period.GATE), 5)
    assert items.tolist() == [[0, 1, 2, 2, 3]]
    assert ago.tolist() == [[0, 2, 2, 1, 1]]


def test_times_are_unix_seconds(built):
    first, second = built().interactions.time.tolist()[:2]
    # bread of position 1 comes first in its basket: by item, not by time.
    assert (first, second) == (1717200000 + 86400, 1717200000)


def test_fractions_of_a_second_are_left_out(built):
    first, second = built(later=timedelta(microseconds=999_999)).interactions.time.tolist()[:2]
    assert (first, second) == (1717200000 + 86400, 1717200000)


def test_events_without_baskets_are_steps_of_their_own(built):
    plain = [
        ("ann", "a", 0, None, "train"),
        ("ann", "b", 1, None, "train"),
        ("ann", "a", 2, None, "select"),
        ("ann", "b", 3, None, "gate"),
        ("ann", "z", 4, None, "canary"),
    ]
    known = built(plain, order_only=True).interactions
    assert known.items.tolist() == [1, 2, 1, 2]
    assert known.basket.tolist() == [0, 1, 2, 3]
    assert known.time.tolist() == [0, 1, 2, 3]
    assert known.baskets is False
    assert known.examples(Period.GATE).targets.tolist() == [2]
    assert known.examples(Period.CANARY).misses.tolist() == [1]


def test_the_profile_tells_what_follows_each_type_and_what_a_type_costs(built):
    behaviour = built().profile["behaviour"]

    # Five purchases in train, nothing else: (5 + 1/4) / 6 of all types, before any context.
    bits = behaviour["select_bits_by_order"]
    assert bits[0] == pytest.approx(log2(6 / 5.25), abs=1e-6)
    assert bits[0] > bits[1] > 0
    assert behaviour["next_type_after"]["purchase"]["purchase"] > 0.95
    assert sum(behaviour["next_type_after"]["view"].values()) == pytest.approx(1, abs=1e-5)


def test_the_profile_tells_of_coverage_lengths_and_leaks(built):
    profile = built().profile
    assert profile["items_in_train"] == 3
    assert profile["items_not_in_train"] == 0
    assert profile["steps_before_an_earlier_period"] == 0
    gate = profile["periods"]["gate"]
    assert (gate["events"], gate["known_events"], gate["coverage"]) == (2, 1, 0.5)
    assert (gate["examples"], gate["targets"], gate["missed_targets"]) == (1, 2, 1)
    assert gate["history_length"]["p50"] == 4
    # cid has no history: a step of the canary period, and no example.
    assert profile["periods"]["canary"]["steps"] == 1
    assert profile["periods"]["canary"]["examples"] == 0
    assert profile["periods"]["train"]["min_time"] == "2024-06-01T00:00:00Z"
    assert profile["items_per_step"]["p100"] == 2
    # Later events: tea, milk (ann), milk twice (bob), tea; milk and bread came twice in train.
    coverage = {row["min_count"]: row for row in profile["coverage_by_min_count"]}
    assert (coverage[1]["items"], coverage[1]["coverage"]) == (3, 0.6)
    assert (coverage[2]["items"], coverage[2]["coverage"]) == (2, 0.6)
    assert (coverage[3]["items"], coverage[3]["coverage"]) == (0, 0.0)


def test_a_step_that_goes_back_to_an_earlier_period_is_counted(built):
    mixed = [("ann", "a", 0, None, "gate"), ("ann", "a", 1, None, "train")]
    assert built(mixed).profile["steps_before_an_earlier_period"] == 1


def test_a_train_period_without_frequent_items_is_refused(built):
    with pytest.raises(BadRequestError, match="seen at least 9 times in the train period, found"):
        built(min_count=9)


def test_a_catalogue_that_has_an_item_twice_is_refused(built):
    twice = [{"item_id": "milk", "title": "Milk"}, {"item_id": "milk", "title": "Milch"}]
    with pytest.raises(BadRequestError, match="expected each item once, found 1 rows too many"):
        built(catalogue=twice)


CATALOGUE = [
    {"item_id": "milk", "category": "Food > Dairy > Milk", "brand": "Own", "price": 1.0},
    {"item_id": "bread", "category": "Food > Bakery", "brand": None, "price": None},
    {"item_id": "soap", "category": None, "brand": "Own", "price": None},
]
# bread costs 2 and 4 in train, soap 9; what is paid later is not looked at.
PAID = [5.0, 2.0, 5.0, 9.0, 5.0, 5.0, 4.0, 77.0, 77.0, 77.0]


def test_labels_of_profiles_are_the_catalogues_and_shares_are_those_of_train(built):
    profiles = built(catalogue=CATALOGUE, paid=PAID).profiles

    # Train has bread 2, milk 2, soap 1; items are numbered bread, milk, soap.
    category, brand, price = profiles.attributes.values()
    assert category.labels == ("Food > Bakery", "Food > Dairy")
    assert category.codes.tolist() == [0, 1, 2, 0]
    assert category.shares.tolist() == pytest.approx([1 / 5, 2 / 5, 2 / 5])
    assert (brand.labels, brand.codes.tolist()) == (("Own",), [0, 0, 1, 1])
    assert brand.shares.tolist() == pytest.approx([2 / 5, 3 / 5])
    # Milk has a price, bread's median is 3 and soap's 9: fifths of 1, 1, 3, 3, 9.
    assert profiles.price_bounds.tolist() == [1.0, 3.0]
    assert price.labels == ("up to 1", "above 1 up to 3", "above 3")
    assert price.codes.tolist() == [0, 2, 1, 3]
    assert price.shares.tolist() == pytest.approx([0, 2 / 5, 2 / 5, 1 / 5])
    assert profiles.timed is True


def test_a_set_that_knows_ids_only_has_no_labels(built):
    features = built(catalogue=[{"item_id": "milk"}], order_only=True)
    assert features.profiles.outputs == ("events", "steps", "next_types")
    assert features.profile["user_profiles"] == {"timed": False, "prior_events": 20.0, "parts": {}}


def test_rare_labels_are_left_out_and_the_profile_says_how_many_events_have_one(
    events_folder, tmp_path
):
    settings = FeatureSettings(min_count=1, category_depth=1, max_labels=1)
    folder = events_folder(catalogue=CATALOGUE)
    features = build_feature_set(folder, settings, tmp_path / "db", lambda _s, _f: None)
    assert features.profiles.attributes["category"].labels == ("Food",)
    parts = features.profile["user_profiles"]["parts"]
    assert parts["category"] == {"labels": 1, "labelled_share": 0.8}
    assert parts["price"] == {"labels": 2, "labelled_share": 0.4}  # only milk has one
