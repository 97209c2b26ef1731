"""By hand: the candidate in progress is taken out; or stable, so that the one before it serves again.

Give the model, which release is meant, and a reason; the reason and your name go to the ledger. The
release is `candidate` unless you name another: stable is taken out only by `stable`, its number or
its id. Runbook: docs/runbooks/rollback.md
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG
from headrace_airflow.release_form import form_of_rollback, rollback_form
from headrace_airflow.stage_operator import run_stage
from tasks.contracts.stages import Stage

with DAG(
    "roll_back",
    doc_md=__doc__,
    params=rollback_form(),
    schedule=None,
    catchup=False,
    max_active_runs=4,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=15)},
    tags=["headrace"],
):
    run_stage(Stage.ROLL_BACK_RELEASE, settings_from=form_of_rollback)
