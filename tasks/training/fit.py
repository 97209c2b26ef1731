"""`fit`: train a network on windows of steps, stop early on the select period, survive kills."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from tasks.contracts.json_types import Json
from tasks.contracts.ranks import ALONE, Ranks
from tasks.contracts.stage_io import CHECKPOINT_SECONDS, SayProgress
from tasks.models.event_types import types_in_train
from tasks.models.interactions import Examples, Interactions
from tasks.models.next_type import score_types
from tasks.models.sequence_model import SequenceModel
from tasks.models.transformer import Transformer
from tasks.training.checkpoints import (
    load_checkpoint,
    load_optimizer_state,
    optimizer_state,
    save_checkpoint,
)
from tasks.training.device import training_device
from tasks.training.fit_identity import FitIdentity, data_digest, fit_identity, network_of
from tasks.training.length_buckets import Extent, buckets_of
from tasks.training.losses import Loss, gbce, gbce_power, sampled_softmax, softmax
from tasks.training.metrics import evaluate
from tasks.training.next_type import network_chances
from tasks.training.random_states import random_states, restore_random_states, seed_all
from tasks.training.windows import Windows, training_windows

WARM_UP_EPOCHS = 3
RANK_STRIDE = 1_000_000_007  # between the seeds of two ranks
LEAST_SHARE = 0.02  # of the learning rate, at the end of a cosine

Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How long and how fast to train; `threads` is part of the result's identity."""

    max_epochs: int
    patience: int  # epochs without a better select NDCG@10 before stopping
    batch_windows: int
    learning_rate: float
    negatives: int
    weight_decay: float
    max_length: int  # items of a window
    seed: int
    threads: int = 2
    schedule: Schedule = "constant"
    loss: Loss = "sampled_softmax"
    calibration: float = 0.75  # gBCE's t
    bf16: bool = False  # the network's products in bfloat16; weights, loss and sums in float32
    # In how many lengths windows are batched; 1: all are padded to the whole.
    length_buckets: int = 1
    next_type_weight: float = 0.0  # of the next type's cross entropy, where the network takes types
    unknown_types: float = 0.0  # the share of windows that are shown without types

    def rate_of(self, epoch: int) -> float:
        """Return the learning rate of epoch 1, 2, ..; `cosine` warms up, then falls to nearly nothing.

        The cosine is SGDR's without restarts (Loshchilov and Hutter, 2017), over `max_epochs`.
        """
        if self.schedule == "constant":
            return self.learning_rate
        fallen = 0.5 * (1 + math.cos(math.pi * (epoch - 1) / self.max_epochs))
        return self.learning_rate * max(LEAST_SHARE, fallen) * min(1.0, epoch / WARM_UP_EPOCHS)


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One point of the learning curve."""

    epoch: int
    loss: float
    select_ndcg10: float
    select_type_bits: float | None = None  # per event, of networks that say the next one's type

    def record(self) -> dict[str, Json]:
        """Return the point as JSON, without what the network does not say."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(kw_only=True)
class EpochInProgress:
    """Where an epoch is: the order of its windows, the sampler, the batches done, their losses."""

    number: int
    order: torch.Tensor  # [W] windows in the order of this epoch
    sampler: torch.Generator  # draws the negatives
    batches_done: int = 0
    total_loss: float = 0.0

    @classmethod
    def start(cls, number: int, windows: int, seed: int, rank: int = 0) -> EpochInProgress:
        """Draw the order of an epoch; everything drawn in it starts from the seed and its number."""
        own_seed = seed * 100_003 + number
        sampler = torch.Generator().manual_seed(own_seed)
        seed_all(own_seed + rank * RANK_STRIDE)  # dropout draws from torch's global generator
        order = torch.randperm(windows, generator=sampler)
        return cls(number=number, order=order, sampler=sampler)

    def state(self, ranks: Ranks) -> dict[str, Any]:
        """Return all that the rest of the epoch depends on besides the weights."""
        return {
            "number": self.number,
            "order": self.order,
            "sampler": self.sampler.get_state(),
            "batches_done": self.batches_done,
            "total_loss": self.total_loss,
            "random": ranks.gathered(random_states()),
        }

    @classmethod
    def restore(cls, state: dict[str, Any], rank: int = 0) -> EpochInProgress:
        """Go on where `state` was taken: the process draws what the killed one would have."""
        sampler = torch.Generator()
        sampler.set_state(state["sampler"])
        restore_random_states(state["random"][rank])
        return cls(
            number=state["number"],
            order=state["order"],
            sampler=sampler,
            batches_done=state["batches_done"],
            total_loss=state["total_loss"],
        )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B windows with P pairs of a place and an item that came next; all int64, on the fit's device."""

    items: torch.Tensor  # [B, L]
    steps_ago: torch.Tensor  # [B, L]
    used: torch.Tensor  # [S] of the B x steps places, those that predict something
    rows: torch.Tensor  # [P] which of `used`
    targets: torch.Tensor  # [P]
    negatives: torch.Tensor  # [N] of all pairs; [0] for the full softmax
    steps: int | None = None  # S where the network is shown fewer steps than it has
    event_types: torch.Tensor | None = None  # [B, L] codes, where the network takes them
    target_types: torch.Tensor | None = None  # [P] places in EVENT_TYPES, the same

    @property
    def asked(self) -> tuple[torch.Tensor, ...]:
        """Return what the network is asked with."""
        given = (self.items, self.steps_ago)
        return given if self.event_types is None else (*given, self.event_types)


