from __future__ import annotations

import json
from typing import Any

import pytest

from tasks.contracts.errors import BadRequestError
from tasks.rollout.comparison import (
    MAX_ROWS,
    SAMPLE,
    Comparison,
    Ranking,
    Sample,
    ShadowReport,
    rankings_in,
    report_text,
)

AB = Ranking(("a", "b"), (0.9, 0.1))


@pytest.mark.parametrize(
    ("body", "expected"),
    (
        pytest.param(
            {"outputs": {"items": [["a", "b"]], "scores": [[0.9, 0.1]]}}, [AB], id="by column"
        ),
        pytest.param(
            {"predictions": [{"items": ["a", "b"], "scores": [0.9, 0.1]}]}, [AB], id="by row"
        ),
        pytest.param(
            {"outputs": {"items": [[1, 2]]}}, [Ranking(("1", "2"), ())], id="without scores"
        ),
        pytest.param(
            {"outputs": {"classes": [["a", "b"]], "scores": [[0.9, 0.1]]}}, [AB], id="classes"
        ),
        pytest.param(
            {"predictions": [{"classes": ["a", "b"], "scores": [0.9, 0.1]}]},
            [AB],
            id="classes by row",
        ),
        pytest.param({"outputs": [0.3, 0.7]}, [], id="bare scores rank nothing"),
        pytest.param({"error": "x"}, [], id="a refusal"),
        pytest.param([1, 2], [], id="no object"),
        pytest.param(
            {"outputs": {"items": [["a"], ["b"]], "scores": [[1.0]]}}, [], id="torn columns"
        ),
    ),
)
def test_rankings_in_an_answer(body: Any, expected: list[Ranking]) -> None:
    assert rankings_in(body) == expected


def test_a_request_for_many_users_counts_for_a_few() -> None:
    body = {"outputs": {"items": [["a"]] * 100, "scores": [[1.0]] * 100}}
    assert len(rankings_in(body)) == MAX_ROWS


def test_a_report_by_hand() -> None:
    comparison = Comparison(model="shop", candidate=2, stable=1, since="2026-11-26T00:00:00Z")
    comparison.add(AB, AB)
    comparison.add(Ranking(("b", "c"), (0.6, 0.5)), AB)
    report = ShadowReport.parse(report_text(comparison, {"queue": 3}), "here")
    assert (report.compared, report.equal, dict(report.dropped)) == (2, 1, {"queue": 3})
    # Depth 1: 1 and 0; depth 5 and 10 see both items: 1 and 1/2.
    assert report.overlap == {"1": 0.5, "5": 0.75, "10": 0.75}
    assert list(report.overlap_counts) == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    # RBO of the second: A_1 = 0, A_2 = 1/2: .81/2 + .1/.9 * .81/2 = .45; the mean with 1 is .725
    assert report.rbo == pytest.approx(0.725)
    # Items that both rank: a and b of the first (0, 0), b of the second (.6 - .1 = .5).
    assert report.score_differences["0.5"] == 0.0
    assert report.score_differences["0.99"] == pytest.approx(0.5, abs=0.02)


def test_a_report_without_scores_has_no_stability_index() -> None:
    comparison = Comparison(model="shop", candidate=2, stable=1, since="2026-11-26T00:00:00Z")
    comparison.add(Ranking(("a",), ()), Ranking(("a",), ()))
    record = json.loads(report_text(comparison, {}))
    assert record["score_stability_index"] is None
    assert record["score_differences"] == {}


def test_a_torn_report_is_refused() -> None:
    with pytest.raises(BadRequestError, match="complete shadow_report/1"):
        ShadowReport.parse('{"format": "shadow_report/1"}', "here")


def test_a_sample_keeps_at_most_so_many_and_early_and_late_ones_alike() -> None:
    sample = Sample()
    for number in range(20 * SAMPLE):
        sample.add(float(number))
    assert (len(sample.values), sample.seen) == (SAMPLE, 20 * SAMPLE)
    late = sum(value >= 10 * SAMPLE for value in sample.values)
    assert 0.45 * SAMPLE < late < 0.55 * SAMPLE  # half, with standard deviation 35
