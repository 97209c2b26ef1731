import json
from typing import Any

import pytest

from tasks.contracts.errors import CorruptArtifactError
from tasks.serving.golden_answers import Ranked, compare, read_golden

ITEMS = tuple("abcdefghijkl")
SCORES = tuple(12.0 - place for place in range(12))
PROMISED = Ranked(items=ITEMS, scores=SCORES)


def ranked(items: Any = ITEMS, scores: Any = SCORES) -> Any:
    return Ranked(items=tuple(items), scores=tuple(scores))


def swapped(values: Any, one: Any, other: Any) -> Any:
    changed = list(values)
    changed[one], changed[other] = changed[other], changed[one]
    return changed


def test_the_same_answer_is_right() -> None:
    found = compare(ranked(), PROMISED)
    assert (found.right, found.worst_score_difference) == (True, 0.0)


def test_another_order_is_wrong_and_its_place_is_named() -> None:
    found = compare(ranked(items=swapped(ITEMS, 2, 3)), PROMISED)
    assert (found.right, found.first_wrong_place) == (False, 2)


def test_another_order_of_equal_scores_is_right() -> None:
    tied = (12.0, 11.0, 10.0, 10.000004, *SCORES[4:])
    promised = ranked(scores=(12.0, 11.0, 10.000004, 10.0, *SCORES[4:]))
    assert compare(ranked(items=swapped(ITEMS, 2, 3), scores=tied), promised).right


def test_small_scores_tie_only_within_their_own_scale() -> None:
    small = [score / 1e6 for score in SCORES]
    assert not compare(ranked(items=swapped(ITEMS, 2, 3), scores=small), ranked(scores=small)).right


def test_places_after_the_tenth_do_not_count() -> None:
    assert compare(ranked(items=swapped(ITEMS, 10, 11)), PROMISED).right


def test_a_score_that_is_no_number_is_wrong() -> None:
    found = compare(ranked(scores=(float("nan"), *SCORES[1:])), PROMISED)
    assert (found.right, found.worst_score_difference) == (False, None)


def test_too_few_items_are_wrong() -> None:
    assert not compare(ranked(items=ITEMS[:9], scores=SCORES[:9]), PROMISED).right


def test_a_damaged_line_is_named(tmp_path: Any) -> None:
    good = {"user": "u", "history": ["a"], "steps_ago": [1], "items": ["a"], "scores": [1.0]}
    (tmp_path / "golden.jsonl").write_text(json.dumps(good) + "\n{}\n")
    with pytest.raises(CorruptArtifactError, match=r"golden.jsonl line 2: expected"):
        list(read_golden(tmp_path))


def test_a_golden_picture_is_asked_as_a_picture_and_answered_by_classes(tmp_path: Any) -> None:
    line = {"user": "p", "images": [[0, 255]], "items": ["Bag", "Coat"], "scores": [0.9, 0.1]}
    shopper = {"user": "u", "history": ["a"], "steps_ago": [1], "items": ["a"], "scores": [1.0]}
    (tmp_path / "golden.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(shopper)}\n")
    picture, asked = read_golden(tmp_path)
    assert (picture.inputs, picture.ranked) == ({"images": [[[0, 255]]]}, "classes")
    assert picture.answer == Ranked(items=("Bag", "Coat"), scores=(0.9, 0.1))
    assert (asked.inputs, asked.ranked) == ({"history": [["a"]], "steps_ago": [[1]]}, "items")


def test_a_golden_picture_that_is_no_picture_is_named(tmp_path: Any) -> None:
    line = {"user": "p", "images": [0, 255], "items": ["Bag"], "scores": [1.0]}
    (tmp_path / "golden.jsonl").write_text(json.dumps(line))
    with pytest.raises(CorruptArtifactError, match=r"golden.jsonl line 1: expected"):
        list(read_golden(tmp_path))


CHANCES = (0.7, 0.1, 0.1, 0.1)
TYPED = Ranked(items=ITEMS, scores=SCORES, next_types=CHANCES)


@pytest.mark.parametrize(
    ("served", "right"),
    (
        pytest.param(CHANCES, True, id="the same chances"),
        pytest.param((0.700004, *CHANCES[1:]), True, id="within the tolerance"),
        pytest.param((0.6, 0.2, 0.1, 0.1), False, id="another chance"),
        pytest.param((), False, id="none"),
        pytest.param((float("nan"), *CHANCES[1:]), False, id="no number"),
    ),
)
def test_promised_chances_of_the_next_type_must_be_served(served: Any, *, right: bool) -> None:
    answer = Ranked(items=ITEMS, scores=SCORES, next_types=served)
    assert compare(answer, TYPED).right is right


def test_chances_that_nobody_promised_do_no_harm() -> None:
    assert compare(TYPED, PROMISED).right


def test_a_golden_request_with_types_is_asked_by_its_own_signature(tmp_path) -> None:
    plain = {"user": "ann", "history": ["a"], "steps_ago": [1], "items": ["b"], "scores": [0.5]}
    typed = {**plain, "event_types": ["view"], "next_types": [0.25] * 4}
    text = "".join(json.dumps(line) + "\n" for line in (plain, typed))
    (tmp_path / "golden.jsonl").write_text(text)

    first, second = read_golden(tmp_path)

    assert (first.signature, second.signature) == ("serving_default", "next_event")
    assert set(first.inputs) == {"history", "steps_ago"}
    assert second.inputs["event_types"] == [["view"]]
    assert second.answer.next_types == (0.25,) * 4
