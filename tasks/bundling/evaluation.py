"""Ask SavedModels what they would have recommended to real users, and look at what came next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tasks.bundling.served_model import LoadedModel
from tasks.contracts.columns import EVENT_TYPES
from tasks.contracts.json_types import Json, parse_object
from tasks.contracts.served_signatures import NEXT_EVENT, SERVING_DEFAULT
from tasks.contracts.stage_io import SayProgress
from tasks.models.event_types import history_types
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
    with_types: bool = True  # whether it is given event types, where it takes them


def contestants(bundle: Path, champion: Path | None) -> list[Contestant]:
    """Return candidate, champion (if any) and the candidate's baselines."""
    length = _max_length(bundle)
    found = [candidate(bundle)]
    if champion is not None:
        folder = champion / "model"
        found.append(Contestant(name="champion", folder=folder, max_length=_max_length(champion)))
    baselines = sorted(path for path in (bundle / "baselines").glob("*") if path.is_dir())
    return found + [Contestant(name=b.name, folder=b, max_length=length) for b in baselines]


def reads_types(bundle: Path) -> bool:
    """Say whether a bundle's model can be given event types."""
    return NEXT_EVENT in _record(bundle)


def baselines_left_out(bundle: Path) -> dict[str, Json]:
    """Return which baselines a bundle lacks on purpose, each with why; older bundles do not say."""
    return dict(cast("dict[str, Json]", _record(bundle).get("baselines_left_out", {})))


def candidate(bundle: Path, *, with_types: bool = True) -> Contestant:
    """Return a bundle's model; without types it is asked as clients ask that do not send them."""
    return Contestant(
        name="candidate",
        folder=bundle / "model",
        max_length=_max_length(bundle),
        with_types=with_types,
    )


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
            top = _top(model, contestant, interactions, examples)
        found[contestant.name] = gains(top, targets_of(examples))
    return found


def ask_next_types(
    bundle: Path, interactions: Interactions, examples: Examples
) -> NDArray[np.float64]:
    """Return [E, T]: what the candidate, given event types, says of the next event's type."""
    asked = candidate(bundle)
    found = np.zeros((len(examples), len(EVENT_TYPES)))
    with LoadedModel(asked.folder) as model:
        for rows, answer in _answers(model, asked, interactions, examples):
            found[rows] = answer["next_types"]
    return found


def _answers(
    model: LoadedModel, contestant: Contestant, interactions: Interactions, examples: Examples
) -> Iterator[tuple[NDArray[np.int64], Mapping[str, NDArray[Any]]]]:
    """Yield rows of the examples and what the model answers to them."""
    names = np.asarray(["", *interactions.item_ids], dtype=object)
    # Requests of about the same length together: less padding, same answers.
    order = np.argsort(_lengths(interactions, examples), kind="stable")
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        yield rows, _served(model, contestant, names, interactions, examples.take(rows))


def _top(
    model: LoadedModel, contestant: Contestant, interactions: Interactions, examples: Examples
) -> NDArray[np.int64]:
    """Return [E, 10]: the answers as indices of the feature set's vocabulary."""
    index = {name.encode(): place for place, name in enumerate(map(str, interactions.item_ids), 1)}
    found = np.full((len(examples), TOP), _UNKNOWN, np.int64)
    for rows, served in _answers(model, contestant, interactions, examples):
        answer = served["items"][:, :TOP]
        places = [index.get(item, _UNKNOWN) for item in answer.ravel()]
        found[rows, : answer.shape[1]] = np.asarray(places).reshape(answer.shape)
    return found


def _lengths(interactions: Interactions, examples: Examples) -> NDArray[np.int64]:
    return examples.end - interactions.offsets[examples.user]


def _served(
    model: LoadedModel,
    contestant: Contestant,
    names: NDArray[Any],
    interactions: Interactions,
    examples: Examples,
) -> Mapping[str, NDArray[Any]]:
    length = contestant.max_length
    items, ago = history_batch(interactions, examples, length)
    used = np.flatnonzero((items > 0).any(axis=0))
    first = int(used[0]) if len(used) else items.shape[1] - 1
    inputs: dict[str, Any] = {"history": names[items[:, first:]], "steps_ago": ago[:, first:]}
    if not contestant.with_types or NEXT_EVENT not in model.signatures:
        return model.ask(SERVING_DEFAULT, inputs)
    types = history_types(interactions, examples, length)[:, first:]
    inputs["event_types"] = np.asarray(["", *EVENT_TYPES], dtype=object)[types]
    return model.ask(NEXT_EVENT, inputs)


def _max_length(bundle: Path) -> int:
    return int(cast("int", _record(bundle)["max_length"]))


def _record(bundle: Path) -> dict[str, Json]:
    return parse_object((bundle / "bundle.json").read_bytes(), "bundle.json")
