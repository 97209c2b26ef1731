"""A Keras classifier goes on after a kill as if nothing had happened, and never from another fit's checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.contracts.columns import Period
from tasks.contracts.errors import BadRequestError
from tasks.models.keras.two_convolutions import weights_of
from tasks.models.pictures import Pictures
from tasks.training.keras_fit import KerasFitSettings, fit_keras

SIDE = 12
SETTINGS = KerasFitSettings(epochs=3, batch=16, learning_rate=1e-3)


class KilledError(Exception):
    """Stands for SIGKILL: nothing of the process is left but its files."""


def noise(seed: int = 1) -> Pictures:
    generator = np.random.default_rng(seed)
    return Pictures(
        images=generator.integers(0, 256, (64, SIDE, SIDE)).astype(np.uint8),
        labels=np.arange(64, dtype=np.int64) % 2,
        period=np.where(np.arange(64) < 48, Period.TRAIN, Period.SELECT).astype(np.int8),
        class_names=("even", "odd"),
    )


def quiet(_sentence: str, _share: float | None) -> None:
    """Say nothing."""


def kill_after(epoch: int):
    def say(sentence: str, _share: float | None) -> None:
        if sentence.startswith(f"epoch {epoch}:"):
            raise KilledError

    return say


@pytest.mark.parametrize("epoch", (1, 2))
def test_a_killed_fit_ends_with_the_same_weights(tmp_path: Path, epoch: int) -> None:
    whole, whole_curve, anew = fit_keras(noise(), SETTINGS, 5, tmp_path / "whole", quiet)
    with pytest.raises(KilledError):
        fit_keras(noise(), SETTINGS, 5, tmp_path / "killed", kill_after(epoch))
    said: list[str] = []

    again, curve, resumed = fit_keras(
        noise(), SETTINGS, 5, tmp_path / "killed", lambda sentence, _: said.append(sentence)
    )

    assert (anew, resumed) == (None, f"epoch {epoch}")
    assert said[0] == f"goes on after epoch {epoch}, from a checkpoint"
    assert curve == whole_curve
    found = weights_of(again)
    for name, array in weights_of(whole).items():
        assert np.array_equal(array, found[name]), name


@pytest.mark.parametrize(
    ("pictures", "settings", "seed", "said"),
    (
        pytest.param(noise(), SETTINGS, 6, "1: seed: 6 expected, 5 found", id="seed"),
        pytest.param(
            noise(), replace(SETTINGS, learning_rate=0.5), 5, "1: learning_rate: 0.5", id="rate"
        ),
        pytest.param(noise(2), SETTINGS, 5, "1: data: ", id="pictures"),
    ),
)
def test_a_checkpoint_of_another_fit_is_refused(
    tmp_path: Path, pictures: Pictures, settings: KerasFitSettings, seed: int, said: str
) -> None:
    with pytest.raises(KilledError):
        fit_keras(noise(), SETTINGS, 5, tmp_path, kill_after(1))

    with pytest.raises(BadRequestError, match=f"differs in {said}"):
        fit_keras(pictures, settings, seed, tmp_path, quiet)
