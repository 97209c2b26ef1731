"""Stages of two pods on a live cluster: they begin together, end together, and leave nothing behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from headrace_airflow.sealed_store import SealedStore

from tasks.contracts.artifacts import Address
from tests.cluster.airflow_parts import patiently
from tests.cluster.cells import Cell
from tests.cluster.group_cells import PLAIN_CELLS, TORCH_CELLS, TORCH_IMAGE
from tests.cluster.kubernetes_world import NAMESPACE, Matrix, Result, World, load_archive

pytestmark = [pytest.mark.timeout(900)]
SHORT_FORM = frozenset({"two_s", "rank_fails_d", "all_reduce_d"})  # the last needs `make images`


def _parameter(cell: Cell, *more: Any) -> object:
    mode = "deferrable" if cell.deferrable else "sync"
    return pytest.param(cell, *more, id=f"{cell.fault}, {mode}", marks=_marks(cell))


def _marks(cell: Cell) -> tuple[pytest.MarkDecorator, ...]:
    return () if cell.name in SHORT_FORM else (pytest.mark.slow,)


def services(world: World, cell: Cell) -> list[str]:
    """Return the Services of the cell's groups."""
    prefix = cell.name.replace("_", "-") + "-"
    return [
        one.metadata.name
        for one in world.core.list_namespaced_service(NAMESPACE).items
        if any(owner.name.startswith(prefix) for owner in one.metadata.owner_references or ())
    ]


def expect(matrix: Matrix, cell: Cell) -> Result:
    found = matrix.result(cell)
    tail = found.log[-4000:]
    assert found.state == cell.state, tail
    assert found.sealed is (cell.state == "success"), tail
    assert found.seals == cell.seals, tail
    assert found.try_number == 1, tail
    assert cell.says in found.log, tail
    assert found.pods_left == [], tail
    patiently(lambda: not services(matrix.world, cell), 30, f"the end of {cell.name}'s Service")
    assert len(found.steps) == len(set(found.steps)), f"a step was done twice: {found.steps}"
    return found


@pytest.mark.parametrize("cell", [_parameter(one) for one in PLAIN_CELLS])
def test_two_pods_begin_together_and_leave_nothing_behind(matrix: Matrix, cell: Cell) -> None:
    found = expect(matrix, cell)
    assert found.starts in [2 * count for count in cell.starts]  # each group: both ranks or none
    if cell.state == "success":
        assert found.steps == cell.steps


@pytest.fixture(scope="module")
def torch_image(cluster: None) -> None:
    """The image that `make images` made of this code, in the cluster."""
    look = ["buildah", "inspect", "--type", "image", TORCH_IMAGE]
    if shutil.which("buildah") is None or subprocess.run(look, capture_output=True).returncode:
        pytest.skip(f"no {TORCH_IMAGE}: make images IMAGES=torch")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "torch.tar")
        target = f"docker-archive:{archive}:{TORCH_IMAGE}"
        subprocess.run(["buildah", "push", "-q", TORCH_IMAGE, target], check=True)
        load_archive(archive)


@pytest.mark.parametrize(
    "torch_cell", [pytest.param(one, id=one.name, marks=_marks(one)) for one in TORCH_CELLS]
)
def test_two_pods_add_their_numbers_by_gloo_or_fail_together(
    torch_image: None, matrix: Matrix, torch_cell: Cell
) -> None:
    matrix.also(torch_cell)
    found = expect(matrix, torch_cell)
    assert found.starts == 2
    if torch_cell.state == "failed":
        return
    store = SealedStore(url=f"file://{matrix.world.folder}/store")
    total = json.loads(store.payload(Address.parse(str(found.address)), "sum.json"))
    assert total == {"least": 11.0, "most": 11.0, "numbers": 100_000}
