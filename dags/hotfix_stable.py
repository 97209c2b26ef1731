"""By hand, during an experiment: another bundle becomes stable; the candidate keeps its users.

Give the model, a bundle that its gate has passed, and a reason; the reason and your name go to the
ledger. Whatever fails leaves stable as it was, and a task that was killed may be cleared: it goes on.
Runbook: docs/runbooks/rollback.md
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG
from headrace_airflow.release_form import bundle_of_hotfix, form_of_hotfix, hotfix_form
from headrace_airflow.stage_operator import run_stage
from tasks.contracts.stages import Stage

with DAG(
    "hotfix_stable",
    doc_md=__doc__,
    params=hotfix_form(),
    schedule=None,
    catchup=False,
    max_active_runs=4,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=15)},
    tags=["headrace"],
):
    run_stage(Stage.HOTFIX_STABLE, settings_from=form_of_hotfix, reads_from_run=bundle_of_hotfix)
