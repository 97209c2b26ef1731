"""Tests that need a real Kubernetes."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cluster.kubernetes_world import Matrix

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def cluster() -> None:
    """A cluster, or a skip that says how to get one."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip('set KUBECONFIG to a Kubernetes, such as: eval "export $(shared/k8s/up)"')


@pytest.fixture(scope="session")
def matrix(request: pytest.FixtureRequest, cluster: None) -> Iterator[Matrix]:
    """The cells of the chosen tests, at play; $HEADRACE_MATRIX_TABLE: what they came to, as a page."""
    from tests.cluster.kubernetes_world import Matrix, World  # asks for KUBECONFIG

    chosen = [
        item.callspec.params["cell"]
        for item in request.session.items
        if "cell" in getattr(getattr(item, "callspec", None), "params", {})
    ]
    folder = Path(
        tempfile.mkdtemp(prefix="headrace-matrix-", dir=os.environ.get("HEADRACE_SCRATCH"))
    )
    world = World(folder)
    try:
        world.start()
        made = Matrix(world, chosen)
        yield made
        made.close()
        if "HEADRACE_MATRIX_TABLE" in os.environ:
            _write_table(made, Path(os.environ["HEADRACE_MATRIX_TABLE"]))
    finally:
        world.stop()


def _write_table(made: Matrix, target: Path) -> None:
    from tests.cluster.cells import CELLS
    from tests.cluster.table import table

    stock = os.environ.get("HEADRACE_MATRIX_STOCK")
    played = {} if stock is None else json.loads(Path(stock).read_text())
    results = {cell: found for cell, found in made.results().items() if cell in CELLS}
    target.write_text(table(results, made.world.kubernetes_version(), played))
