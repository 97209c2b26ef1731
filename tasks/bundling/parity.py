"""The parity certificate: what is served against what the compressed torch model answers.

A user agrees when the served items equal torch's at each of the first ten places, but for ties: at
a place where they differ, both models must score both items equal within the tolerance. The
tolerance is 1e-5, or 1e-5 of the user's best score where that is below 1 (a blend's scores are
probabilities).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tasks.bundling.golden import Answers, Requests, TypedAnswers
from tasks.bundling.served_model import LoadedModel
from tasks.contracts.columns import EVENT_TYPES
from tasks.contracts.json_types import Json
from tasks.contracts.served_signatures import NEXT_EVENT

COMPARED = 10
TIE = 1e-5
BATCH = 64

Bools = NDArray[np.bool_]
ServedAnswer = Mapping[str, NDArray[Any]]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Per request: does the served list equal torch's, and the worst difference of a score."""

    same: Bools  # [R]
    worst: Floats  # [R]; infinite where a score is not a number

    def record(self, rows: Bools) -> dict[str, Json]:
        """Return the numbers of the requests chosen by `rows` [R]."""
        worst = float(self.worst[rows].max()) if rows.any() else 0.0
        finite = bool(np.isfinite(worst))
        return {
            "requests": int(rows.sum()),
            "agreeing": int(self.same[rows].sum()),
            "worst_score_difference": worst if finite else None,
            "finite": finite,
        }


def compare(served: Answers, torch: Answers) -> Agreement:
    """Compare the answers to the same requests."""
    depth = min(served.items.shape[1], torch.items.shape[1])
    difference = np.abs(served.scores[:, :depth].astype(np.float64) - torch.scores[:, :depth])
    worst = np.where(np.isfinite(difference), difference, np.inf).max(axis=1)
    # A place that both leave empty (fewer items than k) holds the lowest float in both.
    scale = np.clip(np.abs(torch.scores[:, 0].astype(np.float64)), None, 1.0)
    same = np.ones(len(worst), np.bool_)
    for place in range(min(COMPARED, depth)):
        same &= _same_place(served, torch, place, TIE * scale)
    return Agreement(same=same & np.isfinite(worst), worst=worst)


def _same_place(served: Answers, torch: Answers, place: int, tolerance: Floats) -> Bools:
    """Return [R]: equal item at `place`, or a tie."""
    item = served.items[:, place]
    wanted = torch.scores[:, place].astype(np.float64)
    found = served.items[:, place][:, None] == torch.items
    in_list = found.any(axis=1)
    # An item beyond torch's list scores at most what the last of the list scores.
    theirs = np.where(
        in_list, torch.scores[np.arange(len(item)), found.argmax(axis=1)], torch.scores[:, -1]
    ).astype(np.float64)
    tie = np.abs(theirs - wanted) <= tolerance
    tie &= np.abs(served.scores[:, place].astype(np.float64) - wanted) <= tolerance
    equal: Bools = (item == torch.items[:, place]) | tie
    return equal


def together(*agreements: Agreement) -> Agreement:
    """Return agreement where all agree, with the worst difference of any."""
    return Agreement(
        same=np.logical_and.reduce([item.same for item in agreements]),
        worst=np.maximum.reduce([item.worst for item in agreements]),
    )


@dataclass(frozen=True, kw_only=True)
class ServedInputs:
    """Requests as clients send them: string ids."""

    history: NDArray[Any]  # object [R, L]
    steps_ago: NDArray[np.int64]  # [R, L]
    event_types: NDArray[Any] | None = None  # object [R, L], where they are sent too

    def one(self, row: int) -> dict[str, NDArray[Any]]:
        """Return request `row` alone, without padding (one empty id where nothing is left)."""
        known = self.history[row] != ""
        if not known.any():
            known[-1:] = True
        return {name: rows[row : row + 1, known] for name, rows in self._sent().items()}

    def batch(self, rows: slice) -> dict[str, NDArray[Any]]:
        """Return requests padded on the right: the other side than in training."""
        sent = {name: values[rows].copy() for name, values in self._sent().items()}
        for place in range(len(sent["history"])):
            padding = int(np.argmax([*(sent["history"][place] != ""), True]))
            for values in sent.values():
                values[place] = np.roll(values[place], -padding)
        return sent

    def _sent(self) -> dict[str, NDArray[Any]]:
        sent = {"history": self.history, "steps_ago": self.steps_ago}
        return sent if self.event_types is None else {**sent, "event_types": self.event_types}


