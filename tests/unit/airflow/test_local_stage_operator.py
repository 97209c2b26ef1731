from __future__ import annotations

import os
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException
from headrace_airflow.local_stage_operator import (
    LocalStageOperator,
    stage_command,
    stage_environment,
)
from headrace_airflow.stage_call import StageCall

from tasks.contracts.stage_io import StageRequest
from tasks.contracts.stages import Stage


def operator(deployment: Any, tmp_path: Path, script: str) -> LocalStageOperator:
    """Return an operator whose interpreter is a shell script."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o700)
    call = StageCall(stage=Stage.INGEST_EVENTS, settings={"step": 1})
    return LocalStageOperator(
        call=call, deployment=replace(deployment, python=python), task_id="ingest_events"
    )


def test_the_stage_gets_its_request_and_its_environment(
    deployment: Any, tmp_path: Path, task_instance: Any
) -> None:
    script = (
        'cp "$5" "$SEEN"; echo "$@"; echo "$HEADRACE_STORE $HEADRACE_STATE" > "$SEEN.env"; exit 1'
    )
    task = operator(deployment, tmp_path, script.replace("$SEEN", str(tmp_path / "seen")))
    with pytest.raises(AirflowException, match="exit code 1"):
        task.execute({"ti": task_instance})
    request = StageRequest.parse((tmp_path / "seen").read_text(), "seen")
    assert (request.stage, request.settings) == (Stage.INGEST_EVENTS, {"step": 1})
    found = (tmp_path / "seen.env").read_text().split()
    assert found == [deployment.store_url, str(deployment.state_dir)]
    assert task.request_json == request.to_text()


def test_the_last_sentence_is_the_errors_text(
    deployment: Any, tmp_path: Path, task_instance: Any
) -> None:
    task = operator(deployment, tmp_path, 'echo "no disk" > "$HEADRACE_TERMINATION_LOG"; exit 1')
    with pytest.raises(AirflowException, match="ingest_events crashed with exit code 1: no disk"):
        task.execute({"ti": task_instance})


def test_a_kill_ends_the_stage_and_its_children(
    deployment: Any, tmp_path: Path, task_instance: Any
) -> None:
    child = tmp_path / "child"
    task = operator(deployment, tmp_path, f'sleep 300 & echo $! > "{child}"; wait')

    def kill_when_started() -> None:
        while not (child.exists() and child.read_text()):
            time.sleep(0.02)
        task.on_kill()

    threading.Thread(target=kill_when_started).start()
    with pytest.raises(AirflowException, match=f"ended by signal {int(signal.SIGTERM)}"):
        task.execute({"ti": task_instance})
    assert not _runs(int(child.read_text()))


def test_a_kill_before_the_stage_has_started_is_not_forgotten(
    deployment: Any, tmp_path: Path, task_instance: Any
) -> None:
    task = operator(deployment, tmp_path, "sleep 300")
    task.on_kill()
    with pytest.raises(AirflowException, match="ended by signal"):
        task.execute({"ti": task_instance})


def test_a_timeout_ends_the_stage_too(deployment: Any, tmp_path: Path, task_instance: Any) -> None:
    own = tmp_path / "own"
    task = operator(deployment, tmp_path, f'echo $$ > "{own}"; sleep 300')

    def alarm(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(TimeoutError):
            task.execute({"ti": task_instance})
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not _runs(int(own.read_text()))


def test_airflows_settings_do_not_reach_the_stage(deployment: Any) -> None:
    environment = {"AIRFLOW__API_AUTH__JWT_SECRET": "s", "PATH": "/bin", "PYTHONPATH": "/more"}
    found = stage_environment(deployment, environment, Path("/said"))
    assert not [name for name in found if name.startswith("AIRFLOW")]
    assert found["PATH"] == "/bin"
    assert found["PYTHONPATH"] == f"{deployment.stage_path}{os.pathsep}/more"


def _runs(pid: int) -> bool:
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True


def test_only_a_gate_asks_the_warm_interpreter_and_only_where_there_is_one(
    deployment: Any, tmp_path: Path
) -> None:
    warm = replace(deployment, warm_gates=tmp_path / "warm")
    asked = Path("request.json")
    cold = stage_command(deployment, Stage.GATE_ARTIFACT, asked)
    assert cold[1:] == ["-u", "-m", "tasks", "gate_artifact", "request.json"]
    assert stage_command(warm, Stage.GATE_ARTIFACT, asked) == cold
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(warm.warm_gates))
        assert stage_command(warm, Stage.GATE_ARTIFACT, asked)[1:] == [
            *("-u", "-m", "tasks.warm_start", "run", str(warm.warm_gates)),
            *("gate_artifact", "request.json"),
        ]
        assert "tasks.warm_start" not in stage_command(warm, Stage.TRAIN_MODEL, asked)
