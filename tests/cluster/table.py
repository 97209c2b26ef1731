"""Writes what the cells of the fault matrix came to as docs/fault-matrix.md."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.cluster.cells import Cell
    from tests.cluster.kubernetes_world import Result

HANGS_SECONDS = 240  # on a busy machine a task without any fault took over 100
_HEAD = """# Fault matrix

What StageOperator really did on a live cluster, one fault a row; written by `make fault-matrix`. A pod of each cell works in eight steps
of half a second with a checkpoint after each, and notes every start, step and seal in a journal that the test reads.

{date}: Kubernetes {kubernetes}, Airflow {airflow}, cncf.kubernetes {provider}. Store on a hostPath volume, Airflow outside the cluster, a
proxy that can be told to fail in front of the Kubernetes API. Start timeout 15 s, poll 1 s.

* **pods** began to work; two where the first was lost, and the second went on from its checkpoint.
* **twice**: steps done twice, or two pods at work at once. **left**: pods still there after the run. Both must be 0.
* **try** is Airflow's number of the last try. SIGTERM to a worker costs none. A lost worker costs one, for Airflow itself fails its try.
* The step "running" of a deferrable task has no worker to kill: that is "triggerer killed".
* The GPU is pretended: one `nvidia.com/gpu` on the real node, taken by a pod or by a stage of higher priority; the scheduler is real.

The last column is what the stock KubernetesPodOperator, with its defaults and the same image and request, did under the same fault.
A task that had not ended after {hangs} s hangs. This kubelet may take 90 s to remove a pod, so one still there after 30 s is no orphan yet.

| fault | mode | task | sealed | pods | twice | left | try | seconds | stock |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def table(results: Mapping[Cell, Result], kubernetes: str, stock: Mapping[str, Any]) -> str:
    """Return the page."""
    head = _HEAD.format(
        date=datetime.now(tz=UTC).date(),
        kubernetes=kubernetes,
        hangs=HANGS_SECONDS,
        airflow=version("apache-airflow"),
        provider=version("apache-airflow-providers-cncf-kubernetes"),
    )
    return head + "".join(
        _row(cell, found, stock.get(cell.name)) for cell, found in results.items()
    )


def _row(cell: Cell, found: Result, stock: Mapping[str, Any] | None) -> str:
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
        "not played" if stock is None else in_words(stock),
    )
    return f"| {' | '.join(map(str, values))} |\n"


def in_words(stock: Mapping[str, Any]) -> str:
    """Say what the stock operator did; bold what we promise not to do."""
    if "state" not in stock:
        return f"could not be played: {stock['trouble']:.80}"
    state, seals = stock["state"], stock["seals"]
    said = [f"{state} on try {stock['try']}, {stock['starts']} pods worked"]
    if state == "success" and not seals:
        said.append("**false success: nothing sealed**")
    if state == "failed" and seals:
        said.append("**sealed work lost**")
    if state not in {"success", "failed"}:
        said.append("**hangs**")
    if stock["twice"]:
        said.append(f"**work done twice ({stock['twice']})**")
    if stock["left"]:
        said.append(f"{stock['left']} pods still there after 30 s")
    if stock["trouble"]:
        said.append(f"the fault could not be put in place: {stock['trouble']:.60}")
    return "; ".join(said)
