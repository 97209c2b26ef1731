"""Golden requests of a bundle, and whether a server's answer is the one they promise."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.contracts.errors import CorruptArtifactError
from tasks.contracts.served_signatures import NEXT_EVENT, SERVING_DEFAULT

GOLDEN_FILE = "golden.jsonl"
COMPARED_PLACES = 10
TIE_TOLERANCE = 1e-5  # of a score, or of the request's best score where that is below 1


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """The best items of one request, best first, with their scores."""

    items: tuple[str, ...]
    scores: tuple[float, ...]
    next_types: tuple[float, ...] = ()  # chances of the next event's type, where they are answered


@dataclass(frozen=True, kw_only=True)
class GoldenRequest:
    """What one user's client sends, and the compressed model's answer to it."""

    user: str
    inputs: Mapping[str, Any]  # one row of each: a history and its steps ago, or a picture
    answer: Ranked
    ranked: str = "items"  # the output that names what is ranked; `classes` of a classifier
    signature: str = SERVING_DEFAULT


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Whether an answer is right, and its worst difference of a score (None: not a number)."""

    right: bool
    worst_score_difference: float | None
    first_wrong_place: int | None = None


def read_golden(folder: Path) -> Iterator[GoldenRequest]:
    """Yield the golden requests of a serving bundle; errors name file and line."""
    path = folder / GOLDEN_FILE
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            inputs, ranked = _inputs_of(record)
            yield GoldenRequest(
                user=str(record["user"]),
                inputs=inputs,
                ranked=ranked,
                signature=NEXT_EVENT if "event_types" in inputs else SERVING_DEFAULT,
                answer=Ranked(
                    items=tuple(map(str, record["items"])),
                    scores=tuple(map(float, record["scores"])),
                    next_types=tuple(map(float, record.get("next_types", ()))),
                ),
            )
        except (ValueError, KeyError, TypeError) as error:
            message = (
                f"{path.name} line {number}: expected a golden request with user, items, scores and "
                f"either history and steps_ago or images, found {line[:80]!r} ({error!r})"
            )
            raise CorruptArtifactError(message) from error


def _inputs_of(record: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    if "images" in record:
        image = [[int(value) for value in row] for row in record["images"]]
        return {"images": [image]}, "classes"
    inputs: dict[str, Any] = {
        "history": [[str(item) for item in record["history"]]],
        "steps_ago": [[int(ago) for ago in record["steps_ago"]]],
    }
    if "event_types" in record:
        inputs["event_types"] = [[str(kind) for kind in record["event_types"]]]
    return inputs, "items"


def compare(served: Ranked, promised: Ranked) -> Comparison:
    """Compare the first ten places: equal items, or a tie of both models within the tolerance.

    Where chances of the next type are promised, each must be there within the tolerance.
    """
    depth = min(len(served.items), len(promised.items))
    differences = [
        abs(mine - theirs)
        for mine, theirs in zip(served.scores[:depth], promised.scores[:depth], strict=True)
    ]
    finite = all(map(math.isfinite, differences))
    worst = max(differences, default=0.0) if finite else None
    complete = depth >= min(COMPARED_PLACES, len(promised.items))
    wrong = [
        place
        for place in range(min(COMPARED_PLACES, depth))
        if not _same_place(served, promised, place)
    ]
    return Comparison(
        right=finite and complete and not wrong and _same_types(served, promised),
        worst_score_difference=worst,
        first_wrong_place=wrong[0] if wrong else None,
    )


def _same_types(served: Ranked, promised: Ranked) -> bool:
    if not promised.next_types:
        return True
    if len(served.next_types) != len(promised.next_types):
        return False
    pairs = zip(served.next_types, promised.next_types, strict=True)
    return all(abs(mine - theirs) <= TIE_TOLERANCE for mine, theirs in pairs)


def _same_place(served: Ranked, promised: Ranked, place: int) -> bool:
    item, wanted = served.items[place], promised.scores[place]
    if item == promised.items[place]:
        return True
    tolerance = TIE_TOLERANCE * min(abs(promised.scores[0]), 1.0)
    # An item beyond the promised list scores at most what the last of the list scores.
    theirs = _score_of(item, promised.items, promised.scores)
    return abs(theirs - wanted) <= tolerance and abs(served.scores[place] - wanted) <= tolerance


def _score_of(item: str, items: Sequence[str], scores: Sequence[float]) -> float:
    return scores[items.index(item)] if item in items else scores[-1]
