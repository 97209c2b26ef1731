"""`fit`: train the Transformer on windows, stop early on the select period, survive kills."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.contracts.stage_io import SayProgress
from tasks.models.interactions import Examples, Interactions
from tasks.models.transformer import Transformer
from tasks.training.checkpoints import load_checkpoint, save_checkpoint
from tasks.training.losses import sampled_softmax
from tasks.training.metrics import evaluate
from tasks.training.windows import Windows, training_windows


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


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One point of the learning curve."""

    epoch: int
    loss: float
    select_ndcg10: float


def train_shares(interactions: Interactions) -> torch.Tensor:
    """Return [I + 1]: each item's share of the interactions of the train period."""
    train = interactions.items[interactions.period == 0]
    counts = np.bincount(train, minlength=interactions.num_items + 1).astype(np.float64)
    counts[0] = 0
    return torch.from_numpy((counts / max(counts.sum(), 1)).astype(np.float32))


class Fit:
    """One run of training; `run` returns the best model by the select period and the curve."""

    def __init__(
        self,
        model: Transformer,
        interactions: Interactions,
        select: Examples,
        settings: FitSettings,
    ) -> None:
        self.model, self.interactions, self.select = model, interactions, select
        self.settings = settings
        self.windows: Windows = training_windows(interactions, model.steps, settings.max_length)
        shares = train_shares(interactions)
        self.draw = shares.sqrt() / shares.sqrt().sum()
        self.log_q = torch.log(self.draw.clamp(min=1e-12))
        with torch.no_grad():
            model.bias.copy_(torch.log(shares.clamp(min=1e-7)))
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.curve: list[Epoch] = []
        self.best: dict[str, Any] = copy.deepcopy(model.state_dict())

    def run(self, checkpoints: Path, progress: SayProgress) -> list[Epoch]:
        """Train until the select NDCG@10 has not grown for `patience` epochs."""
        self._resume(checkpoints)
        while len(self.curve) < self.settings.max_epochs and not self._stale():
            number = len(self.curve) + 1
            loss = self._train_epoch(number, progress)
            score = self._select_score()
            if score > max((point.select_ndcg10 for point in self.curve), default=-1.0):
                self.best = copy.deepcopy(self.model.state_dict())
            self.curve.append(Epoch(epoch=number, loss=loss, select_ndcg10=score))
            save_checkpoint(checkpoints, self._state())
            fraction = number / self.settings.max_epochs
            progress(f"epoch {number}: loss {loss:.4f}, select NDCG@10 {score:.4f}", fraction)
        self.model.load_state_dict(self.best)
        self.model.eval()
        return self.curve

    def _stale(self) -> bool:
        scores = [point.select_ndcg10 for point in self.curve]
        if not scores:
            return False
        return len(scores) - 1 - int(np.argmax(scores)) >= self.settings.patience

    def _select_score(self) -> float:
        self.model.eval()
        length = self.settings.max_length
        return evaluate(self.model, self.interactions, self.select, length).mean_ndcg

    def _train_epoch(self, number: int, progress: SayProgress) -> float:
        generator = torch.Generator().manual_seed(self.settings.seed * 100_003 + number)
        torch.manual_seed(self.settings.seed * 100_003 + number)  # dropout
        order = torch.randperm(len(self.windows), generator=generator).numpy()
        batches = range(0, len(order), self.settings.batch_windows)
        total = 0.0
        self.model.train()
        for place, start in enumerate(batches):
            rows = np.sort(order[start : start + self.settings.batch_windows])
            loss = self._loss(rows, generator)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            total += loss.item()
            done = (number - 1 + place / len(batches)) / self.settings.max_epochs
            progress(f"epoch {number}, batch {place + 1} of {len(batches)}", done)
        return total / max(len(batches), 1)

    def _loss(self, rows: np.ndarray[Any, Any], generator: torch.Generator) -> torch.Tensor:
        windows = self.windows
        items = torch.from_numpy(windows.items[rows])
        ago = torch.from_numpy(windows.steps_ago[rows])
        spans = [
            np.arange(windows.pair_offsets[row], windows.pair_offsets[row + 1]) for row in rows
        ]
        pairs = np.concatenate(spans)
        window = np.repeat(np.arange(len(rows)), [len(span) for span in spans])
        places = window * self.model.steps + windows.pair_place[pairs]
        states = self.model.states(items, ago).flatten(0, 1)
        used, rows_of_pairs = np.unique(places, return_inverse=True)
        negatives = torch.multinomial(
            self.draw, self.settings.negatives, replacement=True, generator=generator
        )
        return sampled_softmax(
            states=states[torch.from_numpy(used)],
            rows=torch.from_numpy(rows_of_pairs),
            targets=torch.from_numpy(windows.pair_item[pairs]),
            negatives=negatives,
            table=self.model.items.weight,
            bias=self.model.bias,
            log_q=self.log_q,
        )

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "curve": [vars(point) for point in self.curve],
        }

    def _resume(self, checkpoints: Path) -> None:
        state = load_checkpoint(checkpoints)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = state["best"]
        self.curve = [Epoch(**point) for point in state["curve"]]
