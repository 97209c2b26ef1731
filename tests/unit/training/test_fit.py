"""Training learns, stops, and goes on after a kill as if nothing had happened."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.contracts.errors import BadRequestError
from tasks.contracts.stage_io import CHECKPOINT_SECONDS
from tasks.models.gru import Gru
from tasks.models.interactions import Interactions
from tasks.models.sequence_model import SequenceModel
from tasks.models.transformer import Transformer
from tasks.training.fit import Fit, FitSettings
from tests.unit.training.conftest import shop

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


NETWORKS = ("gru", "pre_norm", "ligr", "hstu")


def a_network(kind: str, dropout: float) -> SequenceModel:
    """Return a GRU of two layers, which has dropout between them, or a Transformer of such a block."""
    if kind == "gru":
        return Gru(12, steps=6, width=16, hidden=8, layers=2, dropout=dropout)
    return Transformer(12, steps=6, width=16, layers=1, heads=2, dropout=dropout, block=kind)


def a_fit(
    interactions: Interactions,
    settings: FitSettings = SETTINGS,
    kind: type[Fit] = Fit,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    network: str = "pre_norm",
    dropout: float = 0.1,
) -> Fit:
    torch.manual_seed(settings.seed)
    model = a_network(network, dropout)
    select = interactions.examples(1)
    return kind(model, interactions, select, settings, checkpoint_seconds=checkpoint_seconds)


def quiet(_sentence: str, _fraction: float | None) -> None:
    """Say nothing."""


def test_the_network_learns_the_certain_next_basket(small_shop, tmp_path):
    fit = a_fit(small_shop, replace(SETTINGS, max_epochs=12, patience=12))

    curve = fit.run(tmp_path, quiet)

    assert curve[-1].loss < curve[0].loss / 2
    assert max(point.select_ndcg10 for point in curve) > 0.9


@pytest.mark.parametrize(
    "changes",
    ({"loss": "softmax"}, {"loss": "gbce"}, {"loss": "softmax", "bf16": True}),
    ids=["softmax", "gbce", "bf16"],
)
def test_it_learns_by_every_loss_and_in_bfloat16(small_shop, tmp_path, changes):
    fit = a_fit(small_shop, replace(SETTINGS, max_epochs=12, patience=12, **changes))

    curve = fit.run(tmp_path, quiet)

    assert max(point.select_ndcg10 for point in curve) > 0.9
    assert {tensor.dtype for tensor in fit.model.parameters()} == {torch.float32}


def test_bfloat16_is_used_where_it_is_asked_for(small_shop, tmp_path):
    curves = [
        a_fit(small_shop, replace(SETTINGS, bf16=bf16, max_epochs=1)).run(
            tmp_path / str(bf16), quiet
        )
        for bf16 in (False, True)
    ]

    assert curves[0][0].loss != curves[1][0].loss
    assert curves[0][0].loss == pytest.approx(curves[1][0].loss, rel=0.05)


class Killed(RuntimeError):
    """Stands for SIGKILL: nothing of the process is left but its files."""


def test_a_cosine_warms_up_and_falls_to_nearly_nothing():
    settings = replace(SETTINGS, learning_rate=1.0, max_epochs=90, schedule="cosine")

    rates = [settings.rate_of(epoch) for epoch in range(1, 91)]

    assert rates[0] == pytest.approx(1 / 3)
    assert rates[2] == pytest.approx(np.cos(np.pi / 90) ** 2)  # 0.5 (1 + cos 2x) = cos^2 x
    assert rates[45] == pytest.approx(0.5)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] == 0.02
    assert {replace(settings, schedule="constant").rate_of(epoch) for epoch in (1, 45, 90)} == {1.0}


@pytest.mark.parametrize("schedule", ("constant", "cosine"))
def test_a_killed_fit_goes_on_to_the_very_same_weights(small_shop, tmp_path: Path, schedule):
    settings = replace(SETTINGS, schedule=schedule)
    whole = a_fit(small_shop, settings)
    whole.run(tmp_path / "whole", quiet)

    def kill_in_third_epoch(sentence: str, _fraction: float | None) -> None:
        if sentence.startswith("epoch 3, batch 2"):
            raise Killed

    with pytest.raises(Killed):
        a_fit(small_shop, settings).run(tmp_path / "killed", kill_in_third_epoch)
    again = a_fit(small_shop, settings)
    again.run(tmp_path / "killed", quiet)

    assert again.curve == whole.curve
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    rates = {group["lr"] for group in again.optimizer.param_groups}
    assert rates == {settings.rate_of(settings.max_epochs)}


class NoisyFit(Fit):
    """Draws from every global generator in each batch, as a model or a library might."""

    def _loss(self, rows: np.ndarray, generator: torch.Generator) -> torch.Tensor:
        noise = random.random() + np.random.random() + torch.rand(1).item()  # noqa: NPY002
        return super()._loss(rows, generator) * (1 + noise)


def killed_at(place: str):
    def say(sentence: str, _fraction: float | None) -> None:
        if sentence.startswith(place):
            raise Killed

    return say


@pytest.mark.parametrize(
    ("network", "length_buckets"), (*((name, 1) for name in NETWORKS), ("pre_norm", 2))
)
@pytest.mark.parametrize("batch", range(1, 4))
def test_killed_at_any_batch_of_an_epoch_all_random_states_go_on_as_they_were(
    small_shop, tmp_path: Path, batch: int, network: str, length_buckets: int
) -> None:
    settings = replace(SETTINGS, length_buckets=length_buckets)
    whole = a_fit(small_shop, settings, kind=NoisyFit, network=network)
    whole.run(tmp_path / "whole", quiet)
    with pytest.raises(Killed):  # a checkpoint after every batch
        a_fit(small_shop, settings, kind=NoisyFit, checkpoint_seconds=0, network=network).run(
            tmp_path / "killed", killed_at(f"epoch 2, batch {batch}")
        )
    for generator in (random.seed, np.random.seed, torch.manual_seed):
        generator(999)  # a new process starts anywhere

    again = a_fit(small_shop, settings, kind=NoisyFit, network=network)
    again.run(tmp_path / "killed", quiet)

    assert again.resumed_from == f"epoch 1 and batch {batch}"
    assert again.curve == whole.curve
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_a_resumed_fit_trains_only_the_batches_after_its_checkpoint(small_shop, tmp_path) -> None:
    with pytest.raises(Killed):
        a_fit(small_shop, checkpoint_seconds=0).run(tmp_path, killed_at("epoch 3, batch 2"))
    said = []

    again = a_fit(small_shop)
    again.run(tmp_path, lambda sentence, _fraction: said.append(sentence))

    assert said[0] == "goes on after epoch 2 and batch 2, from a checkpoint"
    assert said[1].startswith("epoch 3, batch 3 of ")


def test_between_checkpoints_no_more_than_an_interval_is_lost(small_shop, tmp_path) -> None:
    clock = iter(float(second) for second in range(10_000))  # each look at it is a second later
    settings = replace(SETTINGS, batch_windows=2)
    torch.manual_seed(5)
    model = Transformer(12, steps=6, width=16, layers=1, heads=2, dropout=0.1)
    fit = Fit(
        model,
        small_shop,
        small_shop.examples(1),
        settings,
        checkpoint_seconds=5,
        monotonic=lambda: next(clock),
    )
    with pytest.raises(Killed):
        fit.run(tmp_path, killed_at("epoch 2, batch 11"))

    again = a_fit(small_shop, settings)
    again._resume(tmp_path, quiet)

    assert again.epoch is not None
    assert again.epoch.number == 2
    assert 11 - 5 <= again.epoch.batches_done < 11


def test_a_fit_without_a_checkpoint_says_that_it_started_anew(small_shop, tmp_path) -> None:
    fit = a_fit(small_shop, replace(SETTINGS, max_epochs=1))
    fit.run(tmp_path, quiet)
    assert fit.resumed_from is None


def test_a_checkpoint_of_another_network_is_refused_with_a_sentence(small_shop, tmp_path) -> None:
    a_fit(small_shop, replace(SETTINGS, max_epochs=1)).run(tmp_path, quiet)
    wider = Transformer(12, steps=6, width=24, layers=1, heads=2, dropout=0.1)
    fit = Fit(wider, small_shop, small_shop.examples(1), SETTINGS)

    said = r"max_epochs: 4 expected, 1 found; network items: Embedding .*'embedding_dim': 24"
    with pytest.raises(BadRequestError, match=said):
        fit.run(tmp_path, quiet)


@pytest.mark.parametrize(
    ("asked", "differs"),
    (
        ({"settings": replace(SETTINGS, seed=6)}, "1: seed: 6 expected, 5 found"),
        ({"settings": replace(SETTINGS, loss="gbce")}, "1: loss: gbce expected, sampled_softmax"),
        ({"settings": replace(SETTINGS, learning_rate=1e-3)}, "1: learning_rate: 0.001 expected"),
        ({"dropout": 0.2}, "2: network dropout: Dropout {'p': 0.2"),
        ({"network": "ligr"}, "network blocks.0: GatedBlock {'heads': 2} expected, Block"),
        ({"interactions": shop(users=25)}, "1: data: "),
    ),
    ids=("seed", "loss", "rate", "dropout", "blocks", "data"),
)
def test_a_checkpoint_of_another_fit_is_refused_and_left_as_it_was(
    small_shop, tmp_path, asked, differs
) -> None:
    with pytest.raises(Killed):
        a_fit(small_shop, checkpoint_seconds=0).run(tmp_path, killed_at("epoch 1, batch 2"))

    with pytest.raises(BadRequestError, match="differs in .*; next step: ") as refused:
        a_fit(**{"interactions": small_shop, **asked}).run(tmp_path, quiet)

    assert differs in str(refused.value)
    again = a_fit(small_shop)
    again._resume(tmp_path, quiet)
    assert again.resumed_from == "epoch 0 and batch 2"


def test_on_another_cpu_type_a_fit_goes_on_and_says_that_its_bits_are_not_promised(
    small_shop, tmp_path, monkeypatch
) -> None:
    with pytest.raises(Killed):
        a_fit(small_shop, checkpoint_seconds=0).run(tmp_path, killed_at("epoch 1, batch 2"))
    monkeypatch.setattr("tasks.training.fit_identity.cpu_name", lambda: "EPYC, AVX2")
    said: list[tuple[str, float | None]] = []

    again = a_fit(small_shop)
    with pytest.raises(Killed):
        again.run(
            tmp_path, lambda *sentence: said.append(sentence) or killed_at("epoch 1")(*sentence)
        )

    assert again.resumed_from is not None
    assert "WARNING: begun on another machine (cpu: EPYC, AVX2 expected" in again.resumed_from
    assert said[0] == (f"goes on after {again.resumed_from}, from a checkpoint", None)


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
