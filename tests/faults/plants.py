"""The faults themselves: changes of an export, or of what a stage is about to seal."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tasks.contracts.columns import Period
from tasks.models.interactions import Interactions
from tasks.models.item_neighbours import ItemNeighbours
from tasks.models.popularity_slices import TAIL, item_slices, user_slices
from tasks.models.registry import load_model, save_model
from tasks.training.metrics import evaluate

Frames = tuple[pd.DataFrame, pd.DataFrame]

# An export: events and catalogue.


def negative_prices(events: pd.DataFrame, catalogue: pd.DataFrame) -> Frames:
    refunds = events.index[100:112]
    return events.assign(price=events["price"].where(~events.index.isin(refunds), -4.0)), catalogue


def duplicates(events: pd.DataFrame, catalogue: pd.DataFrame) -> Frames:
    copies = events.sample(frac=0.3 / 0.7, random_state=1)
    return pd.concat([events, copies], ignore_index=True), catalogue


def future_timestamps(events: pd.DataFrame, catalogue: pd.DataFrame) -> Frames:
    late = events.index.isin(events.index[:40])
    later = events["at"] + pd.Timedelta(days=365)
    return events.assign(at=events["at"].where(~late, later)), catalogue


def missing_column(events: pd.DataFrame, catalogue: pd.DataFrame) -> Frames:
    return events.drop(columns="customer"), catalogue


def emptied_column(events: pd.DataFrame, catalogue: pd.DataFrame) -> Frames:
    return events.assign(order_no=pd.Series(pd.NA, events.index, dtype="string")), catalogue


def empty_day(events: pd.DataFrame, catalogue: pd.DataFrame) -> Frames:
    return events[events["at"].dt.strftime("%m-%d") != "01-21"], catalogue


def type_changed(events: pd.DataFrame, catalogue: pd.DataFrame) -> Frames:
    return events.assign(price=events["price"].map("EUR {:.2f}".format)), catalogue


def times_as_numbers(events: pd.DataFrame, catalogue: pd.DataFrame) -> Frames:
    seconds = (events["at"] - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(seconds=1)
    return events.assign(at=seconds.astype("int64")), catalogue


def shuffled_catalogue(events: pd.DataFrame, catalogue: pd.DataFrame) -> Frames:
    described = ["name", "aisle", "list_price"]
    other = catalogue[described].sample(frac=1, random_state=3).reset_index(drop=True)
    return events, catalogue.assign(**{name: other[name] for name in described})


def last_period_in_training(events: pd.DataFrame, catalogue: pd.DataFrame) -> Frames:
    last = events[events["at"] >= events["at"].max() - pd.Timedelta(days=9)]
    span = pd.Timedelta(days=30, minutes=11)
    copies = last.assign(at=last["at"] - span, order_no=last["order_no"] + "-copy")
    return pd.concat([events, copies], ignore_index=True), catalogue


DATA_PLANTS: Mapping[str, Callable[[pd.DataFrame, pd.DataFrame], Frames]] = MappingProxyType(
    {
        plant.__name__: plant
        for plant in (
            negative_prices,
            duplicates,
            future_timestamps,
            missing_column,
            emptied_column,
            empty_day,
            type_changed,
            times_as_numbers,
            shuffled_catalogue,
            last_period_in_training,
        )
    }
)

# What a stage is about to seal: a folder with its payload.


def _change_interactions(folder: Path, change: Callable[[Interactions], Interactions]) -> None:
    path = folder / "interactions.npz"
    features = change(Interactions.load(path))
    path.unlink()
    features.save(path)


def periods_relabelled(folder: Path) -> None:
    """Say of one customer in ten that the last period was training."""

    def change(features: Interactions) -> Interactions:
        user = np.repeat(np.arange(features.num_users), np.diff(features.offsets))
        step_user = np.repeat(np.arange(features.num_users), np.diff(features.step_offsets))
        period = np.where(user % 10 == 0, Period.TRAIN, features.period)
        step_period = np.where(step_user % 10 == 0, Period.TRAIN, features.step_period)
        return replace(
            features, period=period.astype(np.int8), step_period=step_period.astype(np.int8)
        )

    _change_interactions(folder, change)


def sequences_shuffled(folder: Path) -> None:
    """Exchange the items of each customer's events: who wants what stays, the order goes."""

    def change(features: Interactions) -> Interactions:
        draw, items = np.random.default_rng(5), features.items.copy()
        for user in range(features.num_users):
            mine = slice(features.offsets[user], features.offsets[user + 1])
            items[mine] = draw.permutation(items[mine])
        return replace(features, items=items)

    _change_interactions(folder, change)