def train_shares(interactions: Interactions) -> torch.Tensor:
    """Return [I + 1]: each item's share of the interactions of the train period."""
    train = interactions.items[interactions.period == 0]
    counts = np.bincount(train, minlength=interactions.num_items + 1).astype(np.float64)
    counts[0] = 0
    return torch.from_numpy((counts / max(counts.sum(), 1)).astype(np.float32))


class Objective(nn.Module):
    """The loss of a batch as a module, so that DistributedDataParallel can wrap it."""

    def __init__(
        self, model: SequenceModel, log_q: torch.Tensor, settings: FitSettings, num_items: int
    ) -> None:
        super().__init__()
        self.model, self.log_q, self.settings = model, log_q, settings
        self.power = gbce_power(settings.negatives, num_items, settings.calibration)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss of the batch's pairs, a scalar."""
        with torch.autocast(batch.items.device.type, torch.bfloat16, self.settings.bf16):
            states = self.model.states(*batch.asked, steps=batch.steps)
            states = states.flatten(0, 1)[batch.used]
        loss = self._of_items(states.float(), batch)
        if batch.target_types is None:
            return loss
        assert isinstance(self.model, Transformer)  # noqa: S101  narrows the type
        logits = self.model.type_logits(states.float())
        of_types = functional.cross_entropy(logits[batch.rows], batch.target_types)
        return loss + self.settings.next_type_weight * of_types

    def _of_items(self, states: torch.Tensor, batch: Batch) -> torch.Tensor:
        pairs: dict[str, Any] = {
            "states": self.model.scored(states),
            "rows": batch.rows,
            "targets": batch.targets,
            "table": self.model.scoring_table(),
            "bias": self.model.bias,
        }
        if self.settings.loss == "softmax":
            return softmax(**pairs)
        if self.settings.loss == "gbce":
            return gbce(**pairs, negatives=batch.negatives, power=self.power)
        return sampled_softmax(**pairs, negatives=batch.negatives, log_q=self.log_q)