def served_inputs(
    requests: Requests, item_ids: Sequence[str], types: NDArray[np.int64] | None = None
) -> ServedInputs:
    """Return the requests with ids in place of indices, and names in place of `types` [R, L]."""
    names = np.asarray(["", *item_ids], dtype=object)
    kinds = None if types is None else np.asarray(["", *EVENT_TYPES], dtype=object)[types]
    return ServedInputs(
        history=names[requests.items], steps_ago=requests.steps_ago, event_types=kinds
    )


def asked_one_by_one(
    model: LoadedModel, inputs: ServedInputs, signature: str = "serving_default"
) -> list[ServedAnswer]:
    """Return what `signature` answers to each request alone."""
    return [model.ask(signature, inputs.one(row)) for row in range(len(inputs.history))]


def asked_in_batches(
    model: LoadedModel, inputs: ServedInputs, signature: str = "serving_default"
) -> list[ServedAnswer]:
    """Return what `signature` answers to the requests in batches of 64."""
    starts = range(0, len(inputs.history), BATCH)
    return [model.ask(signature, inputs.batch(slice(s, s + BATCH))) for s in starts]


def _answers(found: Sequence[ServedAnswer], item_ids: Sequence[str]) -> Answers:
    indices = {name.encode(): place for place, name in enumerate(["", *item_ids])}
    items = np.concatenate([answer["items"] for answer in found])
    scores = np.concatenate([answer["scores"] for answer in found]).astype(np.float32)
    index = np.asarray([indices[item] for item in items.ravel()], np.int64)
    return Answers(items=index.reshape(items.shape), scores=scores)


def certify(
    model: LoadedModel, requests: Requests, item_ids: Sequence[str], torch: Answers
) -> dict[str, Json]:
    """Ask every golden request alone and in batches; return the numbers, whole and per slice."""
    inputs = served_inputs(requests, item_ids)
    alone = compare(_answers(asked_one_by_one(model, inputs), item_ids), torch)
    batched = compare(_answers(asked_in_batches(model, inputs), item_ids), torch)
    return _certificate(requests, alone, batched)


def certify_typed(
    model: LoadedModel, requests: Requests, item_ids: Sequence[str], torch: TypedAnswers
) -> dict[str, Json]:
    """Ask `next_event` every golden request with its types, alone and in batches; return the numbers.

    `worst_next_type_difference` is of a chance of the next event's type, over real and made-up requests.
    """
    inputs = served_inputs(requests, item_ids, torch.event_types)
    found = [ask(model, inputs, NEXT_EVENT) for ask in (asked_one_by_one, asked_in_batches)]
    alone, batched = (compare(_answers(one, item_ids), torch.ranked) for one in found)
    away = [
        np.abs(np.concatenate([answer["next_types"] for answer in one]) - torch.next_types)
        for one in found
    ]
    worst = max(float(np.where(np.isfinite(one), one, np.inf).max(initial=0.0)) for one in away)
    return {
        **_certificate(requests, alone, batched),
        "worst_next_type_difference": worst if np.isfinite(worst) else None,
    }


def _certificate(requests: Requests, alone: Agreement, batched: Agreement) -> dict[str, Json]:
    both = together(alone, batched)
    slices = {
        name: both.record(kind == name)
        for kind in (requests.target, requests.history)
        for name in sorted({str(item) for item in kind} - {"edge"})
    }
    return {
        **both.record(requests.real),
        "one_by_one": alone.record(requests.real),
        "in_batches": batched.record(requests.real),
        "made_up": both.record(~requests.real),
        "slices": cast("Json", slices),
    }
