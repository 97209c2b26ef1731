"""A task instance over its tries, a store, and a Kubernetes that does as told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from headrace_airflow import pod_life, pod_stage_operator, pod_trigger
from headrace_airflow.deployment import Deployment, Runtime
from headrace_airflow.pod_api import SharedConnection
from headrace_airflow.pod_identity import RECORD_KEY, PodRecord
from headrace_airflow.pod_settings import PodSettings
from headrace_airflow.pod_stage_operator import StageOperator
from headrace_airflow.stage_call import StageCall

from tasks.contracts.artifacts import termination_sentence
from tasks.contracts.stages import Stage
from tests.fake_kubernetes import FakeKubernetes, serving

RUN_MADE = datetime(2026, 11, 25, tzinfo=UTC)


class TaskInstance:
    """What the operator asks of its task instance."""

    dag_id, run_id, task_id, map_index = "d", "r", "promote_release", -1

    def __init__(self) -> None:
        self.pushed: dict[str, str] = {}
        self.max_tries, self.try_number = 2, 1

    def xcom_pull(self, *, task_ids: str) -> None:
        return None

    def xcom_push(self, *, key: str, value: str) -> None:
        self.pushed[key] = value


class StateStore(dict[str, Any]):
    """Airflow's task state store: it outlives the tries."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


class World:
    """One task instance over its tries, a store, and a Kubernetes that does as told."""

    def __init__(self, fake: FakeKubernetes, deployment: Deployment, sealer: Any) -> None:
        self.fake, self.deployment, self.sealer = fake, deployment, sealer
        self.ti, self.state = TaskInstance(), StateStore()
        self.in_airflow: str | None = "running"
        self.stage, self.params = Stage.PROMOTE_RELEASE, dict[str, Any]()

    def operator(self, *, deferrable: bool = False, **more: Any) -> StageOperator:
        call = StageCall(stage=self.stage, settings={"n": 1}, **more.pop("call", {}))
        return StageOperator(
            call=call,
            deployment=self.deployment,
            task_id="promote_release",
            retries=2,
            deferrable=deferrable,
            **more,
        )

    @property
    def context(self) -> dict[str, Any]:
        return {
            "ti": self.ti,
            "run_id": "r",
            "params": self.params,
            "dag": SimpleNamespace(),
            "dag_run": SimpleNamespace(run_after=RUN_MADE),
            "task_state_store": self.state,
        }

    @property
    def record(self) -> PodRecord:
        return PodRecord.parse(self.state[RECORD_KEY])

    def sealed(self) -> str:
        manifest = self.sealer.seal(self.stage, {"release.json": "{}"})
        return termination_sentence(manifest, "promoted")

    def when_created(self, act: Callable[[str], None]) -> None:
        """Act on each pod as soon as it is there, from outside, as a cluster does."""

        def later(pod: dict[str, Any]) -> None:
            threading.Timer(0.05, act, (pod["metadata"]["name"],)).start()

        self.fake.on_create = later

    def ends(self, exit_code: int, sentence: str) -> None:
        self.when_created(lambda name: self.fake.end(name, exit_code, sentence))


@contextmanager
def pod_world(
    tmp_path: Path, deployment: Deployment, sealer: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    fake = FakeKubernetes()
    pods = PodSettings(
        namespace="ns",
        images="r/headrace-{image}:1",
        template=None,
        deferrable=False,
        queue_seconds=60,
        start_seconds=60,
        poll_seconds=0.05,
        disruptions=3,
    )
    of_pods = replace(deployment, runtime=Runtime.KUBERNETES, pods=pods)
    made = World(fake, of_pods, sealer)
    monkeypatch.setattr(pod_stage_operator, "state_in_airflow", lambda ti: made.in_airflow)
    monkeypatch.setattr(pod_life, "DRAIN_SECONDS", 1.0)
    monkeypatch.setattr(pod_trigger, "SHARED", SharedConnection())  # to this cluster
    with serving(fake, tmp_path) as config:
        monkeypatch.setenv("KUBECONFIG", str(config))
        yield made
