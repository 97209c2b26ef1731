"""`fit` on a GPU: the curve of the CPU, the same bits after a kill, and a model that comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tasks.models.transformer import Transformer
from tasks.training.device import device_name, training_device
from tasks.training.fit import Fit, FitSettings
from tests.unit.training.conftest import shop

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)
CURVE_TOLERANCE = 2e-3  # relative: float32 sums in another order, over four epochs
SETTINGS = FitSettings(
    max_epochs=4,
    patience=4,
    batch_windows=64,
    learning_rate=1e-2,
    negatives=8,
    weight_decay=0.01,
    max_length=16,
    seed=5,
    threads=1,
)


@pytest.fixture(autouse=True)
def deterministic() -> None:
    """Compute as `train_model` does; skip where there is no GPU."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: run in the torch-cuda image (`make images VARIANT=cuda`)")
    assert training_device() == CUDA
    torch.use_deterministic_algorithms(True)


def a_fit(device: torch.device, *, dropout: float, checkpoint_seconds: float = 30.0) -> Fit:
    torch.manual_seed(SETTINGS.seed)
    interactions = shop(users=400)
    model = Transformer(12, steps=6, width=64, layers=2, heads=2, dropout=dropout)
    select = interactions.examples(1)
    return Fit(
        model,
        interactions,
        select,
        SETTINGS,
        device=device,
        checkpoint_seconds=checkpoint_seconds,
    )


def quiet(_sentence: str, _fraction: float | None) -> None:
    """Say nothing."""


class Killed(RuntimeError):
    """Stands for SIGKILL: nothing of the process is left but its files."""


def kill_at(place: str):
    def say(sentence: str, _fraction: float | None) -> None:
        if sentence.startswith(place):
            raise Killed

    return say


def test_without_dropout_the_curve_on_cuda_is_the_cpus(tmp_path: Path) -> None:
    on_cpu = a_fit(CPU, dropout=0.0).run(tmp_path / "cpu", quiet)

    fit = a_fit(CUDA, dropout=0.0)
    on_cuda = fit.run(tmp_path / "cuda", quiet)

    losses = [(one.loss, other.loss) for one, other in zip(on_cpu, on_cuda, strict=True)]
    print(device_name(CUDA), losses)
    for one, other in losses:
        assert other == pytest.approx(one, rel=CURVE_TOLERANCE)
    assert on_cuda[-1].loss < 0.6 * on_cuda[0].loss
    assert {tensor.device for tensor in fit.model.state_dict().values()} == {CPU}
    items, ago = torch.tensor([[0, 3, 4]]), torch.tensor([[0, 1, 1]])
    assert fit.model(items, ago).shape == (1, 13)


def test_a_fit_killed_on_cuda_goes_on_to_the_very_same_weights(tmp_path: Path) -> None:
    whole = a_fit(CUDA, dropout=0.2)
    whole.run(tmp_path / "whole", quiet)
    with pytest.raises(Killed):
        a_fit(CUDA, dropout=0.2, checkpoint_seconds=0).run(
            tmp_path / "killed", kill_at("epoch 3, batch 2")
        )
    torch.cuda.manual_seed_all(999)  # a new process starts anywhere

    again = a_fit(CUDA, dropout=0.2)
    again.run(tmp_path / "killed", quiet)

    assert again.resumed_from == "epoch 2 and batch 2"
    assert again.curve == whole.curve
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_what_a_gpu_began_a_cpu_can_end(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        a_fit(CUDA, dropout=0.0, checkpoint_seconds=0).run(tmp_path, kill_at("epoch 2, batch 1"))
    undisturbed = a_fit(CPU, dropout=0.0).run(tmp_path / "undisturbed", quiet)

    again = a_fit(CPU, dropout=0.0)
    curve = again.run(tmp_path, quiet)

    assert again.resumed_from is not None
    assert again.resumed_from.startswith(
        "epoch 1 and batch 1 (WARNING: begun on another machine (device: cpu expected"
    )
    for one, other in zip(undisturbed, curve, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=CURVE_TOLERANCE)
