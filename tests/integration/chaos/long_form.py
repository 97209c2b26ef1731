"""`make chaos`: candidates that harm, long form; prints the tables that docs/benchmarks.md quotes.

Each part is made in pieces, and each piece is a line of results.jsonl in CHAOS_FOLDER: what is
there is not made again. CHAOS_PARTS=crashes,healthy names parts, CHAOS_TRIALS the trials of each,
CHAOS_SECONDS how long a healthy candidate is looked at, CHAOS_SIDE how many of those at once.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.integration.chaos.faults import FAULTS
from tests.integration.chaos.keeper_kills import kill_keepers
from tests.integration.chaos.lapses import lapse_often
from tests.integration.chaos.tables import as_tables, troubles
from tests.integration.chaos.trials import fault_piece, healthy_piece
from tests.integration.chaos.world import Protocol, World, world

Piece = dict[str, Any]
TRIALS_OF_A_PIECE = 10
KILLS_OF_A_PIECE = 50
LEASE_SECONDS = 5


class Pieces:
    """What has been measured, kept on disk line by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text() if path.exists() else ""
        self.made: list[Piece] = [json.loads(line) for line in text.splitlines()]

    def count(self, part: str) -> int:
        return sum(piece["trials"] for piece in self.made if piece["part"] == part)

    def add(self, part: str, trials: int, seen: object) -> None:
        piece = {"part": part, "trials": trials, "seen": asdict(seen)}  # type: ignore[call-overload]
        self.made.append(piece)
        with self.path.open("a") as file:
            file.write(json.dumps(piece) + "\n")
        print(f"{time.strftime('%H:%M:%S')} {part}: {self.count(part)} trials", flush=True)


def in_pieces(done: int, wanted: int, size: int) -> Iterator[int]:
    while done < wanted:
        yield min(size, wanted - done)
        done += size


def main() -> int:
    trials = int(os.environ.get("CHAOS_TRIALS", "20"))
    named = os.environ.get("CHAOS_PARTS")
    with tempfile.TemporaryDirectory(prefix="headrace-chaos-") as scratch:
        folder = Path(os.environ.get("CHAOS_FOLDER", scratch))
        folder.mkdir(parents=True, exist_ok=True)
        pieces = Pieces(folder / "results.jsonl")
        started = time.monotonic()
        for name, make in parts(pieces).items():
            if named is None or name in named.split(","):
                make(trials)
        print(f"\n{as_tables(pieces.made)}\n")
        load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
        minutes = (time.monotonic() - started) / 60
        print(f"{os.cpu_count()} cores, load average {load}, this run {minutes:.0f} min")
        found = troubles(pieces.made)
    print("\n".join(found))
    return int(bool(found))


def parts(pieces: Pieces) -> dict[str, Callable[[int], None]]:
    """Return what there is to measure, by name."""
    return {
        **{fault.name: _faults(pieces, fault.name) for fault in FAULTS},
        "keeper killed": lambda trials: _keeper_killed(pieces, round(2.5 * trials)),
        "renewer killed": lambda trials: _renewer_killed(pieces, trials // 2),
        "healthy": lambda trials: _healthy(pieces, trials),
    }


def _draw(pieces: Pieces, part: str) -> random.Random:
    return random.Random(f"{part} {pieces.count(part)}")


@contextmanager
def fresh_world(
    pieces: Pieces, lease_seconds: int | None = None, protocol: Protocol = "rest"
) -> Iterator[World]:
    """Give a world of its own; its folder stays where something went wrong."""
    folder = Path(tempfile.mkdtemp(prefix="world-", dir=pieces.path.parent))
    with world(folder, lease_seconds=lease_seconds, protocol=protocol) as made:
        yield made
    shutil.rmtree(folder)


def _faults(pieces: Pieces, name: str) -> Callable[[int], None]:
    (fault,) = (fault for fault in FAULTS if fault.name == name)

    def make(trials: int) -> None:
        for size in in_pieces(pieces.count(name), trials, TRIALS_OF_A_PIECE):
            with fresh_world(pieces, protocol=fault.protocol) as made:
                piece = fault_piece(made, fault, size, _draw(pieces, name))
                pieces.add(name, size, piece)

    return make


def _keeper_killed(pieces: Pieces, kills: int) -> None:
    name = "keeper killed"
    for size in in_pieces(pieces.count(name), kills, KILLS_OF_A_PIECE):
        with fresh_world(pieces) as made:
            pieces.add(name, size, kill_keepers(made, size, _draw(pieces, name)))


def _renewer_killed(pieces: Pieces, times: int) -> None:
    name = "renewer killed"
    for size in in_pieces(pieces.count(name), times, 3):
        with fresh_world(pieces, LEASE_SECONDS) as made:
            pieces.add(name, size, lapse_often(made, size, _draw(pieces, name)))


def _healthy(pieces: Pieces, trials: int) -> None:
    seconds = float(os.environ.get("CHAOS_SECONDS", "120"))
    side = int(os.environ.get("CHAOS_SIDE", "2"))

    def one(seed: int) -> object:
        with fresh_world(pieces) as made:
            return healthy_piece(made, seconds, seed)

    for size in in_pieces(pieces.count("healthy"), trials, side):
        draw = _draw(pieces, "healthy")
        seeds = [draw.randrange(2**31) for _ in range(size)]
        with ThreadPoolExecutor(size) as pool:
            for piece in pool.map(one, seeds):
                pieces.add("healthy", 1, piece)


if __name__ == "__main__":
    sys.exit(main())
