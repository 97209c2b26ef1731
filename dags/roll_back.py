"""By hand: the release before the current one serves again, or a candidate in flight is dropped.

Give the model and a reason; both go to the ledger. Runbook: docs/runbooks/rollback.md
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param
from headrace_airflow.release_form import form_of_rollback
from headrace_airflow.stage_operator import run_stage
from tasks.contracts.requests import MODEL_NAME
from tasks.contracts.stages import Stage

with DAG(
    "roll_back",
    doc_md=__doc__,
    params={
        "model": Param(
            "recommender", type="string", pattern=f"^{MODEL_NAME.pattern}$", title="Model"
        ),
        "reason": Param(
            "rolled back by hand", type="string", minLength=3, maxLength=500, title="Reason"
        ),
    },
    schedule=None,
    catchup=False,
    max_active_runs=4,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=15)},
    tags=["headrace"],
):
    run_stage(Stage.ROLL_BACK_RELEASE, settings_from=form_of_rollback)
