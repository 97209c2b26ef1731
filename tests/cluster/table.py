"""Writes what the cells of the fault matrix came to as docs/fault-matrix.md."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cluster.cells import Cell
    from tests.cluster.kubernetes_world import Result

_HEAD = """# Fault matrix

What StageOperator really did on a live cluster, one fault a row; written by `make fault-matrix`. A pod of each cell works in eight steps
of half a second with a checkpoint after each, and notes every start, step and seal in a journal that the test reads.

{date}: Kubernetes {kubernetes}, Airflow {airflow}, cncf.kubernetes {provider}. Store on a hostPath volume, Airflow outside the cluster, a
proxy that can be told to fail in front of the Kubernetes API. Start timeout 15 s, poll 1 s.

* **pods** began to work; two where the first was lost, and the second went on from its checkpoint.
* **twice**: steps done twice, or two pods at work at once. **left**: pods still there after the run. Both must be 0.
* **try** is Airflow's number of the last try. SIGTERM to a worker costs none. A lost worker costs one, for Airflow itself fails its try.
* The step "running" of a deferrable task has no worker to kill: that is "triggerer killed".

| fault | mode | task | sealed | pods | twice | left | try | seconds |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def table(results: Mapping[Cell, Result], kubernetes: str) -> str:
    """Return the page."""
    head = _HEAD.format(
        date=datetime.now(tz=UTC).date(),
        kubernetes=kubernetes,
        airflow=version("apache-airflow"),
        provider=version("apache-airflow-providers-cncf-kubernetes"),
    )
    return head + "".join(_row(cell, found) for cell, found in results.items())


def _row(cell: Cell, found: Result) -> str:
    twice = len(found.steps) - len(set(found.steps)) + int(found.overlapping)
    values = (
        cell.fault,
        "deferrable" if cell.deferrable else "sync",
        found.state,
        found.seals,
        found.starts,
        twice,
        len(found.pods_left),
        found.try_number,
        f"{found.seconds:.0f}",
    )
    return f"| {' | '.join(map(str, values))} |\n"
