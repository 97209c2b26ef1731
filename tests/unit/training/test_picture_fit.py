from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.contracts.columns import Period
from tasks.contracts.errors import BadRequestError
from tasks.contracts.stage_io import SayProgress
from tasks.models.picture_net import PictureNet
from tasks.models.pictures import Pictures
from tasks.training.make_classifier import Classifier, make_classifier
from tasks.training.picture_fit import PictureFit, PictureFitSettings, augmented, cut_out
from tasks.training.picture_recipes import picture_recipe_named

SIDE = 8
SETTINGS = PictureFitSettings(
    epochs=4,
    batch=16,
    learning_rate=0.1,
    warm_up_share=0.25,
    weight_decay=5e-4,
    label_smoothing=0.1,
    max_shift=1,
    ema_decay=0.8,
    seed=5,
)


def bars() -> Pictures:
    """Return pictures with a bright row (class 0) or a bright column (class 1), and noise."""
    generator = np.random.default_rng(1)
    images = generator.integers(0, 60, (160, SIDE, SIDE)).astype(np.uint8)
    labels = np.arange(160, dtype=np.int64) % 2
    places = generator.integers(2, SIDE - 2, 160)
    for image, label, place in zip(images, labels, places, strict=True):
        (image if label == 0 else image.T)[place] = 255
    period = np.where(np.arange(160) < 128, Period.TRAIN, Period.SELECT).astype(np.int8)
    return Pictures(images=images, labels=labels, period=period, class_names=("row", "column"))


def fit(*, bf16: bool = False, blocks: tuple[int, int, int] = (0, 1, 1), **more: Any) -> PictureFit:
    torch.manual_seed(5)
    model = PictureNet(2, side=SIDE, widths=(4, 8, 8), blocks=blocks)
    settings = replace(SETTINGS, bf16=bf16)
    return PictureFit(model, bars(), settings, device=torch.device("cpu"), **more)


def quiet(_sentence: str, _share: float | None) -> None:
    return None


@pytest.mark.parametrize(
    "settings",
    (
        pytest.param({}, id="float32"),
        pytest.param({"bf16": True, "blocks": (1, 1, 1)}, id="bfloat16, deeper"),
    ),
)
def test_rows_and_columns_are_told_apart_on_pictures_that_were_not_trained_on(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    curve = fit(**settings).run(tmp_path, quiet)
    assert [point.epoch for point in curve] == [1, 2, 3, 4]
    assert curve[-1].loss < curve[0].loss
    assert curve[-1].select_accuracy > 0.9


def test_a_square_of_each_picture_is_blanked_somewhere_else_and_reaches_over_its_edges() -> None:
    images = torch.ones(200, 8, 8)

    found = cut_out(images, 3, torch.Generator().manual_seed(1))

    blanked = (found == 0).sum(dim=(1, 2))
    assert set(blanked.tolist()) == {4, 6, 9}  # a corner, an edge, inside
    assert len(torch.unique(found, dim=0)) > 50
    assert (images == 1).all()


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("batch", "bf16"),
    ((3, False), (8, False), (21, False), (11, True)),
    ids=("early", "between", "late", "in bfloat16"),
)
def test_a_killed_fit_ends_with_the_same_weights(tmp_path: Path, batch: int, bf16: bool) -> None:
    whole = fit(bf16=bf16)
    whole_curve = whole.run(tmp_path / "whole", quiet)
    seen = 0

    def kill(sentence: str, _share: float | None) -> None:
        nonlocal seen
        seen += "batch" in sentence
        if seen == batch:
            raise KilledError

    with pytest.raises(KilledError):
        fit(bf16=bf16, checkpoint_seconds=0.0).run(tmp_path / "killed", kill)
    again = fit(bf16=bf16)
    curve = again.run(tmp_path / "killed", quiet)
    assert again.resumed_from is not None
    assert curve == whole_curve
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def leave_a_checkpoint(folder: Path) -> None:
    def kill(_sentence: str, _share: float | None) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        fit(checkpoint_seconds=0.0).run(folder, kill)


def test_a_classifier_writes_checkpoints_as_often_as_it_is_told(tmp_path: Path) -> None:
    recipe = replace(picture_recipe_named("residual_picture_net"), widths=(4, 8, 8), fit=SETTINGS)

    def kill(sentence: str, _share: float | None) -> None:
        if sentence.startswith("epoch 1, batch 2"):
            raise KilledError

    def made(seconds: float, say: SayProgress) -> Classifier:
        told = {"checkpoints": tmp_path, "progress": say, "checkpoint_seconds": seconds}
        return make_classifier(bars(), recipe, {}, seed=5, **told)

    with pytest.raises(KilledError):
        made(0.0, kill)
    assert made(30.0, quiet).resumed_from == "epoch 0 and batch 2"


@pytest.mark.parametrize(
    ("change", "said"),
    (
        ({"seed": 6}, "differs in 1: seed: 6 expected, 5 found"),
        ({"ema_decay": 0.9}, "differs in 1: ema_decay: 0.9 expected, 0.8 found"),
    ),
    ids=("seed", "average"),
)
def test_a_checkpoint_of_another_fit_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    leave_a_checkpoint(tmp_path)
    other = fit()
    other.settings = replace(SETTINGS, **change)

    with pytest.raises(BadRequestError, match=said):
        other.run(tmp_path, quiet)


def test_a_checkpoint_of_other_pictures_and_of_another_network_is_refused(tmp_path: Path) -> None:
    leave_a_checkpoint(tmp_path)
    darker = bars()
    darker.images[0] //= 2
    other = fit(blocks=(0, 1, 2))
    other.pictures = darker

    with pytest.raises(BadRequestError, match=r"data: .*; network trunk.5: _Residual"):
        other.run(tmp_path, quiet)


def test_the_rate_rises_then_falls_to_nothing() -> None:
    rates = [SETTINGS.rate_of(step, 40) for step in range(40)]
    assert rates.index(max(rates)) == 9  # a quarter of 40 steps rises
    assert max(rates) == pytest.approx(0.1)
    assert rates[0] == pytest.approx(0.01)
    assert 0 < rates[-1] < 0.004


def test_augmented_pictures_are_moved_within_black_and_mirrored_or_not() -> None:
    image = torch.zeros(1, 5, 5)
    image[0, 2, 1] = 1.0
    seen = set()
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        found = augmented(image, 1, generator)
        assert found.shape == image.shape
        assert float(found.sum()) == 1.0
        seen.add(tuple(found[0].nonzero()[0].tolist()))
    # Column 1, or 3 mirrored, moved by -1, 0 or 1; row 2 likewise.
    assert seen == {(row, column) for row in (1, 2, 3) for column in (0, 1, 2, 3, 4)}
