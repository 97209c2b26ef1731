"""Training learns, stops, and goes on after a kill as if nothing had happened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tasks.models.interactions import Interactions
from tasks.models.transformer import Transformer
from tasks.training.fit import Fit, FitSettings

SETTINGS = FitSettings(
    max_epochs=4,
    patience=4,
    batch_windows=16,
    learning_rate=1e-2,
    negatives=8,
    weight_decay=0.01,
    max_length=16,
    seed=5,
    threads=1,
)


def a_fit(interactions: Interactions, settings: FitSettings = SETTINGS) -> Fit:
    torch.manual_seed(settings.seed)
    model = Transformer(12, steps=6, width=16, layers=1, heads=2, dropout=0.1)
    return Fit(model, interactions, interactions.examples(1), settings)


def quiet(_sentence: str, _fraction: float | None) -> None:
    """Say nothing."""


def test_the_network_learns_the_certain_next_basket(small_shop, tmp_path):
    fit = a_fit(small_shop, replace(SETTINGS, max_epochs=12, patience=12))

    curve = fit.run(tmp_path, quiet)

    assert curve[-1].loss < curve[0].loss / 2
    assert max(point.select_ndcg10 for point in curve) > 0.9


class Killed(RuntimeError):
    """Stands for SIGKILL: nothing of the process is left but its files."""


def test_a_killed_fit_goes_on_to_the_very_same_weights(small_shop, tmp_path: Path):
    whole = a_fit(small_shop)
    whole.run(tmp_path / "whole", quiet)

    def kill_in_third_epoch(sentence: str, _fraction: float | None) -> None:
        if sentence.startswith("epoch 3, batch 2"):
            raise Killed

    with pytest.raises(Killed):
        a_fit(small_shop).run(tmp_path / "killed", kill_in_third_epoch)
    again = a_fit(small_shop)
    again.run(tmp_path / "killed", quiet)

    assert again.curve == whole.curve
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_the_best_epoch_by_the_select_period_is_kept(small_shop, tmp_path, monkeypatch):
    fit = a_fit(small_shop, replace(SETTINGS, patience=2))
    scores = iter([0.2, 0.5, 0.4, 0.3])
    kept = []

    def scored() -> float:
        kept.append({k: v.clone() for k, v in fit.model.state_dict().items()})
        return next(scores)

    monkeypatch.setattr(fit, "_select_score", scored)
    curve = fit.run(tmp_path, quiet)

    assert [point.select_ndcg10 for point in curve] == [0.2, 0.5, 0.4, 0.3]
    for name, tensor in fit.model.state_dict().items():
        assert torch.equal(tensor, kept[1][name]), name


def test_training_stops_when_patience_is_over(small_shop, tmp_path, monkeypatch):
    fit = a_fit(small_shop, replace(SETTINGS, max_epochs=9, patience=2))
    scores = iter([0.5, 0.4, 0.3, 0.9])
    monkeypatch.setattr(fit, "_select_score", lambda: next(scores))

    assert len(fit.run(tmp_path, quiet)) == 3
