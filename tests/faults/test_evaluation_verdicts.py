"""What the evaluation gate says of an equal model and of a worse one, on users drawn again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tasks.contracts.gate_reports import GateReport
from tasks.contracts.stages import ArtifactKind, Stage
from tasks.gates.bounds import bounds_for
from tasks.gates.checks import Payload
from tasks.gates.run_gate import run_gate
from tests.faults.after import Tally
from tests.faults.form import Form
from tests.faults.line import Line, Release
from tests.faults.plants import WholeLoss
from tests.faults.shop import Shop

KIND = ArtifactKind
MARGIN = 0.005  # of the plan: what a candidate may lose in NDCG@10
pytestmark = pytest.mark.slow  # two trainings of the network, 400 gates


def bundled(line: Line, shop: Shop, name: str, recipe: str, seed: int) -> Release:
    release = line.request(name, shop, recipe, seed=seed, compression="none")
    stop = release.go_until(Stage.BUNDLE_MODEL)
    assert stop is None, stop
    return release


@pytest.fixture(scope="module")
def retrained(line: Line, shop: Shop) -> Release:
    """The same recipe on the same features with another seed, against the first."""
    first = bundled(line, shop, "seed-1", "blended_transformer", 1)
    asked = line.request("seed-2", shop, "blended_transformer", seed=2, compression="none")
    second = line.against(asked, first)
    second.go_until(Stage.EVALUATE_MODEL)
    assert KIND.EVALUATION in second.made
    return second


@pytest.fixture(scope="module")
def worse(line: Line, shop: Shop) -> Release:
    """A model that loses the margin, against the same model as it should be."""
    sound = bundled(line, shop, "sound-markov", "markov", 1)
    asked = line.request("worse-markov", shop, "markov", compression="none")
    release = line.against(asked, sound)
    assert release.go_until(Stage.TRAIN_MODEL) is None
    loss = WholeLoss(release.path(KIND.FEATURE_SET), release.path(KIND.TRAINED_MODEL))
    release.plant(KIND.TRAINED_MODEL, "whole", lambda folder: loss.write(folder, MARGIN))
    assert release.gate(KIND.TRAINED_MODEL) is None
    release.go_until(Stage.EVALUATE_MODEL)
    assert KIND.EVALUATION in release.made
    return release


def rows_of(release: Release) -> pd.DataFrame:
    rows: pd.DataFrame = pq.read_table(release.path(KIND.EVALUATION) / "rows.parquet").to_pandas()
    return rows


def verdict_on(rows: pd.DataFrame, release: Release, folder: Path) -> GateReport:
    """Return what the gate of this release says of these users."""
    folder.mkdir(exist_ok=True)
    rows.to_parquet(folder / "rows.parquet", index=False)
    shutil.copyfile(release.path(KIND.EVALUATION) / "summary.json", folder / "summary.json")
    return run_gate(
        KIND.EVALUATION,
        bounds_for(KIND.EVALUATION, release.pinned),
        Payload(path=folder, compared={}),
        artifact=release.made[KIND.EVALUATION],
        content="0" * 64,
    )


def passing(release: Release, form: Form, folder: Path) -> int:
    """Return how many bootstrap resamples of the users pass: one drawn twice is two users."""
    rows, draw, passed = rows_of(release), np.random.default_rng(11), 0
    for _ in range(form.resamples):
        drawn = rows.iloc[draw.integers(len(rows), size=len(rows))].reset_index(drop=True)
        drawn["user_id"] = [f"{user}#{place}" for place, user in enumerate(drawn["user_id"])]
        passed += verdict_on(drawn, release, folder).passed
    return passed


def difference(rows: pd.DataFrame) -> tuple[float, float]:
    """Return candidate minus champion: mean over users, standard error."""
    found = rows["ndcg_candidate"] - rows["ndcg_champion"]
    return float(found.mean()), float(found.std() / len(found) ** 0.5)


def test_an_equal_retrain_passes_in_at_least_19_of_20_resamples(
    retrained: Release, form: Form, tmp_path: Path, tally: Tally
) -> None:
    mean, error = difference(rows_of(retrained))
    passed = passing(retrained, form, tmp_path)
    tally.verdicts.append(
        f"another seed: {mean:+.4f} (standard error {error:.4f}), "
        f"{passed} of {form.resamples} resamples pass"
    )
    assert mean != 0, "the retrain is the champion itself"
    assert error <= MARGIN / 3.3
    assert passed >= 0.95 * form.resamples


def test_a_model_worse_by_the_margin_passes_in_at_most_1_of_20_resamples(
    worse: Release, form: Form, tmp_path: Path, tally: Tally
) -> None:
    mean, error = difference(rows_of(worse))
    passed = passing(worse, form, tmp_path)
    tally.verdicts.append(
        f"worse by the margin: {mean:+.4f} (standard error {error:.4f}), "
        f"{passed} of {form.resamples} resamples pass"
    )
    assert -1.05 * MARGIN < mean <= -MARGIN
    assert error <= MARGIN / 3.3  # else the planner would refuse, not the test
    assert passed <= 0.05 * form.resamples


def test_too_few_users_of_the_same_retrain_are_refused_by_the_planner(
    retrained: Release, tmp_path: Path, tally: Tally
) -> None:
    rows = rows_of(retrained)
    for users in (len(rows) // 2**halvings for halvings in range(12)):
        few = rows.sample(users, random_state=1).reset_index(drop=True)
        mean, error = difference(few)
        if error > 1.05 * MARGIN / 3.3 and mean - 1.645 * error < 0:
            break
    report = verdict_on(few, retrained, tmp_path)
    (check,) = [c for c in report.failures if c.name == "users enough for a verdict"]
    assert check.expected == "standard error at most 0.0015 (margin / 3.3)"
    assert f"with {len(few):,} users (" in check.where
    tally.verdicts.append(f"planner, {len(few)} users: {check.sentence}")
