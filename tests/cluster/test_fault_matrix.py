"""Our column of the fault matrix, on a live cluster: no false success, no work twice, no orphan."""

from __future__ import annotations

import pytest

from tests.cluster.cells import CELLS, Cell
from tests.cluster.kubernetes_world import NAMESPACE, Matrix

pytestmark = [pytest.mark.timeout(1200)]


def _parameter(cell: Cell) -> object:
    return pytest.param(cell, id=f"{cell.fault}, {'deferrable' if cell.deferrable else 'sync'}")


@pytest.mark.parametrize("cell", [_parameter(one) for one in CELLS])
def test_a_green_task_is_sealed_work_exactly_once(matrix: Matrix, cell: Cell) -> None:
    found = matrix.result(cell)
    print(f"{cell.name}: {found.seconds:.0f} s, try {found.try_number}, {found.starts} pods")
    tail = found.log[-4000:]
    assert found.missed == [], tail
    assert found.state == cell.state, tail
    assert found.sealed is (cell.state == "success"), tail
    assert found.seals == cell.seals, tail
    assert found.pods_left == [], tail
    assert not found.overlapping
    assert len(found.steps) == len(set(found.steps)), f"a step was done twice: {found.steps}"
    if cell.state == "success":
        assert found.steps == cell.steps
    assert found.try_number in cell.tries, tail
    assert found.starts in cell.starts, tail
    assert cell.says in found.log


def test_a_stranger_under_our_name_lives_on(matrix: Matrix) -> None:
    for cell in [one for one in CELLS if one.name.startswith("stranger")]:
        if cell not in matrix:
            continue
        matrix.result(cell)
        uid = matrix.world.strangers[cell.name]
        pods = matrix.world.core.list_namespaced_pod(NAMESPACE).items
        assert uid in {pod.metadata.uid for pod in pods}