def disturb_weights(path: Path, noise: float) -> None:
    """Multiply every number of every float tensor by 1 plus or minus about `noise`."""
    draw, tensors = np.random.default_rng(6), load_file(path)
    for name, tensor in sorted(tensors.items()):
        if tensor.dtype == np.float32 and tensor.size > 1:
            moved = tensor * (1 + noise * draw.standard_normal(tensor.shape))
            tensors[name] = moved.astype(np.float32)
    save_file(tensors, path)


def swap_signatures(folder: Path) -> None:
    """Exchange serving_default and score in a SavedModel."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    signatures = model.meta_graphs[0].signature_def
    ranking, scoring = type(signatures["score"])(), type(signatures["score"])()
    ranking.CopyFrom(signatures["serving_default"])
    scoring.CopyFrom(signatures["score"])
    signatures["serving_default"].CopyFrom(scoring)
    signatures["score"].CopyFrom(ranking)
    path.write_bytes(model.SerializeToString(deterministic=True))


def flip_a_byte(path: Path) -> None:
    """Change one byte in the middle of a file, as a failing disk does."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x40]))


# A model that is worse by so much: for those who want tail items only, or for everybody.


class Loss(ABC):
    """Spoils a Markov model further and further until those whom it is meant for lose enough."""

    def __init__(self, features: Path, trained: Path) -> None:
        import json

        self.interactions = Interactions.load(features / "interactions.npz")
        self.model = load_model(trained)
        self.trained = trained
        self.length = int(json.loads((trained / "report.json").read_text())["max_length"])
        self.examples = self.interactions.examples(Period.GATE)
        asked = np.unique(self.examples.user)
        self.losers = self.meant_for(user_slices(self.interactions, self.examples)[asked])
        self.sound = self.ndcg(self.model)

    def ndcg(self, model: torch.nn.Module) -> NDArray[np.float64]:
        found = evaluate(model, self.interactions, self.examples, self.length)
        return found.ndcg_by_user()

    @abstractmethod
    def meant_for(self, slices: NDArray[np.int8]) -> NDArray[np.bool_]:
        """Say which users are to lose, given the slice of each."""

    @abstractmethod
    def spoil(self, model: ItemNeighbours, share: float) -> None:
        """Spoil the model: not at all with 0, altogether with 1."""

    def spoilt(self, share: float) -> ItemNeighbours:
        model = load_model(self.trained)
        assert isinstance(model, ItemNeighbours)
        self.spoil(model, share)
        return model

    def loss(self, model: torch.nn.Module) -> float:
        """Return what those users lose, in NDCG@10."""
        lost: Any = (self.sound - self.ndcg(model))[self.losers].mean()
        return float(lost)

    def model_that_loses(self, wanted: float) -> ItemNeighbours:
        """Return the model that loses `wanted` or a little more."""
        low, high = 0.0, 1.0
        for _ in range(14):
            middle = (low + high) / 2
            low, high = (
                (low, middle) if self.loss(self.spoilt(middle)) >= wanted else (middle, high)
            )
        return self.spoilt(high)

    def write(self, folder: Path, wanted: float) -> None:
        import json

        record = json.loads((folder / "model.json").read_text())
        save_model(self.model_that_loses(wanted), "markov", record["arguments"], folder)


class TailLoss(Loss):
    """Lowers what leads to the rarer half of tail items: only who wants those loses."""

    def meant_for(self, slices: NDArray[np.int8]) -> NDArray[np.bool_]:
        tail: NDArray[np.bool_] = slices == TAIL
        return tail

    def spoil(self, model: ItemNeighbours, share: float) -> None:
        train = self.interactions.items[self.interactions.period == Period.TRAIN]
        counts = np.bincount(train, minlength=self.interactions.num_items + 1)
        tail = item_slices(self.interactions) == TAIL
        _lower(model, tail & (counts <= np.median(counts[tail])), share)


class WholeLoss(Loss):
    """Lowers what leads to every second item."""

    def meant_for(self, slices: NDArray[np.int8]) -> NDArray[np.bool_]:
        return np.ones(len(slices), dtype=np.bool_)

    def spoil(self, model: ItemNeighbours, share: float) -> None:
        _lower(model, np.arange(model.num_items + 1) % 2 == 0, share)


def _lower(model: ItemNeighbours, items: NDArray[np.bool_], share: float) -> None:
    towards = torch.from_numpy(items)[model.neighbours].float()
    model.weights.copy_(model.weights * (1 - share * towards))
