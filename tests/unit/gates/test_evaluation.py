from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tasks.contracts.stages import ArtifactKind
from tasks.gates.bounds import EvaluationBounds
from tasks.gates.evaluation import Rows

KIND = ArtifactKind.EVALUATION
BOUNDS = EvaluationBounds(
    recipe="blended_transformer",
    has_champion=True,
    margin=0.005,
    slice_margin=0.02,
    alpha=0.05,
    max_standard_error_share=1 / 3.3,
)
MEANS = {"champion": 0.10, "popularity": 0.05, "personal_frequency": 0.07, "markov": 0.08}


def rows(users: int = 3000, noise: float = 0.05, lead: float = 0.02) -> pd.DataFrame:
    """NDCG of a candidate that leads the champion by `lead`; noise is per user and model."""
    draw = np.random.default_rng(1)
    base = draw.uniform(-0.04, 0.04, users)
    frame = pd.DataFrame(
        {
            "user_id": [f"u{n:05}" for n in range(users)],
            "slice": np.array(["head", "mid", "tail"])[np.arange(users) % 3],
            "examples": 1,
        }
    )
    for model, mean in {"candidate": MEANS["champion"] + lead, **MEANS}.items():
        moved = draw.normal(0, noise, users)
        frame[f"ndcg_{model}"] = np.clip(0.3 + mean + base + moved - moved.mean(), 0, 1)
        frame[f"hit_{model}"] = (frame[f"ndcg_{model}"] > 0.3).astype(float)
    return frame


@pytest.fixture
def verdict(judge, tmp_path):
    def run(
        frame: pd.DataFrame,
        bounds: EvaluationBounds = BOUNDS,
        left_out: dict[str, str] | None = None,
    ):
        frame.to_parquet(tmp_path / "rows.parquet", index=False)
        summary = {"format": "evaluation_summary/1", "baselines_left_out": left_out or {}}
        (tmp_path / "summary.json").write_text(json.dumps(summary))
        return judge(KIND, bounds)

    return run


def names(report):
    return {check.name for check in report.failures}


def test_a_candidate_better_than_all_passes_and_shows_the_comparison(verdict) -> None:
    report = verdict(rows())
    assert report.passed, report.sentence
    assert [figure.title for figure in report.figures] == [
        "Candidate minus champion, NDCG@10",
        "NDCG@10 per model",
    ]
    assert report.key_figures["users"] == "3,000"


def test_a_candidate_equal_to_the_champion_passes(verdict) -> None:
    frame = rows(noise=0.02, lead=0.0)
    report = verdict(frame)
    assert report.passed, report.sentence


def test_a_candidate_worse_by_twice_the_margin_is_refused(verdict) -> None:
    report = verdict(rows(noise=0.02, lead=-0.01))
    assert "not worse than the champion" in names(report)
    (check,) = [c for c in report.failures if c.name == "not worse than the champion"]
    assert check.expected == "lower bound of the difference above -0.005"
    assert check.where == "(NDCG@10 0.3896 against 0.3996, difference -0.0100)"


def test_a_candidate_worse_by_twice_the_margin_on_tail_items_only_is_refused(verdict) -> None:
    frame = rows(noise=0.02, lead=0.004)
    tail = frame["slice"] == "tail"
    frame.loc[tail, "ndcg_candidate"] -= 0.004 + 2 * BOUNDS.margin
    report = verdict(frame)
    assert names(report) == {"tail items not proven worse"}, report.sentence


def test_a_candidate_worse_by_the_slice_margin_on_tail_items_is_refused(verdict) -> None:
    frame = rows(noise=0.02, lead=0.03)
    frame.loc[frame["slice"] == "tail", "ndcg_candidate"] -= 0.03 + BOUNDS.slice_margin
    assert {"tail items not worse", "tail items not proven worse"} <= names(verdict(frame))


def test_the_champion_again_passes_and_is_named_as_such(verdict) -> None:
    frame = rows()
    report = verdict(frame.assign(ndcg_candidate=frame["ndcg_champion"]))
    assert report.passed, report.sentence
    assert report.note == "the candidate answers exactly as the champion does"


def test_too_few_users_for_a_verdict_are_refused_with_the_number_needed(verdict) -> None:
    report = verdict(rows(users=120, noise=0.05, lead=0.0))
    (check,) = [c for c in report.failures if c.name == "users enough for a verdict"]
    assert check.expected == "standard error at most 0.0015 (margin / 3.3)"
    assert "with 120 users (" in check.where
    assert "users would do)" in check.where


def test_a_candidate_better_beyond_doubt_needs_no_more_users(verdict) -> None:
    report = verdict(rows(users=120, noise=0.05, lead=0.1))
    assert report.passed, report.sentence


def test_a_candidate_that_does_not_beat_every_baseline_is_refused(verdict) -> None:
    frame = rows()
    frame["ndcg_markov"] = frame["ndcg_candidate"].to_numpy()[::-1]
    report = verdict(frame)
    assert names(report) == {"better than markov"}
    assert report.failures[0].expected == "p at most 0.05 (Holm over 3)"


@pytest.mark.parametrize(
    ("recipe", "baselines"),
    (
        ("blended_transformer", {"popularity", "personal_frequency", "markov"}),
        ("markov", {"popularity", "personal_frequency"}),
        ("popularity", set()),
    ),
)
def test_a_candidate_must_beat_every_baseline_but_itself(verdict, recipe, baselines) -> None:
    report = verdict(rows(), replace(BOUNDS, recipe=recipe))
    beaten = {check.name for check in report.checks if check.name.startswith("better than")}
    assert beaten == {f"better than {name}" for name in baselines}


