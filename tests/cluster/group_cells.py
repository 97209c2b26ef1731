"""Cells of stages that are groups of two pods; what must hold of them is in test_pod_groups.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace_airflow.compute_profiles import ProfileName

from tasks.contracts.image_tags import image_tag
from tests.cluster.cells import Cell
from tests.cluster.faults_of_cells import no_pool_holds_it

if TYPE_CHECKING:
    from tests.cluster.airflow_parts import TaskRun
    from tests.cluster.kubernetes_world import World

TORCH_IMAGE = f"localhost/headrace/torch:{image_tag('torch')}"
# The matrix's own image meets without torch: its entry point stands where torchrun's would.
_WITHOUT_TORCH: dict[str, Any] = {"cmds": []}


def _two(what: str, name: str, **more: Any) -> Cell:
    operator = more.pop("operator", _WITHOUT_TORCH)
    return Cell(fault=what, name=name, ranks=2, operator=operator, **more)


def a_rank_is_deleted(world: World, cell: Cell, run: TaskRun) -> None:
    world.await_event(cell.name, "step")
    (second,) = [pod for pod in world.pods(cell.name) if pod.metadata.name.endswith("-r1")]
    world.remove_pod(second.metadata.name)


def _torch(name: str, **more: Any) -> Cell:
    launcher = ["python", "-m", "tasks.training.launch", "two_rank_stage"]
    operator = {"image": TORCH_IMAGE, "cmds": launcher}
    return _two("torch", name, operator=operator, memory_gib=1, retries=0, **more)


RANK_1_FAILS = "rank 1 of 2 ended with exit code 7: rank 1 gave up: as told"
PLAIN_CELLS: tuple[Cell, ...] = (
    _two("two ranks", "two_s", deferrable=False),
    _two("two ranks", "two_d", deferrable=True),
    *(
        _two(
            "one rank fails",
            f"rank_fails_{'d' if deferrable else 's'}",
            deferrable=deferrable,
            settings={"behaviour": "rank_fails", "steps": 30},
            retries=0,
            state="failed",
            says=RANK_1_FAILS,
        )
        for deferrable in (False, True)
    ),
    _two(
        "one rank is deleted by others",
        "rank_deleted_s",
        deferrable=False,
        drive=a_rank_is_deleted,
        settings={"steps": 30},
        starts=(2,),
        says="was disrupted (1 of 3)",
    ),
    _two(
        "room for one rank only, in a pool that may grow",
        "half_group_d",
        deferrable=True,
        profile=ProfileName.GPU_SERVE,
        retries=0,
        state="failed",
        starts=(0,),
        says="was part of an incomplete group for",
    ),
    _two(
        "room for one rank only, in a pool that never grows",
        "group_nowhere_s",
        deferrable=False,
        drive=no_pool_holds_it,
        profile=ProfileName.GPU_TRAIN,
        state="failed",
        starts=(0,),
        says="expected room for 2 pods at once, found room for 1",
    ),
)
TORCH_CELLS: tuple[Cell, ...] = (
    _torch("all_reduce_d", deferrable=True),
    _torch(
        "torch_fails_s",
        deferrable=False,
        settings={"behaviour": "rank_fails"},
        state="failed",
        says=RANK_1_FAILS,
    ),
)
GROUP_CELLS = PLAIN_CELLS + TORCH_CELLS
