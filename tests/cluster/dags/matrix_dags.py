"""One DAG of one stage for each cell of the fault matrix; the cells come from $MATRIX_CELLS."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG
from headrace_airflow.compute_profiles import COMPUTE_PROFILES, ProfileName, StageCompute
from headrace_airflow.deployment import the_deployment
from headrace_airflow.pod_stage_operator import StageOperator
from headrace_airflow.stage_call import StageCall

from tasks.contracts.stages import Stage

CPU = COMPUTE_PROFILES[ProfileName.CPU]

for cell in json.loads(Path(os.environ["MATRIX_CELLS"]).read_text()):
    selector = tuple(sorted(cell["node_selector"].items()))
    with DAG(f"matrix_{cell['name']}", schedule=None, catchup=False) as dag:
        StageOperator(
            call=StageCall(stage=Stage.PROMOTE_RELEASE, settings=cell["settings"]),
            deployment=the_deployment(),
            compute=StageCompute(
                profile=replace(CPU, node_selector=selector, scales_from_zero=True),
                cpu_cores=0.1,
                cpu_limit_cores=1,
                memory_gib=0.125,
            ),
            task_id=cell["name"],
            deferrable=cell["deferrable"],
            retries=cell["retries"],
            retry_delay=timedelta(seconds=1),
            **cell["operator"],
        )
    globals()[dag.dag_id] = dag
