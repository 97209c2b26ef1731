"""The release DAG in pods against the installed chart: its slots, router, records, accounts and template.

Airflow runs beside the cluster, as in release_world, with what the chart's two ConfigMaps tell it and
with the rights of the chart's role for it, and no more; its users are those of helm/airflow-values.yaml.
The state volume is mounted at the same path in pods and here, as docs/runbooks/platform.md lets an
Airflow do that wants a replay's bake to end early.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from headrace_airflow.pod_identity import MANAGED_BY, TaskKey
from kubernetes import client

from tasks.adapters.object_store import ObjectStore
from tasks.rollout.exposures import user_key
from tasks.rollout.state import ModelState, open_state
from tests.cluster.airflow_parts import Airflow
from tests.cluster.built_images import image_name
from tests.cluster.chart_world import MODEL, ROOT, USER_OF_PODS, ChartWorld, eventually, image_of
from tests.cluster.release_world import DAG, SECRET, ReleaseWorld, run_path

LAUNCHER = "airflow-worker"  # one of `airflow.serviceAccounts`
REAPERS_LOGIN, GRACE_SECONDS = "headrace-reaper", 2
ADMIN, REAPER = "admin", "reaper"


class ChartRelease(ReleaseWorld):
    """A release world whose serving side is the chart's."""

    model = MODEL

    def __init__(self, chart: ChartWorld, *, deferrable: bool) -> None:
        self.chart = chart
        self.deferrable = deferrable
        self.namespace = chart.namespace
        super().__init__(chart.folder)

    def _airflow(self) -> Airflow:
        """Return an Airflow that pods reach, with the users that our values give it."""
        values = yaml.safe_load((ROOT / "helm/airflow-values.yaml").read_text())
        users = str(values["config"]["core"]["simple_auth_manager_users"])
        names = [user.partition(":")[0] for user in users.split(",")]
        self.passwords = {name: secrets.token_urlsafe(16) for name in names}
        told = {
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": users,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.folder / "passwords"),
        }
        (self.folder / "passwords").write_text(json.dumps(self.passwords))
        return Airflow(
            self.folder / "airflow",
            self._airflow_environment() | told,
            host=self.address,
            login=(ADMIN, self.passwords[ADMIN]),
        )

    def start(self) -> None:
        with ThreadPoolExecutor(3) as beside:
            parts = (self._start_store, self._start_mlflow, self.airflow.prepare)
            started = [beside.submit(part) for part in parts]
            self.chart.prepare()
            self._share_the_users_key()
            self._write_compute()
            self._write_secret()
            self._write_reapers_login()
            self.chart.apply("install", self._values())
            for one in started:
                one.result()
        told = self._as_the_chart_says()
        self.airflow.environment |= told
        self.watch.start()
        self.airflow.start()
        self._start_shoppers(told | {"HEADRACE_MODELS": self.model})

    def stop(self) -> None:
        super().stop()
        self.chart.close()

    def _write_reapers_login(self) -> None:
        login = {
            "HEADRACE_AIRFLOW_USER": REAPER,
            "HEADRACE_AIRFLOW_PASSWORD": self.passwords[REAPER],
        }
        body = {"metadata": {"name": REAPERS_LOGIN}, "stringData": login}
        self.core.create_namespaced_secret(self.namespace, body)

    def _share_the_users_key(self) -> None:
        """Make the key of the user hashes here: the keepers' pods and the shoppers both read it."""
        user_key(self.state_dir)
        for path in (self.state_dir / "router", self.state_dir / "router/user.key"):
            os.chown(path, USER_OF_PODS, USER_OF_PODS)

    def _values(self) -> dict[str, Any]:
        port = int(self.s3["AWS_ENDPOINT_URL"].rpartition(":")[2])
        return self.chart.values(
            images={"airflow": image_of("airflow")},
            airflow={"url": self.airflow.url, "secretName": REAPERS_LOGIN},
            reaper={"graceSeconds": GRACE_SECONDS},
            stages={"deferrable": self.deferrable},
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

    # --- the reaper ---

    def plant(self, name: str, key: TaskKey | None) -> None:
        """Make a pod that works on nothing, marked as of this task instance, or not as ours."""
        marks = {} if key is None else {"labels": MANAGED_BY, "annotations": key.annotations(1)}
        idle = {"name": "base", "image": image_name("rollout"), "command": ["sleep", "3600"]}
        spec = {"terminationGracePeriodSeconds": 1, "containers": [idle]}
        body = {"metadata": {"name": name, **marks}, "spec": spec}
        self.core.create_namespaced_pod(self.namespace, body)

    def key_of(self, run_id: str, task_id: str) -> TaskKey:
        return TaskKey(
            dag_id=DAG.rpartition("/")[2],
            run_id=run_id,
            task_id=task_id,
            run_made=str(self.airflow.call("GET", run_path(run_id))["run_after"]),
        )

    def reap(self, job: str) -> str:
        """Run the chart's CronJob once, now; return what it said."""
        self.chart.kubectl("create", "job", job, "--from=cronjob/headrace-reaper")
        read = client.BatchV1Api().read_namespaced_job_status

        def ended() -> bool:
            status = read(job, self.namespace).status
            return bool(status.succeeded or status.failed)

        eventually(ended, 180, "the end of the reaper")
        said = self.chart.kubectl("logs", f"job/{job}")
        assert read(job, self.namespace).status.succeeded == 1, said
        return said

    def age_of(self, pod: str) -> float:
        """Return the seconds since a pod was made."""
        made = self.core.read_namespaced_pod(pod, self.namespace).metadata.creation_timestamp
        return float((datetime.now(UTC) - made).total_seconds())

    def planted(self) -> set[str]:
        """Return the planted pods that are left."""
        listed = self.core.list_namespaced_pod(self.namespace).items
        there = {pod.metadata.name for pod in listed if pod.metadata.deletion_timestamp is None}
        return {name for name in there if name.startswith("planted-")}

    @property
    def state(self) -> ModelState:
        store = ObjectStore(self.store_url)
        return open_state(self.state_dir, self.model, store, records=self.chart.records)

    @property
    def router(self) -> str:
        host, port = self.chart.service
        return f"{host}:{port}"


@contextmanager
def chart_release(chart: ChartWorld, *, deferrable: bool) -> Iterator[ChartRelease]:
    """Start everything; end everything."""
    world = ChartRelease(chart, deferrable=deferrable)
    kept = {name: os.environ.get(name) for name in world.s3}
    os.environ.update(world.s3)
    try:
        world.start()
        yield world
    finally:
        world.stop()
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
