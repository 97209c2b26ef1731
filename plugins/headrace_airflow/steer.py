"""Pause or resume a step from Airflow's UI: a process of its own, as a renewal is."""

from __future__ import annotations

import subprocess
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from headrace_airflow.bake import environment_of_stages
from headrace_airflow.deployment import Deployment
from headrace_airflow.release_form import person_of_run
from tasks.contracts.exit_codes import ExitCode

LONGEST_SECONDS = 60.0


class SteerOperator(BaseOperator):
    """Ask what the form says of the model's step in progress; who and why go into the ledger."""

    ui_color = "#fdf3e1"

    def __init__(self, *, deployment: Deployment, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.deployment = deployment

    def execute(self, context: Any) -> str:
        """Return the sentence of what it is now; a later try means what the person saw then."""
        form, run = context["params"], context["dag_run"]
        command = [
            str(self.deployment.python),
            *("-m", "tasks.cli.steer_step"),
            *(str(self.deployment.state_dir), str(form["model"]), str(form["action"])),
            *(person_of_run(run), str(form["reason"]), run.run_after.isoformat()),
        ]
        done = subprocess.run(
            command,
            env=environment_of_stages() | {"HEADRACE_STORE": self.deployment.store_url},
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST_SECONDS,
        )
        said = (done.stdout + done.stderr).strip()[-500:]
        self.log.info("%s", said)
        if done.returncode == ExitCode.BAD_REQUEST:
            raise AirflowFailException(said)
        if done.returncode != ExitCode.DONE:
            raise AirflowException(said or f"exit code {done.returncode}")
        return said
