"""Ask SavedModels what they would have recommended to real users, and look at what came next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tasks.bundling.served_model import LoadedModel
from tasks.contracts.json_types import parse_object
from tasks.contracts.stage_io import SayProgress
from tasks.models.interactions import Examples, Interactions, history_batch
from tasks.statistics.ranking import Gains, Targets, gains

TOP = 10
BATCH = 128
_UNKNOWN = -1  # an item that only the other vocabulary knows


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A SavedModel under the name it has in the rows."""

    name: str
    folder: Path
    max_length: int


def contestants(bundle: Path, champion: Path | None) -> list[Contestant]:
    """Return candidate, champion (if any) and the candidate's baselines."""
    length = _max_length(bundle)
    found = [Contestant(name="candidate", folder=bundle / "model", max_length=length)]
    if champion is not None:
        folder = champion / "model"
        found.append(Contestant(name="champion", folder=folder, max_length=_max_length(champion)))
    baselines = sorted(path for path in (bundle / "baselines").glob("*") if path.is_dir())
    return found + [Contestant(name=b.name, folder=b, max_length=length) for b in baselines]


def targets_of(examples: Examples) -> Targets:
    """Return what came next in the form that metrics read."""
    return Targets(
        row=examples.target_rows(),
        item=examples.targets.astype(np.int64),
        count=examples.target_counts(),
    )


def ask_all(
    asked: list[Contestant],
    interactions: Interactions,
    examples: Examples,
    progress: SayProgress,
) -> dict[str, Gains]:
    """Return the metrics [E] of every contestant on the same examples."""
    found: dict[str, Gains] = {}
    for place, contestant in enumerate(asked):
        progress(f"asking {contestant.name}", place / len(asked))
        with LoadedModel(contestant.folder) as model:
            top = _top(model, contestant.max_length, interactions, examples)
        found[contestant.name] = gains(top, targets_of(examples))
    return found


def _top(
    model: LoadedModel, max_length: int, interactions: Interactions, examples: Examples
) -> NDArray[np.int64]:
    """Return [E, 10]: the answers as indices of the feature set's vocabulary."""
    names = np.asarray(["", *interactions.item_ids], dtype=object)
    index = {str(name).encode(): place for place, name in enumerate(names) if name}
    found = np.full((len(examples), TOP), _UNKNOWN, np.int64)
    # Requests of about the same length together: less padding, same answers.
    order = np.argsort(_lengths(interactions, examples), kind="stable")
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        served = _served(model, names, history_batch(interactions, examples.take(rows), max_length))
        answer = served[:, :TOP]
        places = [index.get(item, _UNKNOWN) for item in answer.ravel()]
        found[rows, : answer.shape[1]] = np.asarray(places).reshape(answer.shape)
    return found


def _lengths(interactions: Interactions, examples: Examples) -> NDArray[np.int64]:
    return examples.end - interactions.offsets[examples.user]


def _served(
    model: LoadedModel, names: NDArray[Any], batch: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> NDArray[Any]:
    items, ago = batch
    used = np.flatnonzero((items > 0).any(axis=0))
    first = int(used[0]) if len(used) else items.shape[1] - 1
    inputs: Mapping[str, Any] = {"history": names[items[:, first:]], "steps_ago": ago[:, first:]}
    return model.ask("serving_default", inputs)["items"]


def _max_length(bundle: Path) -> int:
    record = parse_object((bundle / "bundle.json").read_bytes(), "bundle.json")
    return int(cast("int", record["max_length"]))
