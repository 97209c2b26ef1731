"""`told_steps.py STAGE REQUEST` runs a stage as `python -m tasks` does, every sentence of it told; and what they say of a kill.

Sentences go to HEADRACE_LOG_FILE with their times, so that the steps of a killed fit can be counted.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tasks import __main__ as runner
from tests.integration.kills.driver import Lost

_TOLD = re.compile(r"epoch (\d+)(?:, batch (\d+) of|: loss)")
_RESUMED = re.compile(r"epoch (\d+)(?: and batch (\d+))?")
Place = tuple[int, float]  # epoch and batch, infinite at the epoch's end


@dataclass(frozen=True, kw_only=True)
class Step:
    """A batch that was done, or an epoch."""

    place: Place
    at: float  # seconds


def steps_told(file: Path) -> list[list[Step]]:
    """Return the steps of each process that wrote to `file`, in order."""
    found: dict[int, list[Step]] = {}
    for text in file.read_text().splitlines():
        line = json.loads(text)
        steps = found.setdefault(line["pid"], [])
        said = _TOLD.search(line["message"])
        if said:
            place = int(said[1]), float(said[2] or math.inf)
            steps.append(Step(place=place, at=datetime.fromisoformat(line["time"]).timestamp()))
    return list(found.values())


def place_of(resumed_from: str | None) -> Place:
    """Return the last step that a checkpoint holds, as facts say it."""
    said = _RESUMED.match(resumed_from or "")
    if said is None:
        return 0, math.inf
    return (int(said[1]), math.inf) if said[2] is None else (int(said[1]) + 1, float(said[2]))


def lost_steps(
    killed: Sequence[Step], again: Sequence[Step], resumed_from: str | None, interval: float
) -> Lost:
    """Return how many batches were done twice; too many are those of more than an interval and a batch."""
    kept = place_of(resumed_from)
    lost = [step for step in killed if step.place > kept and step.place[1] < math.inf]
    saved_at = max((step.at for step in killed if step.place <= kept), default=-math.inf)
    late = [step for step in lost if step.at - saved_at > interval]
    trouble = ""
    if len(late) > 1:
        trouble = (
            f"expected at most {interval:g} s and a batch of work lost, found {len(lost)} steps, "
            f"{len(late)} of them later than that after {resumed_from or 'nothing'}"
        )
    if any(step.place <= kept for step in again):
        trouble = f"expected steps after {resumed_from} only, found {again[0].place}"
    return Lost(steps=len(lost), trouble=trouble)


if __name__ == "__main__":
    runner.PROGRESS_SECONDS = 0.0
    sys.exit(runner.main(sys.argv[1:]))
