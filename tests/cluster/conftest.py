"""Tests that need a real Kubernetes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
