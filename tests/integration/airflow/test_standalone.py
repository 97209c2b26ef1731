"""Airflow standalone, triggered and followed by its API; stages are stubs that really seal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.adapters.artifact_store import ArtifactStore
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.artifacts import Address
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
STUB = Path(__file__).with_name("stub_stages.py")
RUNS = "/api/v2/dags/release_recommender/dagRuns"
PATIENCE_SECONDS = 300

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Airflow:
    """A running Airflow and the folder that tells its stub stages what to do."""

    def __init__(self, url: str, state: Path) -> None:
        self.url = url
        self.state = state
        self.token = ""
        self.store_url = f"file://{state.parent}/store"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def told(self, **behaviour: str) -> None:
        text = json.dumps({name.replace("__", ":"): how for name, how in behaviour.items()})
        (self.state / "behaviour.json").write_text(text)

    def trigger(self, **form: Any) -> str:
        conf = {"dataset": "ml-1m", "recipe": "markov", "bake_seconds": 1} | form
        run = self.call("POST", RUNS, {"logical_date": None, "conf": conf})
        return f"{RUNS}/{urllib.parse.quote(run['dag_run_id'], safe='')}"

    def states(self, run: str) -> dict[str, str]:
        found = self.call("GET", f"{run}/taskInstances?limit=100")["task_instances"]
        return {one["task_id"]: one["state"] for one in found}

    def wait(self, run: str) -> tuple[str, dict[str, str]]:
        ended = patiently(
            lambda: (state := self.call("GET", run)["state"]) in {"success", "failed"} and state
        )
        return str(ended), self.states(run)


def patiently(look: Callable[[], Any]) -> Any:
    """Return the first thing found, or fail after PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.5)
    raise AssertionError(f"waited {PATIENCE_SECONDS} s in vain")


def environment(home: Path, state: Path, python: Path) -> dict[str, str]:
    api, worker_logs, trigger_logs = free_port(), free_port(), free_port()
    kept = {name: text for name, text in os.environ.items() if "AIRFLOW" not in name}
    return kept | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "1",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{api}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(api),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{api}",
        "AIRFLOW__API_AUTH__JWT_SECRET": "of-this-test-only-" * 4,
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_logs),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_logs),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HEADRACE_RUNTIME": "local",
        "HEADRACE_STORE": f"file://{home}/store",
        "HEADRACE_STATE": str(state),
        "HEADRACE_PYTHON": str(python),
    }


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    home = tmp_path_factory.mktemp("standalone")
    state, python = home / "state", home / "python"
    state.mkdir()
    python.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *renew_lease*) [ -e {state}/decided ] && exit 4; exit 0;; esac\n'
        f'exec {sys.executable} {STUB} "$@"\n'
    )
    python.chmod(0o700)
    settings = environment(home, state, python)
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            ["airflow", "standalone"],
            env=settings,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    found = Airflow(settings["AIRFLOW__API__BASE_URL"], state)
    try:
        patiently(lambda: found.call("GET", "/auth/token"))
        found.token = found.call("GET", "/auth/token")["access_token"]
        patiently(lambda: found.call("GET", "/api/v2/dags/release_recommender"))
        yield found
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def address(airflow: Airflow, run: str, task: str) -> str:
    path = f"{run}/taskInstances/{task}/xcomEntries/return_value?deserialize=true"
    return str(airflow.call("GET", path)["value"])


def test_a_wrong_form_is_refused_before_anything_runs(airflow: Airflow) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        airflow.trigger(dataset="ml-100k")
    assert refused.value.code == 400
    assert "is not one of" in refused.value.read().decode()


def test_a_first_release_waits_for_its_approval_and_the_same_bytes_serve_already(
    airflow: Airflow,
) -> None:
    airflow.told(bundle_model="same")
    run = airflow.trigger(approval=True)
    patiently(lambda: airflow.states(run)["approval"] == "awaiting_input")
    assert airflow.states(run)["promote_release"] is None
    answer = {"chosen_options": ["Approve"], "params_input": {"reason": "it looks right"}}
    airflow.call("PATCH", f"{run}/taskInstances/approval/-1/hitlDetails", answer)
    patiently(lambda: airflow.states(run)["promote_release"] == "success")
    (airflow.state / "decided").touch()  # from now on a renewal finds no release in progress
    ended, states = airflow.wait(run)
    (airflow.state / "decided").unlink()
    assert (ended, states["promote_release"], states["roll_back_release"]) == (
        "success",
        "success",
        "skipped",
    )
    assert states["step_1.shift_traffic"] == "skipped"  # nobody to compare with
    assert states["hold_share"] == "success"
    store = ArtifactStore(ObjectStore(airflow.store_url), cache=airflow.state / "cache")
    config = store.manifest(Address.parse(address(airflow, run, "promote_release"))).config
    assert config["reason"] == "approved: it looks right"  # these go into the ledger
    assert config["approved_by"] not in {"", "unknown", None}

    champion = {"release_number": 1, "release_id": "first"}
    champion["bundle"] = address(airflow, run, "bundle_model")
    (airflow.state / "champion.json").write_text(json.dumps(champion))
    ended, states = airflow.wait(airflow.trigger())
    assert (ended, states["stage_bundle"], states["promote_release"]) == (
        "success",
        "skipped",
        "skipped",
    )


def test_a_refused_step_rolls_back_and_its_report_is_one_click_away(airflow: Airflow) -> None:
    airflow.told(gate__step_verdict__2="refuse")
    run = airflow.trigger()
    ended, states = airflow.wait(run)
    assert (ended, states["promote_release"], states["roll_back_release"]) == (
        "failed",
        "upstream_failed",
        "success",
    )
    assert (states["step_1.gate_step"], states["step_2.gate_step"]) == ("success", "failed")
    links = airflow.call("GET", f"{run}/taskInstances/step_2.gate_step/links")["extra_links"]
    page = address(airflow, run, "step_2.gate_step")
    assert links["Gate report"] == f"{airflow.url}/headrace/reports/{page}/report.html"
    with urllib.request.urlopen(links["Gate report"], timeout=30) as answer:
        assert answer.read().startswith(b"<h1>gate</h1>")


def test_a_lie_is_not_green(airflow: Airflow) -> None:
    airflow.told(ingest_events="lie")
    run = airflow.trigger()
    retried = patiently(lambda: airflow.states(run)["ingest_events"] == "up_for_retry")
    assert retried
    airflow.call("PATCH", run, {"state": "failed"})
    assert airflow.wait(run)[0] == "failed"
