"""The same cells with the stock KubernetesPodOperator: same image, same request, its own defaults."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG
from headrace_airflow.compute_choice import read_compute
from headrace_airflow.compute_profiles import GPU, ProfileName
from headrace_airflow.pod_identity import MANAGED_BY, REQUEST
from headrace_airflow.pod_stage_operator import _add_request
from kubernetes.client import models as k8s

from tasks.contracts.stage_io import StageRequest
from tasks.contracts.stages import Stage

STORE = os.environ["HEADRACE_STORE"]
FOLDER = STORE.removeprefix("file://").rpartition("/")[0]


def on_gpu(cell: dict) -> dict:
    """Return what makes it a pod of the cell's GPU profile."""
    name = ProfileName(cell["profile"])
    if name is ProfileName.CPU:
        return {"node_selector": cell["node_selector"] or None}
    table = read_compute(Path(os.environ["HEADRACE_COMPUTE"]).read_text(), "compute")
    profile = table.profiles[name]
    return {
        "node_selector": dict(profile.node_selector),
        "tolerations": [k8s.V1Toleration(**one.fields) for one in profile.tolerations],
        "priority_class_name": profile.priority_class,
    }


def pod_of(cell: dict) -> k8s.V1Pod:
    gpu = {} if cell["profile"] == ProfileName.CPU else {GPU: "1"}
    request = StageRequest(
        stage=Stage.PROMOTE_RELEASE,
        store_url=STORE,
        release=None,
        reads={},
        gates={},
        settings=cell["settings"],
    )
    base = k8s.V1Container(
        name="base",
        env=[k8s.V1EnvVar(name="MATRIX_JOURNAL", value=f"{FOLDER}/journal")],
        volume_mounts=[k8s.V1VolumeMount(name="matrix", mount_path=FOLDER)],
        resources=k8s.V1ResourceRequirements(
            requests={"cpu": "100m", "memory": "128Mi", **gpu},
            limits={"cpu": "1", "memory": "128Mi", **gpu},
        ),
        termination_message_policy="FallbackToLogsOnError",
    )
    spec = k8s.V1PodSpec(
        containers=[base],
        volumes=[k8s.V1Volume(name="matrix", host_path=k8s.V1HostPathVolumeSource(path=FOLDER))],
        termination_grace_period_seconds=2,
        **on_gpu(cell),
    )
    _add_request(spec)
    metadata = k8s.V1ObjectMeta(labels=dict(MANAGED_BY), annotations={REQUEST: request.to_text()})
    return k8s.V1Pod(metadata=metadata, spec=spec)


def stock_operator(cell: dict, **more: Any) -> KubernetesPodOperator:
    return KubernetesPodOperator(
        task_id=cell["name"],
        name=cell["name"].replace("_", "-"),
        namespace=os.environ["HEADRACE_NAMESPACE"],
        kubernetes_conn_id=None,
        config_file=os.environ["KUBECONFIG"],
        in_cluster=False,
        image=cell["operator"].get(
            "image", os.environ["HEADRACE_IMAGES"].replace("{image}", "rollout")
        ),
        arguments=[Stage.PROMOTE_RELEASE.value, "/headrace/request.json"],
        full_pod_spec=pod_of(cell),
        startup_timeout_seconds=int(float(os.environ["HEADRACE_START_SECONDS"])),
        deferrable=cell["deferrable"],
        retries=cell["retries"],
        retry_delay=timedelta(seconds=1),
        **more,
    )


for cell in json.loads(Path(os.environ["MATRIX_CELLS"]).read_text()):
    with DAG(f"matrix_{cell['name']}", schedule=None, catchup=False) as dag:
        stock_operator(cell, poll_interval=1)
    globals()[dag.dag_id] = dag
