"""Class by class a candidate is compared on what either model tells of the class, not on its pictures alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.contracts.stages import ArtifactKind
from tasks.gates.picture_bounds import ClassifierEvaluationBounds

CLASSES = ("bag", "boot", "shirt")
EACH = 300
TARGET = np.repeat(CLASSES, EACH)
BOUNDS = ClassifierEvaluationBounds(
    recipe="residual_picture_net", has_champion=True, margin=0.005, slice_margin=0.02, alpha=0.05
)


def said(right: float) -> Any:
    """Return what a model says of all pictures, so many of them rightly."""
    draw = np.random.default_rng(round(right * 100))
    return np.where(draw.random(len(TARGET)) < right, TARGET, np.roll(TARGET, EACH))


@pytest.fixture
def refusals(judge, tmp_path):
    def run(candidate: Any, champion: Any) -> list[str]:
        frame = pd.DataFrame(
            {
                "picture": [f"picture-{row:03}" for row in range(len(TARGET))],
                "class": TARGET,
                "answer": candidate,
                "answer_champion": champion,
                "right_candidate": (candidate == TARGET).astype(float),
                "right_champion": (champion == TARGET).astype(float),
                "right_majority_class": (TARGET == "bag").astype(float),
                "right_class_means": (said(0.4) == TARGET).astype(float),
            }
        )
        frame.to_parquet(tmp_path / "rows.parquet", index=False)
        return [check.name for check in judge(ArtifactKind.EVALUATION, BOUNDS).failures]

    return run


def test_a_champion_that_answers_one_class_to_everything_is_no_better_at_that_class(refusals):
    assert refusals(said(0.9), np.full(len(TARGET), "bag")) == []


def test_a_candidate_that_leaves_one_class_to_another_is_refused_by_its_name(refusals):
    candidate = said(0.99)
    candidate[TARGET == "shirt"] = "boot"

    assert refusals(candidate, said(0.8)) == [
        "not worse than the champion",
        "boot not proven worse",
        "shirt not proven worse",
    ]


def test_a_candidate_as_good_as_the_champion_loses_no_class(refusals):
    assert refusals(said(0.9), said(0.9)) == []
