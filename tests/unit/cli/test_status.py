"""The one line of `headrace status`: what is wrong comes before what is only starting."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.cli.command import main
from tasks.cli.home import Home, Secrets
from tasks.cli.parts import Status
from tasks.cli.processes import Identity, is_suspended
from tasks.cli.stack import PartReport
from tasks.cli.status import assess
from tasks.rollout.state import open_state
from tests.ports import free_port
from tests.unit.cli.stack_reports import a_part, a_report

NO_ANSWER = "http://127.0.0.1:9"
AIRFLOW = "Airflow API: no answer"
MLFLOW = f"MLflow: no answer at {NO_ANSWER}; releases go on, their mirror waits"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(root=tmp_path, store_url=f"file://{tmp_path}/store")
    made.create()
    Secrets.load_or_make(made)
    return made


def starting(*names: str, status: Status = Status.STARTING, restarts: int = 0) -> list[PartReport]:
    return [a_part(name, status=status, restarts=restarts) for name in names]


def first_seconds() -> list[PartReport]:
    """The parts that this report's addresses are asked for, none of which answers yet."""
    return [*starting("airflow-api-server"), *starting("mlflow", status=Status.WAITING)]


def serve(home: Home, model: str, port: int) -> None:
    """Record that a model's first release serves from the blue slot, on this port."""
    state = open_state(home.state, model)
    state.reserve_slot("first")
    state.promote("first")
    slots = {"blue": {"grpc": port, "rest": port}}
    record = {"format": "slots/1", "model": model, "slots": slots}
    (home.state / model / "slots.json").write_text(json.dumps(record))


def test_a_stack_whose_silent_parts_are_all_on_their_way_is_starting(home: Home) -> None:
    found = assess(home, a_report(parts=tuple(first_seconds())))
    assert (found.line, found.well) == ("starting: airflow-api-server, mlflow", True)


def test_a_disk_that_is_full_while_parts_start_is_what_is_wrong(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SimpleNamespace(total=100_000_000_000, used=100_000_000_000, free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: full)
    found = assess(home, a_report(parts=tuple(first_seconds())))
    assert found.line.startswith(f"disk 100 % full (0.0 GB left) at {home.root}")
    assert not found.well


def test_a_silent_part_that_is_up_is_wrong_while_another_one_starts(home: Home) -> None:
    parts = (*starting("airflow-api-server", "shop-violet"), a_part("mlflow"))
    found = assess(home, a_report(parts=parts))
    assert (found.line, found.well) == (MLFLOW, False)


def test_a_slot_that_does_not_answer_is_wrong_unless_it_is_the_one_that_starts(home: Home) -> None:
    port = free_port()
    serve(home, "shop", port)
    said = f"slot blue of shop: no answer on port {port} (stable, release 1)"
    others = [*first_seconds(), *starting("envoy")]
    found = assess(home, a_report(parts=(*others, *starting("shop-green"))))
    assert (found.line, found.well) == (said, False)
    found = assess(home, a_report(parts=(*others, *starting("shop-blue"))))
    assert (found.line, found.well) == (
        "starting: airflow-api-server, mlflow, envoy, shop-blue",
        True,
    )


def test_a_part_that_has_fallen_and_is_started_again_is_missed_meanwhile(home: Home) -> None:
    parts = (*starting("airflow-api-server"), *starting("mlflow", restarts=1))
    found = assess(home, a_report(parts=parts))
    assert (found.line, found.well) == (MLFLOW, False)


def test_a_part_that_has_fallen_is_said_once_beside_those_that_start(home: Home) -> None:
    fallen = a_part("mlflow", status=Status.BACKING_OFF, note="ended with exit code 1: no")
    found = assess(home, a_report(parts=(*starting("airflow-api-server"), fallen)))
    assert found.problems == (
        (
            "MLflow: not running, ended with exit code 1: no; started again 0 times; see "
            "/logs/mlflow.log"
        ),
    )


@pytest.fixture
def suspended() -> Iterator[Identity]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 5
    while not is_suspended(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    found = Identity.of(process.pid)
    assert found is not None
    yield found
    process.kill()
    process.wait()


def test_a_suspended_supervisor_starts_nothing_and_is_what_is_wrong(
    home: Home, suspended: Identity
) -> None:
    found = assess(home, a_report(supervisor=suspended, parts=tuple(first_seconds())))
    assert (found.line, found.well) == (
        (
            f"supervisor: process {suspended.pid} is suspended; kill -CONT {suspended.pid} lets it "
            "go on"
        ),
        False,
    )


def test_with_nothing_on_its_way_every_silence_is_wrong(home: Home) -> None:
    found = assess(home, a_report())
    assert found.problems[0].startswith(AIRFLOW)
    assert found.problems[1:] == (MLFLOW,)


def running_stack(home: Home) -> None:
    """Write the record of a stack whose supervisor is this process and whose parts are silent."""
    me = Identity.of(os.getpid())
    assert me is not None
    parts = {
        "keeper": {
            "status": "ready",
            "restarts": 0,
            "note": "",
            "log": str(home.logs / "keeper.log"),
            "process": me.to_record(),
        }
    }
    record = {
        "format": "stack/1",
        "stack_id": "s",
        "supervisor": me.to_record(),
        "addresses": dict.fromkeys(("airflow", "mlflow", "router"), NO_ANSWER),
        "notes": [],
        "data_folder": None,
        "parts": parts,
    }
    home.stack_file.write_text(json.dumps(record))


def everything_below(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return every path with when it was changed, folders too: a file that came and went shows."""
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in (folder, *folder.rglob("*"))
    }


@pytest.mark.parametrize("words", (["status"], ["status", "--json"]))
@pytest.mark.parametrize("runs", (True, False), ids=("a stack that runs", "no stack"))
def test_asking_writes_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, words: list[str], *, runs: bool
) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(home.root))
    monkeypatch.delenv("HEADRACE_STORE", raising=False)
    serve(home, "shop", free_port())
    if runs:
        running_stack(home)
        home.secrets_file.unlink()
    before = everything_below(home.root)
    assert main(words) == 1
    assert everything_below(home.root) == before


def test_secrets_that_are_gone_are_said_with_the_next_step_and_hide_nothing_else(
    home: Home,
) -> None:
    home.secrets_file.unlink()
    assert assess(home, a_report()).problems == (
        (
            f"Airflow API: cannot be asked: {home.secrets_file}: expected the secrets of the running "
            "stack, found no such file; `headrace down` and `headrace up` make new ones"
        ),
        MLFLOW,
    )
