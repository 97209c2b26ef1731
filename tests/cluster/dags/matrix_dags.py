"""One DAG of one stage for each cell of the fault matrix; the cells come from $MATRIX_CELLS."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG
from headrace_airflow.compute_profiles import COMPUTE_PROFILES, ProfileName, StageCompute
from headrace_airflow.deployment import Deployment, the_deployment
from headrace_airflow.pod_stage_operator import StageOperator
from headrace_airflow.stage_call import StageCall

from tasks.contracts.stages import Stage


def compute_of(cell: dict[str, Any]) -> StageCompute:
    name = ProfileName(cell["profile"])
    if name is ProfileName.CPU:
        selector = tuple(sorted(cell["node_selector"].items()))
        profile = replace(
            COMPUTE_PROFILES[name], node_selector=selector, scales_from_zero=bool(selector)
        )
    else:
        profile = the_deployment().compute.profiles[name]
    cores = cell["cpu_cores"]
    return StageCompute(
        profile=profile,
        cpu_cores=cores,
        cpu_limit_cores=max(1, cores),
        memory_gib=cell["memory_gib"],
    )


def deployment_of(cell: dict[str, Any]) -> Deployment:
    deployment = the_deployment()
    if cell["queue_seconds"] is None:
        return deployment
    return replace(deployment, pods=replace(deployment.pods, queue_seconds=cell["queue_seconds"]))


def our_operator(cell: dict[str, Any]) -> StageOperator:
    trains = cell["profile"] != ProfileName.CPU or cell["ranks"] > 1
    # One image plays all stages, also those that would need torch or CUDA.
    image = {"image": the_deployment().pods.image("rollout")} if trains else {}
    return StageOperator(
        call=StageCall(
            stage=Stage.TRAIN_MODEL if trains else Stage.PROMOTE_RELEASE,
            settings=cell["settings"],
        ),
        deployment=deployment_of(cell),
        compute=compute_of(cell),
        task_id=cell["name"],
        deferrable=cell["deferrable"],
        retries=cell["retries"],
        retry_delay=timedelta(seconds=1),
        **{"ranks": cell["ranks"], **image, **cell["operator"]},
    )


for cell in json.loads(Path(os.environ["MATRIX_CELLS"]).read_text()):
    with DAG(f"matrix_{cell['name']}", schedule=None, catchup=False) as dag:
        our_operator(cell)
    globals()[dag.dag_id] = dag
