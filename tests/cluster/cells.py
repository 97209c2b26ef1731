"""The cells of the fault matrix: which fault, at which point, and what must hold afterwards."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from headrace_airflow.compute_profiles import ProfileName

from tests.cluster import faults_of_cells as faults
from tests.cluster.faults_of_cells import Drive, Prepare

STEPS = 8  # half a second each
SYNC, DEFERRABLE = False, True


@dataclass(frozen=True)
class _ByMode:
    sync: Any
    deferrable: Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """One fault in one mode, and the end it must come to."""

    fault: str  # as the table names it
    name: str  # of the DAG, the task and the pods
    deferrable: bool
    prepare: Prepare = faults.unprepared  # before the run starts
    drive: Drive = faults.undisturbed  # once it has started
    settings: Mapping[str, Any] = field(default_factory=dict)
    operator: Mapping[str, Any] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    profile: ProfileName = ProfileName.CPU
    cpu_cores: float = 0.1
    memory_gib: float = 0.125
    ranks: int = 1
    queue_seconds: float | None = None  # None: as the world has it
    retries: int = 1
    state: str = "success"
    tries: tuple[int, ...] = (1,)  # the numbers that the last try may have
    starts: tuple[int, ...] = (1,)  # of pods that began to work
    says: str = ""  # part of the task's log

    @property
    def steps(self) -> list[int]:
        """The steps of the whole work."""
        return list(range(self.settings.get("steps", STEPS)))

    @property
    def seals(self) -> int:
        return 1 if self.state == "success" else 0

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "deferrable": self.deferrable,
            "settings": {"cell": self.name, "steps": STEPS, **self.settings},
            "operator": dict(self.operator),
            "node_selector": dict(self.node_selector),
            "profile": self.profile.value,
            "cpu_cores": self.cpu_cores,
            "memory_gib": self.memory_gib,
            "ranks": self.ranks,
            "queue_seconds": self.queue_seconds,
            "retries": self.retries,
        }


def _of_mode(value: Any, deferrable: bool) -> Any:
    if not isinstance(value, _ByMode):
        return value
    return value.deferrable if deferrable else value.sync


def _in_modes(fault: str, name: str, *modes: bool, **more: Any) -> Iterator[Cell]:
    """Yield the cell in the modes named, or in both."""
    for deferrable in modes or (SYNC, DEFERRABLE):
        full = f"{name}_{'d' if deferrable else 's'}"
        chosen = {key: _of_mode(value, deferrable) for key, value in more.items()}
        yield Cell(fault=fault, name=full, deferrable=deferrable, **chosen)


def _worker_cells(how: signal.Signals, short: str, tries: tuple[int, ...]) -> Iterator[Cell]:
    points = (
        ("before create", "before", (), faults.killed_before_create),
        ("after create, before persist", "after", (), faults.killed_after_create),
        ("while running", "run", (SYNC,), faults.killed_while_running),
        ("after exit", "exit", (), faults.killed_after_exit),
    )
    for point, name, modes, kill in points:
        fault = f"worker {how.name} {point}"
        yield from _in_modes(fault, f"{short}_{name}", *modes, drive=kill(how), tries=tries)


def _airflow_cells() -> Iterator[Cell]:
    yield from _in_modes("no fault", "plain")
    # A worker's shutdown is no try of the user's; a lost worker is one.
    yield from _worker_cells(signal.SIGTERM, "term", tries=(1,))
    yield from _worker_cells(signal.SIGKILL, "kill", tries=(2,))
    yield from _in_modes(
        "worker SIGKILL on the last try, then the reaper",
        "reaped",
        SYNC,
        drive=faults.killed_on_the_last_try,
        settings={"steps": 400},
        retries=0,
        state="failed",
    )
    yield from _in_modes("triggerer killed", "triggerer", DEFERRABLE, drive=faults.triggerer_killed)


def _pod_cells() -> Iterator[Cell]:
    yield from _in_modes(
        "pod deleted before re-entry",
        "deleted",
        prepare=faults.deleted_before_re_entry,
        starts=_ByMode((2,), (1,)),
    )
    yield from _in_modes(
        "same name, another uid", "stranger", drive=faults.same_name_another_uid, starts=(2,)
    )
    yield from _in_modes("pod evicted", "evicted", drive=faults.evicted, starts=(2,))
    yield from _in_modes(
        "node later than the start timeout",
        "late_node",
        drive=faults.node_comes_late,
        node_selector=_ByMode({"headrace/late-node-s": "here"}, {"headrace/late-node-d": "here"}),
    )


def _gpu_cells() -> Iterator[Cell]:
    on_gpu: dict[str, Any] = {"profile": ProfileName.GPU_TRAIN}
    yield from _in_modes(
        "GPU taken for longer than the start timeout",
        "gpu_taken",
        prepare=faults.gpu_is_taken,
        drive=faults.gpu_comes_free_late,
        says=_ByMode("Insufficient nvidia.com/gpu", ""),
        **on_gpu,
    )
    yield from _in_modes(
        "GPU taken for longer than the queue timeout",
        "gpu_queue",
        prepare=faults.gpu_is_taken,
        queue_seconds=8.0,
        state="failed",
        retries=0,
        starts=(0,),
        says="it had no node for",
        **on_gpu,
    )
    yield from _in_modes(
        "no pool can ever hold it",
        "nowhere",
        drive=faults.no_pool_holds_it,
        cpu_cores=15,
        state="failed",
        starts=(0,),
        says="expected a node that can hold the pod when empty, found none",
        **on_gpu,
    )
    yield from _in_modes(
        "preempted on its spot GPU by a stage of higher priority",
        "preempted",
        drive=faults.preempted,
        settings={"steps": 60},
        starts=(2,),
        says="was disrupted (1 of 3)",
        profile=ProfileName.SPOT_GPU,
    )


def _end_cells() -> Iterator[Cell]:
    yield from _in_modes(
        "out of memory",
        "oom",
        settings={"behaviour": "oom_once"},
        tries=(2,),
        starts=(2,),
        says="killed for memory at its limit of 128Mi",
    )
    yield from _in_modes("API answers 409", "api409", prepare=faults.api_answers_409)
    yield from _in_modes("API answers 429", "api429", prepare=faults.api_answers_429)
    yield from _in_modes("API answers 500", "api500", prepare=faults.api_answers_500)
    yield from _in_modes("API away for 20 s", "away", drive=faults.api_away_20_s)
    yield from _in_modes("result of 5 MB", "large", settings={"payload_bytes": 5 * 1024 * 1024})
    long = {"steps": 30}  # the triggerer needs some seconds to notice
    yield from _in_modes(
        "marked failed in the UI",
        "marked",
        drive=faults.marked_failed,
        settings=long,
        state="failed",
    )
    yield from _in_modes(
        "cleared in the UI while running",
        "cleared",
        drive=faults.cleared,
        settings=long,
        tries=(2,),
        starts=(2,),
    )
    yield from _in_modes(
        "image that cannot be had",
        "image",
        operator={"image": "localhost/headrace/none:1"},
        state="failed",
        retries=0,
        starts=(0,),
        says="did not start on its node",
    )
    yield from _in_modes(
        "ends well without sealed work",
        "silent",
        settings={"behaviour": "silent"},
        state="failed",
        retries=0,
        says="is not green",
    )


CELLS: tuple[Cell, ...] = tuple(chain(_airflow_cells(), _pod_cells(), _gpu_cells(), _end_cells()))
# They take the GPU of others, and have no row of their own.
RIVALS: tuple[Cell, ...] = tuple(
    Cell(
        fault="",
        name=faults.rival_of(cell.name),
        deferrable=cell.deferrable,
        settings={"steps": 2},
        profile=ProfileName.GPU_TRAIN,
    )
    for cell in CELLS
    if cell.drive is faults.preempted
)


def cells_json(cells: tuple[Cell, ...]) -> str:
    """Return the cells as the DAG file reads them."""
    return json.dumps([cell.to_json() for cell in cells])
