"""An Airflow home of its own, set before anything imports airflow."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="headrace-airflow-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
os.environ.setdefault("AIRFLOW__CORE__UNIT_TEST_MODE", "False")

from headrace_airflow.deployment import Deployment, Runtime
from headrace_airflow.sealed_store import SealedStore

from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.artifacts import Manifest
from tasks.contracts.json_types import Json
from tasks.contracts.stages import STAGE_FACTS, Stage

if TYPE_CHECKING:
    from tests.unit.airflow.pod_world import World

ROOT = Path(__file__).resolve().parents[3]


class Sealer:
    """Seals small artifacts in a real store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"file://{folder}/store"
        self.store = SealedStore(url=self.url)

    def seal(
        self, stage: Stage, files: Mapping[str, str], config: Mapping[str, Json] | None = None
    ) -> Manifest:
        out = self.folder / "out"
        out.mkdir(exist_ok=True)
        for name, text in files.items():
            (out / name).write_text(text)
        kind = STAGE_FACTS[stage].produces
        recipe = Recipe(kind=kind, stage=stage, inputs={}, config=config or {}, code="0" * 64)
        return ArtifactStore(ObjectStore(self.url), self.folder / "cache").seal(recipe, out, {})


@pytest.fixture
def sealer(tmp_path: Path) -> Sealer:
    return Sealer(tmp_path)


@pytest.fixture
def deployment(tmp_path: Path, sealer: Sealer) -> Deployment:
    return Deployment(
        runtime=Runtime.LOCAL,
        store_url=sealer.url,
        state_dir=tmp_path / "state",
        python=Path("/nonexistent/python"),
        stage_path=ROOT,
    )


class FakeTaskInstance:
    """The few things that an operator asks of its task instance."""

    def __init__(self, pulled: Mapping[str, str] | None = None) -> None:
        self.pulled = dict(pulled or {})
        self.pushed: dict[str, Any] = {}
        self.states: dict[str, str] = {}
        self.try_number = 1
        self.dag_id, self.run_id = "release_recommender", "manual__1"

    def xcom_pull(self, *, task_ids: str, key: str = "return_value") -> Any:
        return self.pulled.get(task_ids) if key == "return_value" else self.pushed.get(key)

    def xcom_push(self, *, key: str, value: Any) -> None:
        self.pushed[key] = value

    def get_task_states(
        self, *, dag_id: str, run_ids: list[str], task_ids: list[str] | None = None
    ) -> dict[str, dict[str, str]]:
        asked = self.states if task_ids is None else task_ids
        known = {one: self.states[one] for one in asked if one in self.states}
        return {run_ids[0]: known} if dag_id == self.dag_id else {}


@pytest.fixture
def task_instance() -> FakeTaskInstance:
    return FakeTaskInstance()


@pytest.fixture
def world(
    tmp_path: Path, deployment: Deployment, sealer: Sealer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A task instance, a store and a Kubernetes for the tests of StageOperator."""
    # Airflow, first imported by a conftest, closes the stream of absl's log: what pytest captures.
    from tests.unit.airflow.pod_world import pod_world

    with pod_world(tmp_path, deployment, sealer, monkeypatch) as made:
        yield made
