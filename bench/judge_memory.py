"""What the judge keeps in memory of a traffic step, against all its lines in a list.

`python -m bench.judge_memory [LINES]` writes so many exposures and outcomes (a million), of a user
for every twenty, and lets two processes of their own sum them up. Prints the peak of each above what
it had before, in bytes a line, and the ratio.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tasks.contracts.requests import PLANS
from tasks.rollout.exposure_files import as_lines, json_lines, open_file, read_exposures
from tasks.rollout.observation import StepFacts, observe

BEGAN = 1_764_200_000.0
BLOCK = 10_000
STREAM, LIST = "line by line", "as a list"
FACTS = StepFacts(
    model="shop",
    release_id="second",
    rollout="r2",
    salt="salt",
    step=3,
    candidate_colour="green",
    per_try_timeout_ms=150.0,
    plan=PLANS["replay"],
)


def write_step(folder: Path, lines: int) -> None:
    """Write a step's exposures and outcomes, half of them the candidate's."""
    exposures = open_file(folder, BEGAN)
    exposures.parent.mkdir(parents=True)
    with exposures.open("ab") as seen, (folder / "outcomes.jsonl").open("ab") as told:
        for start in range(0, lines, BLOCK):
            block = [_exposure(number, lines // 20) for number in range(start, start + BLOCK)]
            seen.write(as_lines(block))
            told.write(
                as_lines(
                    {"request_id": one["request_id"], "hit": one["bucket"] % 2} for one in block
                )
            )


def _exposure(number: int, users: int) -> dict[str, Any]:
    user = number % users
    mine = user % 2 == 0
    return {
        "time": BEGAN + number / 1000,
        "request_id": f"6a0a5a0e-7c1b-4d6e-9c1d-{number:012d}",
        "user": f"{user:032x}",
        "variant": "candidate" if mine else "stable",
        "bucket": user % 5000 + (0 if mine else 5000),
        "step": 3,
        "slot": "green" if mine else "blue",
        "code": 200,
        "grpc_status": None,
        "flags": "-",
        "attempts": 1,
        "ms": 2 + number * 7919 % 60_000 / 1000,
    }


def sum_up(folder: Path, way: str) -> int:
    """Observe the step, and return by how many bytes this process has grown at its peak."""
    Path("/proc/self/clear_refs").write_text(
        "5"
    )  # the peak begins here: not at imports, nor at fork
    before = _peak_bytes()
    exposures, outcomes = read_exposures(folder), json_lines(folder / "outcomes.jsonl")
    if way == LIST:
        observe(FACTS, list(exposures), list(outcomes))
    else:
        observe(FACTS, exposures, outcomes)
    return _peak_bytes() - before


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def main(argv: list[str]) -> None:
    """Compare both ways over the same files."""
    if len(argv) == 3:  # the process of one way
        print(json.dumps(sum_up(Path(argv[1]), argv[2])))
        return
    lines = int(argv[1]) if len(argv) == 2 else 1_000_000
    grown = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_step(folder, lines)
        for way in (STREAM, LIST):
            command = [sys.executable, "-m", "bench.judge_memory", made, way]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            grown[way] = json.loads(done.stdout)
            print(f"{way}: {grown[way] / 1e6:.0f} MB, {grown[way] / lines:.0f} bytes a line")
    print(f"{STREAM} against {LIST}: {grown[STREAM] / grown[LIST]:.3f} ({lines} lines)")


if __name__ == "__main__":
    main(sys.argv)
