"""By hand: pause the candidate in progress at 0 %, or let it go on.

A person's pause ends by a person's resume only; the step's bake waits meanwhile. To end the release
use `roll_back`. Runbook: docs/runbooks/rollback.md
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param
from headrace_airflow.deployment import the_deployment
from headrace_airflow.steer import SteerOperator
from tasks.contracts.requests import MODEL_NAME

with DAG(
    "pause_or_resume",
    doc_md=__doc__,
    params={
        "model": Param(
            "recommender", type="string", pattern=f"^{MODEL_NAME.pattern}$", title="Model"
        ),
        "action": Param("pause", type="string", enum=["pause", "resume"], title="Action"),
        "reason": Param(type="string", minLength=3, maxLength=500, title="Reason"),
    },
    schedule=None,
    catchup=False,
    max_active_runs=4,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=15)},
    tags=["headrace"],
):
    SteerOperator(task_id="steer", deployment=the_deployment())