def with_baseline(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Add a baseline that is as good as the candidate."""
    mirrored = {f"{m}_{name}": frame[f"{m}_candidate"].to_numpy()[::-1] for m in ("ndcg", "hit")}
    return frame.assign(**mirrored)


@pytest.mark.parametrize("name", ("first_order_markov", "item_knn", "ease", "ials"))
def test_where_items_are_taken_again_other_baselines_only_warn(verdict, name) -> None:
    report = verdict(with_baseline(rows(), name))
    assert report.passed, report.sentence
    (warned,) = report.warnings
    assert warned.name == f"better than {name}"
    assert warned.expected == "p at most 0.05 (Holm over 1)"
    demanded = next(check for check in report.checks if check.name == "better than markov")
    assert demanded.expected == "p at most 0.05 (Holm over 3)"
    models = report.figures[1]
    assert models.title == "NDCG@10 per model"
    assert name in models.labels


@pytest.mark.parametrize(
    ("name", "refused"),
    (("item_knn", True), ("ease", True), ("ials", True), ("first_order_markov", False)),
)
def test_where_nothing_is_taken_twice_who_took_both_has_to_be_beaten(
    verdict, name, refused
) -> None:
    once = rows().drop(columns=["ndcg_personal_frequency", "hit_personal_frequency"])
    report = verdict(with_baseline(once, name))
    assert names(report) == ({f"better than {name}"} if refused else set())


def test_the_report_says_which_baselines_were_left_out_and_why(verdict) -> None:
    report = verdict(rows(), left_out={"ease": "25,083 items", "ials": "25,083 items"})
    assert report.key_figures["baselines left out"] == "ease, ials (25,083 items)"
    assert "baselines left out" not in verdict(rows()).key_figures


def first_release(frame: pd.DataFrame) -> pd.DataFrame:
    same = {"ndcg_candidate": frame["ndcg_popularity"], "hit_candidate": frame["hit_popularity"]}
    return frame.assign(**same, ndcg_champion=None, hit_champion=None)


def test_a_first_release_of_popularity_passes_without_an_opponent(verdict) -> None:
    bounds = replace(BOUNDS, recipe="popularity", has_champion=False)
    report = verdict(first_release(rows()), bounds)
    assert report.passed, report.sentence
    assert "nothing to beat" in report.note


def test_popularity_that_gets_nothing_right_is_still_the_first_opponent(verdict) -> None:
    frame = first_release(rows()).assign(ndcg_candidate=0.0)
    report = verdict(frame, replace(BOUNDS, recipe="popularity", has_champion=False))
    assert report.passed, report.sentence
    assert {check.name for check in report.warnings} == {"candidate answers"}


def test_any_other_model_that_gets_nothing_right_is_refused(verdict) -> None:
    frame = first_release(rows()).assign(ndcg_candidate=0.0)
    report = verdict(frame, replace(BOUNDS, has_champion=False))
    assert "candidate answers" in names(report)


def test_a_champion_that_was_not_asked_is_refused(verdict) -> None:
    report = verdict(rows().assign(ndcg_champion=None))
    assert {"ndcg_champion", "not worse than the champion"} <= names(report)


def test_scores_that_are_no_scores_are_refused(verdict) -> None:
    frame = rows()
    frame.loc[0, "ndcg_candidate"] = 1.7
    frame.loc[1, "hit_markov"] = None
    report = verdict(frame)
    assert names(report) == {"ndcg_candidate", "hit_markov"}
    assert "ndcg_candidate: min 0 and max 1.0 expected, 1.7 found in 1 of 3,000 users" in (
        report.sentence
    )


def test_a_user_counted_twice_is_refused(verdict) -> None:
    frame = rows()
    frame.loc[1, "user_id"] = "u00000"
    assert names(verdict(frame)) == {"user_id"}


def test_a_baseline_that_was_left_out_is_refused(verdict) -> None:
    report = verdict(rows().drop(columns=["ndcg_markov", "hit_markov"]))
    assert "ndcg_markov: a value expected, no such column found" in report.sentence


def test_a_slice_with_too_few_users_only_warns(verdict) -> None:
    frame = rows(noise=0.02, lead=0.0)
    few = frame.index[frame["slice"] == "tail"][6:]
    frame.loc[few, "slice"] = "mid"
    frame.loc[frame["slice"] == "tail", "ndcg_candidate"] -= [0.03, -0.03, 0.05, -0.01, 0.06, 0.0]
    report = verdict(frame)
    assert report.passed, report.sentence
    assert {check.name for check in report.warnings} == {"tail items not worse"}


def share_that_passes(true_difference: float) -> float:
    """Share of 500 evaluations that pass, at the largest standard error that is admitted."""
    users, draw = 900, np.random.default_rng(7)
    spread = BOUNDS.margin / 3.3 * np.sqrt(users)
    frame = rows(users=users)
    passed = 0
    for _ in range(500):
        difference = draw.normal(true_difference, spread, users)
        compared = Rows(
            frame=frame.assign(ndcg_candidate=frame["ndcg_champion"] + difference), baselines=()
        )
        found = compared.versus("champion", BOUNDS.alpha, compared.everybody())
        passed += found is not None and found.lower > -BOUNDS.margin
    return passed / 500


def test_an_equal_model_passes_nineteen_times_in_twenty_at_the_planners_limit() -> None:
    assert share_that_passes(0.0) == pytest.approx(0.95, abs=0.02)


def test_a_model_worse_by_the_margin_passes_once_in_twenty() -> None:
    assert share_that_passes(-BOUNDS.margin) == pytest.approx(0.05, abs=0.02)
