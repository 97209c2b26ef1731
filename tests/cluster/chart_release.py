"""The release DAG in pods against the installed chart: its slots, router, records, accounts and template.

Airflow runs beside the cluster, as in release_world, with what the chart's two ConfigMaps tell it and
with the rights of the chart's role for it, and no more. The state volume is mounted at the same path in
pods and here, as docs/runbooks/platform.md lets an Airflow do that wants a replay's bake to end early.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tasks.adapters.object_store import ObjectStore
from tasks.rollout.state import ModelState, open_state
from tests.cluster.chart_world import MODEL, ChartWorld
from tests.cluster.release_world import SECRET, ReleaseWorld

LAUNCHER = "airflow-worker"  # one of `airflow.serviceAccounts`


class ChartRelease(ReleaseWorld):
    """A release world whose serving side is the chart's."""

    model = MODEL

    def __init__(self, chart: ChartWorld) -> None:
        self.chart = chart
        self.namespace = chart.namespace
        super().__init__(chart.folder)

    def start(self) -> None:
        self.chart.prepare()
        self._write_compute()
        self._write_secret()
        self._start_store()
        self._start_mlflow()
        self.chart.apply("install", self._values())
        self.airflow.environment |= self._as_the_chart_says()
        self.watch.start()
        self.airflow.start()

    def stop(self) -> None:
        super().stop()
        self.chart.close()

    def _values(self) -> dict[str, Any]:
        port = int(self.s3["AWS_ENDPOINT_URL"].rpartition(":")[2])
        return self.chart.values(
            serving={"replicas": 1},  # there are two cores, and a stage takes one
            state={"mountPath": str(self.state_dir)},
            store={
                "url": self.store_url,
                "secretName": SECRET,
                "region": self.s3["AWS_DEFAULT_REGION"],
                "endpoint": self.s3["AWS_ENDPOINT_URL"],
            },
            mlflow={"url": self.mlflow},
            networkPolicies={"store": {"cidrs": [f"{self.address}/32"], "ports": [port]}},
        )

    def _as_the_chart_says(self) -> dict[str, str]:
        """Return what Airflow's pods get from the chart, and a login with the launcher's rights."""
        read = self.core.read_namespaced_config_map
        (self.folder / "pod.yaml").write_text(
            read("headrace-pod-template", self.chart.airflow_namespace).data["pod.yaml"]
        )
        told = read("headrace-airflow", self.chart.airflow_namespace).data
        return {
            **told,
            "HEADRACE_POD_TEMPLATE": str(self.folder / "pod.yaml"),
            "KUBECONFIG": str(self._launchers_login()),
        }

    def _launchers_login(self) -> Path:
        place = self.chart.airflow_namespace
        self.core.create_namespaced_service_account(place, {"metadata": {"name": LAUNCHER}})
        answer = self.core.create_namespaced_service_account_token(
            LAUNCHER, place, {"spec": {"expirationSeconds": 7200, "audiences": []}}
        )
        login = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
        login["users"] = [{"name": LAUNCHER, "user": {"token": answer.status.token}}]
        for context in login["contexts"]:
            context["context"]["user"] = LAUNCHER
        target = self.folder / "launcher.kubeconfig"
        target.write_text(yaml.safe_dump(login))
        return target

    @property
    def state(self) -> ModelState:
        store = ObjectStore(self.store_url)
        return open_state(self.state_dir, self.model, store, records=self.chart.records)

    @property
    def router(self) -> str:
        host, port = self.chart.service
        return f"{host}:{port}"


@contextmanager
def chart_release(chart: ChartWorld) -> Iterator[ChartRelease]:
    """Start everything; end everything."""
    world = ChartRelease(chart)
    kept = {name: os.environ.get(name) for name in world.s3}
    os.environ.update(world.s3)
    try:
        world.start()
        yield world
    finally:
        world.stop()
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
