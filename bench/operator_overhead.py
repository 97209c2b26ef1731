"""What StageOperator costs beside the stock KubernetesPodOperator, on KUBECONFIG's cluster.

One chain for each mode, one after the other, the two operators taking turns: same image, same
request, the stock operator's own poll interval (2 s) as the longest for both. Prints a table for
docs/benchmarks.md.
usage: python -m bench.operator_overhead [--pods 20] [--modes sync deferrable]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from tests.cluster.airflow_parts import TaskRun, patiently
from tests.cluster.cells import Cell
from tests.cluster.kubernetes_world import World

STOCK_POLL_SECONDS = "2"
RESAMPLES = 10_000
PAGE = 100  # task instances, the most that the API gives at once
INTERVALS = ("task start to first line", "last line to green")


def cells(mode: str, pods: int) -> list[Cell]:
    """Return the pods of one chain: pairs, and every other pair begins with the other operator.

    The first pair warms up what both need, and is not counted.
    """
    made = []
    for pair in range(pods + 1):
        order = ("ours", "stock") if pair % 2 == 0 else ("stock", "ours")
        made += [
            Cell(
                fault="",
                name=f"{who}_{mode}_{pair:02}",
                deferrable=mode == "deferrable",
                settings={"steps": 2},
            )
            for who in order
        ]
    return made


class Chains(World):
    """The matrix's world without its proxy and cells."""

    def __init__(self, folder: Path, chains: Mapping[str, Sequence[Cell]]) -> None:
        self.chains = chains
        super().__init__(folder, dags=str(Path(__file__).with_name("overhead_dags").resolve()))

    def _environment(self) -> dict[str, str]:
        environment = super()._environment()
        written = {
            "overhead.json": json.dumps(
                {mode: [one.to_json() for one in chain] for mode, chain in self.chains.items()}
            ),
            "none.json": "[]",
        }
        for name, text in written.items():
            (self.folder / name).write_text(text)
        return environment | {
            "KUBECONFIG": self.cluster_config,
            "OVERHEAD_CELLS": str(self.folder / "overhead.json"),
            "MATRIX_CELLS": str(self.folder / "none.json"),
            "HEADRACE_POLL_SECONDS": STOCK_POLL_SECONDS,
            "HEADRACE_START_SECONDS": "120",
        }

    def task_instances(self, run: TaskRun) -> list[Any]:
        """Return the task instances of a run, asked for page by page."""
        found: list[Any] = []
        while True:
            where = f"{run.path}/taskInstances?limit={PAGE}&offset={len(found)}"
            answer = self.airflow.call("GET", where)
            found += answer["task_instances"]
            if len(found) >= answer["total_entries"]:
                return found

    def seconds(self, mode: str, run: TaskRun) -> dict[str, dict[str, list[float]]]:
        """Wait for a chain's end; return seconds by interval and operator."""
        patiently(lambda: run.run_state in {"success", "failed"}, 3600, f"the end of {mode}")
        tasks = {one["task_id"]: one for one in self.task_instances(run)}
        taken: dict[str, dict[str, list[float]]] = {
            name: {"ours": [], "stock": []} for name in INTERVALS
        }
        for cell in self.chains[mode][2:]:
            task = tasks[cell.name]
            if (task["state"], task["try_number"]) != ("success", 1):
                message = f"{cell.name}: expected success on try 1, found {task['state']}"
                raise RuntimeError(message)
            at = {one["event"]: one["at"] for one in self.events(cell.name)}
            who = cell.name.partition("_")[0]
            start, green = (
                datetime.fromisoformat(task[name]).timestamp()
                for name in ("start_date", "end_date")
            )
            taken[INTERVALS[0]][who].append(at["start"] - start)
            taken[INTERVALS[1]][who].append(green - at["last"])
        return taken


def upper_bound(ours: Sequence[float], stock: Sequence[float]) -> float:
    """Return the 95th percentile of the bootstrapped ratio of medians."""
    rng = np.random.default_rng(1)
    medians = [
        np.median(rng.choice(values, (RESAMPLES, len(values))), axis=1) for values in (ours, stock)
    ]
    return float(np.quantile(medians[0] / medians[1], 0.95))


def row(mode: str, interval: str, ours: Sequence[float], stock: Sequence[float]) -> str:
    """Return one line of the table."""
    medians = [float(np.median(values)) for values in (ours, stock)]
    cells = (
        mode,
        interval,
        *(f"{value:.2f} s" for value in medians),
        f"{medians[0] / medians[1]:.3f}",
        f"{upper_bound(ours, stock):.3f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=20, help="of each operator, in each mode")
    parser.add_argument("--modes", nargs="+", default=["sync", "deferrable"])
    parser.add_argument("--raw", type=Path, help="file for the single figures")
    options = parser.parse_args()
    chains = {mode: cells(mode, options.pods) for mode in options.modes}
    world = Chains(Path(tempfile.mkdtemp(prefix="headrace-overhead-")), chains)
    raw = {}
    try:
        world.start()
        print("| mode | interval | ours, median | stock, median | ratio | upper 95 % bound |")
        print("|---|---|---|---|---|---|")
        for mode in options.modes:  # side by side they would take each other's cores
            raw[mode] = world.seconds(mode, world.run(mode))
            for interval, taken in raw[mode].items():
                print(row(mode, interval, taken["ours"], taken["stock"]), flush=True)
    finally:
        world.stop()
        if options.raw is not None:
            options.raw.write_text(json.dumps(raw))
    sys.stderr.write(f"{options.pods} pods of each operator in each mode\n")


if __name__ == "__main__":
    main()
