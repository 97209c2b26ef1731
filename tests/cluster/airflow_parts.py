"""An Airflow of separate processes, so that one of them can be killed; asked by its API."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
LOOK_SECONDS = 2.0  # between two looks at whether all parts run
ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
# Imported once by the scheduler, shared by all the task processes that it forks.
_PREIMPORT = "import headrace_airflow.pod_stage_operator\n"


def patiently(look: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return the first thing found that is true, or fail."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.3)
    raise AssertionError(f"waited {seconds:g} s in vain for {what}")


class Airflow:
    """API server, scheduler with its workers, DAG processor and triggerer.

    Without a login (user, password) everybody is an administrator.
    """

    def __init__(
        self,
        home: Path,
        more: dict[str, str],
        dags: str = "dags",
        *,
        host: str = "127.0.0.1",
        login: tuple[str, str] | None = None,
    ) -> None:
        api, worker_logs, trigger_logs = free_port(), free_port(), free_port()
        self.home = home
        self.url = f"http://{host}:{api}"
        self.token = ""
        self._login = login
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._writing = threading.Lock()  # two requests that write lock each other out of SQLite
        kept = {name: text for name, text in os.environ.items() if "AIRFLOW" not in name}
        self.environment = kept | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).parent / dags),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "8",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": str(login is None),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__HOST": host,
            "AIRFLOW__API__PORT": str(api),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API_AUTH__JWT_SECRET": "of-this-test-only-" * 4,
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_logs),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_logs),
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
            "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "10",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'plugins'}",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **more,
        }

    def prepare(self) -> None:
        """Make its folders and its database."""
        (self.home / "plugins").mkdir(parents=True)
        (self.home / "config").mkdir()
        (self.home / "config/airflow_local_settings.py").write_text(_PREIMPORT)
        subprocess.run(
            ["airflow", "db", "migrate"],
            env=self.environment,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with closing(sqlite3.connect(self.home / "airflow.db")) as database:
            database.execute("PRAGMA journal_mode=WAL")  # readers and a writer side by side

    def start(self) -> None:
        for part in ("api-server", "dag-processor", "scheduler", "triggerer"):
            self._run(part)
        threading.Thread(target=self._start_again_what_ends, daemon=True).start()
        patiently(lambda: self.call("GET", "/api/v2/monitor/health"), 120, "Airflow's API")
        self.token = self._new_token()

    def _new_token(self) -> str:
        if self._login is None:
            return str(self.call("GET", "/auth/token")["access_token"])
        user, password = self._login
        body = {"username": user, "password": password}
        return str(self.call("POST", "/auth/token", body)["access_token"])

    def _start_again_what_ends(self) -> None:
        """Do as any deployment does: a scheduler ends when SQLite is locked for more than 5 s."""
        while not self._stopping.wait(LOOK_SECONDS):
            with self._lock:
                ended = [part for part, one in self.processes.items() if one.poll() is not None]
                for part in ended if not self._stopping.is_set() else []:
                    self._run(part)

    def stop(self) -> None:
        self._stopping.set()
        with self._lock:
            self._end_all()

    def _end_all(self) -> None:
        for process in self.processes.values():
            _signal(process, signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)

    def restart_killed(self, part: str) -> None:
        """Kill a part as a lost node does, and start it again."""
        with self._lock:
            _signal(self.processes[part], signal.SIGKILL)
            self.processes[part].wait()
            self._run(part)

    def _run(self, part: str) -> None:
        with (self.home / f"{part}.log").open("ab") as log:
            self.processes[part] = subprocess.Popen(
                ["airflow", part],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"},
        )
        if method == "GET":
            return _answer(request)
        with self._writing:
            return patiently(lambda: [_answer(request)], 60, f"{method} {path}")[0]


class TaskRun:
    """One run of a one-task DAG."""

    def __init__(self, airflow: Airflow, name: str) -> None:
        self.airflow, self.name = airflow, name
        self.dag = f"/api/v2/dags/matrix_{name}"
        patiently(lambda: airflow.call("GET", self.dag), 120, f"DAG matrix_{name}")
        run = airflow.call("POST", f"{self.dag}/dagRuns", {"logical_date": None})
        self.run_id = str(run["dag_run_id"])
        self.path = f"{self.dag}/dagRuns/{urllib.parse.quote(self.run_id, safe='')}"

    @property
    def task(self) -> dict[str, Any]:
        return dict(self.airflow.call("GET", f"{self.path}/taskInstances/{self.name}"))

    @property
    def run_state(self) -> str:
        return str(self.airflow.call("GET", self.path)["state"])

    def wait(self, seconds: float) -> dict[str, Any]:
        """Return the task instance once its run has ended."""
        patiently(
            lambda: self.run_state in {"success", "failed"}, seconds, f"the end of {self.name}"
        )
        return self.task

    def mark_failed(self) -> None:
        self.airflow.call(
            "PATCH", f"{self.path}/taskInstances/{self.name}", {"new_state": "failed"}
        )

    def clear(self) -> None:
        body = {
            "dry_run": False,
            "task_ids": [self.name],
            "dag_run_id": self.run_id,
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self.airflow.call("POST", f"{self.dag}/clearTaskInstances", body)

    def address(self) -> str | None:
        path = f"{self.path}/taskInstances/{self.name}/xcomEntries/return_value?deserialize=true"
        try:
            return str(self.airflow.call("GET", path)["value"])
        except urllib.error.HTTPError:
            return None

    def log(self) -> str:
        """Return what the tries wrote, from the files."""
        folder = self.airflow.home / "logs" / f"dag_id=matrix_{self.name}"
        return "\n".join(one.read_text(errors="replace") for one in sorted(folder.rglob("*.log*")))


def _answer(request: urllib.request.Request) -> Any:
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or b"null")


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass
