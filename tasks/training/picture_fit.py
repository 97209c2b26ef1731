"""`PictureFit`: train a classifier of pictures; a killed fit goes on with the same result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tasks.contracts.columns import Period
from tasks.contracts.stage_io import CHECKPOINT_SECONDS, SayProgress
from tasks.models.pictures import Pictures
from tasks.training.checkpoints import (
    load_checkpoint,
    load_optimizer_state,
    optimizer_state,
    save_checkpoint,
)
from tasks.training.device import training_device
from tasks.training.fit_identity import FitIdentity, data_digest, fit_identity, network_of

EVALUATION_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class PictureFitSettings:
    """How long and how fast to train; `threads` is part of the result's identity."""

    epochs: int
    batch: int
    learning_rate: float  # at the top of the schedule
    warm_up_share: float  # of all steps: the rate rises over it, then falls in a line to nothing
    weight_decay: float
    label_smoothing: float
    max_shift: int  # pixels: each training picture is moved by up to so many, and mirrored or not
    cutout: int = 0  # pixels: side of the square that is blanked in each training picture
    ema_decay: float  # of the average over steps that is kept as the model
    bf16: bool = False  # the network's products in bfloat16; weights, loss and sums in float32
    seed: int
    threads: int = 1

    def rate_of(self, step: int, steps: int) -> float:
        """Return the learning rate of step 0, 1, .. of `steps`."""
        rise = max(1.0, self.warm_up_share * steps)
        falls = (steps - step) / max(1.0, steps - rise)
        return self.learning_rate * min((step + 1) / rise, falls, 1.0)


@dataclass(frozen=True, kw_only=True)
class PictureEpoch:
    """One point of the learning curve."""

    epoch: int
    loss: float
    select_accuracy: float


def augmented(images: Tensor, max_shift: int, generator: torch.Generator) -> Tensor:
    """Return images [B, H, W], each mirrored or not and moved by up to `max_shift`, 0 beyond."""
    count, height, width = images.shape
    mirrored = torch.rand(count, generator=generator) < 0.5
    down, right = torch.randint(0, 2 * max_shift + 1, (2, count), generator=generator)
    rows = (down[:, None] + torch.arange(height)).to(images.device)
    columns = (right[:, None] + torch.arange(width)).to(images.device)
    images = torch.where(mirrored.to(images.device)[:, None, None], images.flip(2), images)
    wide = functional.pad(images, (max_shift,) * 4)
    places = torch.arange(count, device=images.device)
    return wide[places[:, None, None], rows[:, :, None], columns[:, None, :]]


