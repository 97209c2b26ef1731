"""The parity certificate: which lists agree, which are ties, which are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.bundling.golden import Answers, Golden, Requests
from tasks.bundling.parity import ServedInputs, compare, together

LENGTH = 12


def answers(items: list[int], scores: list[float]) -> Answers:
    rest = LENGTH - len(items)
    return Answers(
        items=np.asarray([[*items, *range(50, 50 + rest)]]),
        scores=np.asarray([[*scores, *np.linspace(-1, -2, rest)]], np.float32),
    )


TORCH = answers([1, 2, 3], [0.9, 0.5, 0.5])


@pytest.mark.parametrize(
    ("served", "agrees"),
    (
        pytest.param(answers([1, 2, 3], [0.9, 0.5, 0.5]), True, id="the same list"),
        pytest.param(answers([1, 3, 2], [0.9, 0.5, 0.5]), True, id="a tie in the other order"),
        pytest.param(answers([2, 1, 3], [0.9, 0.5, 0.5]), False, id="another order is no tie"),
        pytest.param(answers([1, 2, 9], [0.9, 0.5, 0.5]), False, id="an item torch scores lower"),
        pytest.param(answers([1, 2, 3], [0.9, 0.5, np.nan]), False, id="a score that is no number"),
    ),
)
def test_a_list_agrees_when_only_ties_differ(served: Answers, *, agrees: bool) -> None:
    assert compare(served, TORCH).same.tolist() == [agrees]


def test_a_tie_that_reaches_beyond_torchs_list_is_a_tie() -> None:
    zeros = np.zeros((1, LENGTH), np.float32)
    torch = Answers(items=np.arange(LENGTH)[None], scores=zeros)
    served = Answers(items=np.arange(100, 100 + LENGTH)[None], scores=zeros)
    assert compare(served, torch).same.all()


def test_small_scores_need_closer_ties() -> None:
    # 4e-6 apart is a tie between scores near 1, but not where the best score is 0.01.
    near_one = answers([1, 2], [1.0, 1.0 - 4e-6])
    assert compare(answers([2, 1], [1.0, 1.0 - 4e-6]), near_one).same.all()
    small = np.asarray([[0.01, 0.01 - 4e-6, *np.zeros(LENGTH - 2)]], np.float32)
    torch = Answers(items=np.arange(LENGTH)[None], scores=small)
    swapped = Answers(items=np.asarray([[1, 0, *range(2, LENGTH)]]), scores=small)
    assert not compare(swapped, torch).same.any()


def test_the_worst_difference_is_over_all_places_and_ways_of_asking() -> None:
    one = compare(answers([1, 2, 3], [0.9, 0.5, 0.75]), TORCH)
    both = together(one, compare(TORCH, TORCH))
    assert both.worst[0] == pytest.approx(0.25)


def test_batches_are_padded_on_the_right_and_single_requests_not_at_all() -> None:
    history = np.asarray([["", "a", "b"], ["c", "d", "e"], ["", "", ""]], dtype=object)
    inputs = ServedInputs(history=history, steps_ago=np.asarray([[0, 2, 1], [3, 2, 1], [0, 0, 0]]))
    batch = inputs.batch(slice(0, 3))
    assert batch["history"].tolist() == [["a", "b", ""], ["c", "d", "e"], ["", "", ""]]
    assert batch["steps_ago"].tolist() == [[2, 1, 0], [3, 2, 1], [0, 0, 0]]
    assert inputs.one(0)["history"].tolist() == [["a", "b"]]
    assert inputs.one(2)["history"].tolist() == [[""]]


def test_golden_requests_survive_writing_and_reading(tmp_path) -> None:  # type: ignore[no-untyped-def]
    requests = Requests(
        items=np.asarray([[0, 3]]),
        steps_ago=np.asarray([[0, 1]]),
        user=np.asarray(["u"]),
        target=np.asarray(["tail"]),
        history=np.asarray(["short"]),
    )
    written = Golden(requests=requests, answers={"model": TORCH})
    written.save(tmp_path / "golden.npz")
    read = Golden.load(tmp_path / "golden.npz")
    assert read.requests.real.all()
    np.testing.assert_array_equal(read.answers["model"].scores, TORCH.scores)
    assert read.requests.target.tolist() == ["tail"]
