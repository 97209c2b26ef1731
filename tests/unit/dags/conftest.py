"""The DAGs as Airflow sees them, in a deployment of their own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="headrace-airflow-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def dags() -> Iterator[dict[str, Any]]:
    """All DAGs by name; what they take from the environment is there for one file's tests only."""
    from airflow.dag_processing.dagbag import DagBag
    from headrace_airflow.deployment import the_deployment

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_RUNTIME", "local")
        patch.setenv("HEADRACE_STORE", "file:///nonexistent/store")
        patch.setenv("HEADRACE_STATE", "/nonexistent/state")
        the_deployment.cache_clear()
        bag = DagBag(str(ROOT / "dags"))
        assert bag.import_errors == {}
        yield dict(bag.dags)
    the_deployment.cache_clear()