class Fit:
    """One run of training; `run` returns the curve and leaves the best model by the select period.

    It trains on `device`, by default the GPU if there is one; the model comes back on the CPU. What
    the batches hold is drawn on the CPU, so that it is the same on every device; dropout is not.

    Several ranks (all call the same in the same order) take every N-th window of each batch. Weighted by the pairs
    it has, each rank's loss has a gradient whose average over the ranks is that of the whole batch.
    """

    def __init__(
        self,
        model: SequenceModel,
        interactions: Interactions,
        select: Examples,
        settings: FitSettings,
        *,
        device: torch.device | None = None,
        ranks: Ranks = ALONE,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device = training_device() if device is None else device
        self.model, self.interactions, self.select = model.to(self.device), interactions, select
        self.settings, self.ranks = settings, ranks
        self.checkpoint_seconds, self.monotonic = checkpoint_seconds, monotonic
        self.typed = isinstance(model, Transformer) and model.takes_event_types
        self.windows: Windows = training_windows(
            interactions, model.steps, settings.max_length, typed=self.typed
        )
        self.buckets = buckets_of(model, self.windows, settings.length_buckets)
        shares = train_shares(interactions)
        self.draw = _drawn(shares, settings.loss)
        self.log_q = torch.log(self.draw.clamp(min=1e-12)).to(self.device)
        with torch.no_grad():
            model.bias.copy_(torch.log(shares.clamp(min=1e-7)))
        if isinstance(model, Transformer) and model.typed is not None:
            model.typed.begin_at(torch.from_numpy(types_in_train(interactions)))
        self.objective: nn.Module = Objective(model, self.log_q, settings, interactions.num_items)
        if ranks.size > 1:
            self.objective = DistributedDataParallel(self.objective, forward_sync_buffers=False)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.curve: list[Epoch] = []
        self.best: dict[str, Any] = copy.deepcopy(model.state_dict())
        self.epoch: EpochInProgress | None = None
        self.resumed_from: str | None = None  # the place in words, for facts and people
        self._saved_at = monotonic()

    def run(self, checkpoints: Path, progress: SayProgress) -> list[Epoch]:
        """Train until the select NDCG@10 has not grown for `patience` epochs.

        A killed fit's checkpoint is gone on from; BadRequestError says that it is another fit's.
        """
        self._settle_buckets()
        self._resume(checkpoints, progress)
        if self.resumed_from is not None:
            progress(f"goes on after {self.resumed_from}, from a checkpoint", None)
        while len(self.curve) < self.settings.max_epochs and not self._stale():
            number = len(self.curve) + 1
            loss = self._train_epoch(number, checkpoints, progress)
            score = self._select_score()
            if score > max((point.select_ndcg10 for point in self.curve), default=-1.0):
                self.best = copy.deepcopy(self.model.state_dict())
            bits = self._select_type_bits()
            point = Epoch(epoch=number, loss=loss, select_ndcg10=score, select_type_bits=bits)
            self.curve.append(point)
            self.epoch = None
            self._save(checkpoints)
            fraction = number / self.settings.max_epochs
            types = "" if bits is None else f", next type {bits:.3f} bits"
            sentence = f"epoch {number}: loss {loss:.4f}, select NDCG@10 {score:.4f}{types}"
            progress(sentence, fraction)
        self.model.load_state_dict(self.best)
        self.model.to("cpu").eval()
        return self.curve

    @cached_property
    def identity(self) -> FitIdentity:
        """Return what decides the weights; asked before training, and the same after it."""
        data = data_digest(self.interactions, self.select)
        network = network_of(self.model)
        return fit_identity(self.settings, self.device, data=data, network=network)

    def _stale(self) -> bool:
        scores = [point.select_ndcg10 for point in self.curve]
        if not scores:
            return False
        return len(scores) - 1 - int(np.argmax(scores)) >= self.settings.patience

    def _select_score(self) -> float:
        self.model.eval()
        length = self.settings.max_length
        examples = self.select
        found = evaluate(
            self.model, self.interactions, examples, length, device=self.device, ranks=self.ranks
        )
        return found.mean_ndcg

    def _select_type_bits(self) -> float | None:
        if not self.typed:
            return None
        assert isinstance(self.model, Transformer)  # noqa: S101  narrows the type
        chances = network_chances(
            self.model, self.interactions, self.select, self.settings.max_length, device=self.device
        )
        found = score_types(chances, self.interactions, self.select)
        return None if found is None else found.bits

    def _train_epoch(self, number: int, checkpoints: Path, progress: SayProgress) -> float:
        size = self.settings.batch_windows
        if self.epoch is None:
            self.epoch = EpochInProgress.start(
                number, len(self.windows), self.settings.seed, self.ranks.rank
            )
            if self.buckets is not None:
                drawn = self.epoch.order, size, self.epoch.sampler
                self.epoch.order = self.buckets.arranged(*drawn)
        epoch = self.epoch
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate_of(number)
        order = epoch.order.numpy()
        batches = range(0, len(order), size)
        self.model.train()
        for place, start in list(enumerate(batches))[epoch.batches_done :]:
            loss = self._loss(np.sort(order[start : start + size]), epoch.sampler)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            due = self.ranks.is_first and self._is_checkpoint_due()
            mean, now = self.ranks.total([loss.item() / self.ranks.size, float(due)])
            epoch.total_loss += mean
            epoch.batches_done = place + 1
            if now:
                self._save(checkpoints)
            done = (number - 1 + place / len(batches)) / self.settings.max_epochs
            progress(f"epoch {number}, batch {place + 1} of {len(batches)}", done)
        return epoch.total_loss / max(len(batches), 1)

    def _loss(self, rows: np.ndarray[Any, Any], generator: torch.Generator) -> torch.Tensor:
        """Return this rank's loss of the batch `rows`; its average over the ranks is the batch's mean."""
        shown = self._shown_types(len(rows), generator)
        mine = self.ranks.share(rows)
        pairs = self._pairs(mine) * self.ranks.size / self._pairs(rows)  # 1 where one rank has all
        extent = None if self.buckets is None else self.buckets.extent(rows)  # one for all ranks
        if len(mine):
            batch = self._batch(mine, self.ranks.share(shown), generator, extent)
        else:
            batch = self._batch(rows[:1], shown[:1], generator, extent)  # with weight 0
        loss: torch.Tensor = self.objective(batch) * pairs
        return loss

    def _pairs(self, rows: np.ndarray[Any, Any]) -> int:
        offsets = self.windows.pair_offsets
        return int((offsets[rows + 1] - offsets[rows]).sum())

    def _shown_types(self, count: int, generator: torch.Generator) -> np.ndarray[Any, Any]:
        """Return [count]: which windows are shown with types; the others as clients without them ask."""
        if not self.typed:
            return np.zeros(count, np.bool_)
        drawn = torch.rand(count, generator=generator) >= self.settings.unknown_types
        return drawn.numpy()

    def _batch(
        self,
        rows: np.ndarray[Any, Any],
        shown: np.ndarray[Any, Any],
        generator: torch.Generator,
        extent: Extent | None = None,
    ) -> Batch:
        windows = self.windows
        steps = self.model.steps if extent is None else extent.steps
        length = self.settings.max_length if extent is None else extent.items
        spans = [
            np.arange(windows.pair_offsets[row], windows.pair_offsets[row + 1]) for row in rows
        ]
        pairs = np.concatenate(spans)
        window = np.repeat(np.arange(len(rows)), [len(span) for span in spans])
        left_out = self.model.steps - steps
        places = window * steps + windows.pair_place[pairs] - left_out
        used, rows_of_pairs = np.unique(places, return_inverse=True)
        return Batch(
            items=self._moved(windows.items[rows][:, -length:]),
            steps_ago=self._moved(windows.steps_ago[rows][:, -length:]),
            used=self._moved(used),
            rows=self._moved(rows_of_pairs),
            targets=self._moved(windows.pair_item[pairs]),
            negatives=self._negatives(generator).to(self.device),
            steps=None if extent is None else steps,
            **self._types(rows, shown, pairs, length),
        )

    def _types(
        self,
        rows: np.ndarray[Any, Any],
        shown: np.ndarray[Any, Any],
        pairs: np.ndarray[Any, Any],
        length: int,
    ) -> dict[str, torch.Tensor]:
        """Return the types of the windows `rows` and of their pairs, where the network takes them."""
        if not self.typed:
            return {}
        given = self.windows.event_types[rows][:, -length:].astype(np.int64) * shown[:, None]
        wanted = self.windows.pair_type[pairs].astype(np.int64)
        return {"event_types": self._moved(given), "target_types": self._moved(wanted)}

    def _negatives(self, generator: torch.Generator) -> torch.Tensor:
        if self.settings.loss == "softmax":
            return torch.zeros(0, dtype=torch.int64)
        wanted = self.settings.negatives
        return torch.multinomial(self.draw, wanted, replacement=True, generator=generator)

    def _settle_buckets(self) -> None:
        """Let DistributedDataParallel choose its buckets of gradients before the first batch that counts.

        It orders them anew once it has seen a backward pass, and with them the order in which ranks add: a resumed
        fit would differ in its first batch from one that was not killed.
        """
        if self.ranks.size == 1 or len(self.windows) == 0:
            return
        for _ in range(2):
            self._loss(np.zeros(1, np.int64), torch.Generator()).backward()
        self.optimizer.zero_grad(set_to_none=True)

    def _is_checkpoint_due(self) -> bool:
        return self.monotonic() - self._saved_at >= self.checkpoint_seconds

    def _moved(self, values: np.ndarray[Any, Any]) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device, non_blocking=True)

    def _save(self, checkpoints: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "best": self.best,
            "curve": [vars(point) for point in self.curve],
            "epoch": None if self.epoch is None else self.epoch.state(self.ranks),
        }
        if self.ranks.is_first:  # what the ranks share is the same on all
            save_checkpoint(checkpoints, state, self.identity, ranks=self.ranks.size)
        self._saved_at = self.monotonic()

    def _resume(self, checkpoints: Path, progress: SayProgress) -> None:
        found = None
        if self.ranks.is_first:
            found = load_checkpoint(
                checkpoints,
                self.identity,
                lambda sentence: progress(sentence, None),
                ranks=self.ranks.size,
            )
        found = self.ranks.from_first(found)
        if found is None:
            return
        state = found.state
        self.model.load_state_dict(state["model"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.best = state["best"]
        self.curve = [Epoch(**point) for point in state["curve"]]
        place = f"epoch {len(self.curve)}"
        if state["epoch"] is not None:
            self.epoch = EpochInProgress.restore(state["epoch"], self.ranks.rank)
            place += f" and batch {self.epoch.batches_done}"
        self.identity = found.identity
        self.resumed_from = self.identity.place(place)


def _drawn(shares: torch.Tensor, loss: Loss) -> torch.Tensor:
    """Return [I + 1]: how probable each item is as a negative."""
    if loss == "gbce":
        even = torch.ones_like(shares)
        even[0] = 0
        return even / even.sum()
    return shares.sqrt() / shares.sqrt().sum()
