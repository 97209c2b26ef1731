"""Run a stage as a subprocess of the worker: the same `python -m tasks <stage>` as in a pod."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
)

from headrace_airflow.deployment import Deployment
from headrace_airflow.links import ArtifactLink, GateReportLink
from headrace_airflow.pod_profiles import POD_PROFILES
from headrace_airflow.rollout_wait import defer_for_rollout, demand_over
from headrace_airflow.sealed_store import SealedStore
from headrace_airflow.stage_call import StageCall, StageEnd, conclude, last_word
from tasks.contracts.artifacts import parse_termination
from tasks.contracts.errors import HeadraceError
from tasks.contracts.stages import Stage

END_SECONDS = 3.0  # between asking a stage to end and ending it; Airflow ends the task after 5


class LocalStageOperator(BaseOperator):
    """Run one stage in its own process group; green only when its sealed manifest is there."""

    ui_color = "#e8f1f8"
    template_fields: Sequence[str] = ("request_json",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"request_json": "json"}
    overwrite_rtif_after_execution = True  # the page "Rendered templates" shows the request

    def __init__(self, *, call: StageCall, deployment: Deployment, **kwargs: Any) -> None:
        super().__init__(**{"execution_timeout": POD_PROFILES[call.stage].longest_run, **kwargs})
        self.call = call
        self.deployment = deployment
        self.request_json = ""
        self.sealed_address = ""
        is_gate = call.stage is Stage.GATE_ARTIFACT
        self.operator_extra_links = (GateReportLink() if is_gate else ArtifactLink(),)
        self._process: subprocess.Popen[str] | None = None
        self._killed = False

    def execute(self, context: Any) -> str:
        """Run the stage and return its artifact's address."""
        try:
            return self._sealed(context)
        except AirflowSkipException:
            raise
        except (AirflowException, AirflowTaskTimeout) as error:
            raise last_word(self.call, error, context["ti"], int(self.retries)) from error

    def _sealed(self, context: Any) -> str:
        try:
            request = self.call.request(context, self.deployment.store_url)
            self.call.skip_if_told(request, context)
        except HeadraceError as error:
            raise AirflowFailException(str(error)) from error
        defer_for_rollout(self, request.release)
        self.request_json = request.to_text()
        end = self._run(self.request_json)
        evidence = parse_termination(end.sentence)
        self.sealed_address = "" if evidence is None else str(evidence.address)
        store = SealedStore(url=self.deployment.store_url)
        self.log.info("%s", end.sentence)
        return conclude(self.call.stage, end, store, context["ti"])

    def after_wait(self, context: Any, event: Mapping[str, Any]) -> str:
        """Begin once the rollout no longer waits."""
        demand_over(event)
        return self.execute(context)

    def on_kill(self) -> None:
        """End the stage and all that it started; must not wait, for `execute` already does."""
        self._killed = True  # first: a process that is just starting looks at it
        if self._process is not None:
            end_soon(self._process)

    def _run(self, request_json: str) -> StageEnd:
        with tempfile.TemporaryDirectory(prefix="headrace-task-") as folder:
            asked, said = Path(folder, "request.json"), Path(folder, "termination-log")
            asked.write_text(request_json, encoding="utf-8")
            with self._started(asked, said) as process:
                for line in process.stdout or ():
                    self.log.info("%s", line.rstrip("\n"))
                exit_code = process.wait()
            sentence = said.read_text(encoding="utf-8") if said.exists() else ""
        return StageEnd(exit_code=exit_code, sentence=sentence)

    @contextlib.contextmanager
    def _started(self, asked: Path, said: Path) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            stage_command(self.deployment, self.call.stage, asked),
            env=stage_environment(self.deployment, os.environ, said),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._process = process
        if self._killed:
            end_soon(process)
        try:
            yield process
        finally:  # a timeout or a kill leaves nothing behind
            end_group(process)
            self._process = None


def stage_command(deployment: Deployment, stage: Stage, asked: Path) -> list[str]:
    """Return the command line of a stage."""
    warm = deployment.warm_gates
    if stage is Stage.GATE_ARTIFACT and warm is not None and warm.is_socket():
        head = ["-m", "tasks.warm_start", "run", str(warm)]
    else:
        head = ["-m", "tasks"]
    return [str(deployment.python), "-u", *head, stage.value, str(asked)]


def stage_environment(
    deployment: Deployment, environment: Mapping[str, str], said: Path
) -> dict[str, str]:
    """Return the worker's environment without Airflow's settings, with what a stage needs."""
    kept = {name: value for name, value in environment.items() if not name.startswith("AIRFLOW")}
    paths = [str(deployment.stage_path), *filter(None, [environment.get("PYTHONPATH")])]
    return kept | {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "HEADRACE_STORE": deployment.store_url,
        "HEADRACE_STATE": str(deployment.state_dir),
        "HEADRACE_TERMINATION_LOG": str(said),
    }


def signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal to the stage and all that it started; a group that is gone needs none."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def end_soon(process: subprocess.Popen[str]) -> None:
    """Ask the process group to end, and end it a little later, without waiting."""
    signal_group(process, signal.SIGTERM)
    later = threading.Timer(END_SECONDS, signal_group, (process, signal.SIGKILL))
    later.daemon = True
    later.start()


def end_group(process: subprocess.Popen[str]) -> None:
    """Ask the process group to end, then end it."""
    signal_group(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=END_SECONDS)
    signal_group(process, signal.SIGKILL)
    process.wait()