def cut_out(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Return images [B, H, W], in each a square of `side` around any pixel 0 (DeVries and Taylor, Cutout, 2017)."""
    count, height, width = images.shape
    top = torch.randint(0, height, (count, 1, 1), generator=generator) - side // 2
    left = torch.randint(0, width, (count, 1, 1), generator=generator) - side // 2
    rows, columns = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return images.masked_fill(inside.to(images.device), 0.0)


def predicted(
    model: nn.Module, images: NDArray[np.float32], device: torch.device | None = None
) -> NDArray[np.int64]:
    """Return the class [N] that `model` scores highest for images [N, H, W]."""
    device = device or torch.device("cpu")
    found = []
    with torch.no_grad():
        for start in range(0, len(images), EVALUATION_BATCH):
            batch = torch.from_numpy(images[start : start + EVALUATION_BATCH]).to(device)
            found.append(model(batch).argmax(dim=1).cpu())
    return torch.cat(found).numpy() if found else np.zeros(0, np.int64)


def _laid_out(model: nn.Module, memory: torch.memory_format) -> nn.Module:
    """Return the model with its weights in that order in memory; convolutions like channels last."""
    return model.to(memory_format=memory)  # type: ignore[call-overload]


class PictureFit:
    """One run of training on the train period; the average of its last steps is the model.

    Order, shifts and mirrors of an epoch are drawn on the CPU from the seed and the numbers of
    epoch and batch, so that they are the same on every device and after every kill.
    """

    def __init__(
        self,
        model: nn.Module,
        pictures: Pictures,
        settings: PictureFitSettings,
        *,
        device: torch.device | None = None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device = training_device() if device is None else device
        self.settings = settings
        self.checkpoint_seconds, self.monotonic = checkpoint_seconds, monotonic
        self.pictures = pictures
        train = pictures.rows(Period.TRAIN)
        self.images = torch.from_numpy(pictures.shown(train)).to(self.device)
        self.labels = torch.from_numpy(pictures.labels[train]).to(self.device)
        self.model = _laid_out(model.to(self.device), torch.channels_last)
        average = get_ema_multi_avg_fn(settings.ema_decay)
        self.average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            lr=settings.learning_rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=settings.weight_decay,
        )
        self.curve: list[PictureEpoch] = []
        self.batches_done = 0  # of the epoch in progress
        self.total_loss = self._no_loss()
        self.resumed_from: str | None = None  # the place in words, for facts and people
        self._saved_at = monotonic()

    @cached_property
    def identity(self) -> FitIdentity:
        """Return what decides the weights; asked before training, and the same after it."""
        data, network = data_digest(self.pictures), network_of(self.model)
        return fit_identity(self.settings, self.device, data=data, network=network)

    @property
    def batches(self) -> int:
        """Return the batches of an epoch; what is left of the pictures waits for the next one."""
        return max(1, len(self.images) // self.settings.batch)

    def run(self, checkpoints: Path, progress: SayProgress) -> list[PictureEpoch]:
        """Train all epochs; leave the averaged weights in the model, on the CPU.

        A killed fit's checkpoint is gone on from; BadRequestError says that it is another fit's.
        """
        self._resume(checkpoints, progress)
        if self.resumed_from is not None:
            progress(f"goes on after {self.resumed_from}, from a checkpoint", None)
        while len(self.curve) < self.settings.epochs:
            number = len(self.curve) + 1
            self._train_epoch(number, checkpoints, progress)
            loss, accuracy = self.total_loss.item() / self.batches, self.select_accuracy()
            self.curve.append(PictureEpoch(epoch=number, loss=loss, select_accuracy=accuracy))
            self.batches_done, self.total_loss = 0, self._no_loss()
            self._save(checkpoints)
            fraction = number / self.settings.epochs
            progress(f"epoch {number}: loss {loss:.4f}, select accuracy {accuracy:.4f}", fraction)
        self.model.load_state_dict(self.average.module.state_dict())
        _laid_out(self.model.to("cpu"), torch.contiguous_format).eval()
        return self.curve

    def _no_loss(self, so_far: float = 0.0) -> Tensor:
        """Return a sum that stays where it is made: to read it each time would wait for the GPU."""
        return torch.tensor(so_far, dtype=torch.float64, device=self.device)

    def select_accuracy(self) -> float:
        """Return the averaged model's share of right classes in the select period."""
        rows = self.pictures.rows(Period.SELECT)
        network = self.average.module.eval()
        found = predicted(network, self.pictures.shown(rows), self.device)
        return float((found == self.pictures.labels[rows]).mean()) if len(rows) else float("nan")

    def _train_epoch(self, number: int, checkpoints: Path, progress: SayProgress) -> None:
        size, seed = self.settings.batch, self.settings.seed * 100_003 + number
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))
        before, steps = (number - 1) * self.batches, self.settings.epochs * self.batches
        self.model.train()
        for place in range(self.batches_done, self.batches):
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.rate_of(before + place, steps)
            generator = torch.Generator().manual_seed(seed * 1_000_003 + place)
            self.total_loss += self._step(order[place * size : (place + 1) * size], generator)
            self.batches_done = place + 1
            if self.monotonic() - self._saved_at >= self.checkpoint_seconds:
                self._save(checkpoints)
            done = (before + place) / steps
            progress(f"epoch {number}, batch {place + 1} of {self.batches}", done)

    def _step(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        rows = rows.to(self.device)
        images = augmented(self.images[rows], self.settings.max_shift, generator)
        if self.settings.cutout:
            images = cut_out(images, self.settings.cutout, generator)
        with torch.autocast(self.device.type, torch.bfloat16, self.settings.bf16):
            logits = self.model(images)
        loss = functional.cross_entropy(
            logits.float(), self.labels[rows], label_smoothing=self.settings.label_smoothing
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.average.update_parameters(self.model)
        return loss.detach()

    def _save(self, checkpoints: Path) -> None:
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "curve": [vars(point) for point in self.curve],
            "batches_done": self.batches_done,
            "total_loss": self.total_loss.item(),
        }
        save_checkpoint(checkpoints, state, self.identity)
        self._saved_at = self.monotonic()

    def _resume(self, checkpoints: Path, progress: SayProgress) -> None:
        found = load_checkpoint(
            checkpoints, self.identity, lambda sentence: progress(sentence, None)
        )
        if found is None:
            return
        state = found.state
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.curve = [PictureEpoch(**point) for point in state["curve"]]
        self.batches_done = state["batches_done"]
        self.total_loss = self._no_loss(state["total_loss"])
        self.identity = found.identity
        place = f"epoch {len(self.curve)} and batch {self.batches_done}"
        self.resumed_from = self.identity.place(place)
