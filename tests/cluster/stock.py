"""Plays the cells with the stock operator: `python -m tests.cluster.stock RESULTS.json [CELL...]`.

Nothing is demanded of it; what it did is written down.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.cluster.cells import CELLS, Cell
from tests.cluster.kubernetes_world import AT_ONCE, World, overlap
from tests.cluster.table import HANGS_SECONDS

PODS_SECONDS = 30.0  # for what the operator deletes
# It has no reaper, no seal, no queue, and refuses nothing.
NOT_OF_STOCK = ("reaped", "silent", "gpu_queue", "nowhere")


def play(world: World, cell: Cell) -> dict[str, Any]:
    trouble = ""
    try:
        cell.prepare(world, cell)
        run = world.run(cell.name)
        cell.drive(world, cell, run)
    except Exception as error:  # noqa: BLE001  what the cell waits for may never come
        trouble = f"{error!r:.200}"
    deadline = time.monotonic() + HANGS_SECONDS
    while run.run_state not in {"success", "failed"} and time.monotonic() < deadline:
        time.sleep(1)
    task = run.task
    deadline = time.monotonic() + PODS_SECONDS
    while world.pods(cell.name) and time.monotonic() < deadline:
        time.sleep(1)
    events = world.events(cell.name)
    steps = [one["step"] for one in events if one["event"] == "step"]
    return {
        "state": task["state"],
        "try": task["try_number"],
        "starts": sum(one["event"] == "start" for one in events),
        "seals": sum(one["event"] == "sealed" for one in events),
        "twice": len(steps) - len(set(steps)) + int(overlap(events)),
        "left": len(world.pods(cell.name)),
        "trouble": trouble,
    }


def played(world: World, cell: Cell) -> dict[str, Any]:
    try:
        with world.turn(cell):
            return play(world, cell)
    except Exception as error:  # noqa: BLE001  one cell's trouble is no other's
        return {"trouble": f"{error!r:.200}"}


def main() -> None:
    target, names = Path(sys.argv[1]), tuple(sys.argv[2:])
    cells = [
        cell
        for cell in CELLS
        if not cell.name.startswith(NOT_OF_STOCK) and (not names or cell.name.startswith(names))
    ]
    world = World(Path(tempfile.mkdtemp(prefix="headrace-stock-")), dags="dags_of_stock")
    found: dict[str, Any] = {}
    try:
        world.start()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            playing = {pool.submit(played, world, cell): cell for cell in cells}
            for one in as_completed(playing):
                found[playing[one].name] = one.result()
                target.write_text(json.dumps(found, indent=1))
    finally:
        world.stop()


if __name__ == "__main__":
    main()
