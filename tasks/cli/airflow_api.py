"""Airflow's REST API, as far as `headrace` needs it: log in, trigger, follow, read."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tasks.contracts.errors import BadRequestError, HeadraceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.contracts.json_types import Json

TIMEOUT_SECONDS = 30.0
PAGE = 100
_UNAUTHORIZED, _NOT_FOUND, _CLIENT_ERRORS = 401, 404, range(400, 500)


class AirflowUnreachableError(HeadraceError):
    """Airflow did not answer; asking again may help."""


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """One task of a run: `state` is None until it is scheduled; times are ISO 8601."""

    task_id: str
    state: str | None
    try_number: int
    seconds: float | None
    started: str | None

    @property
    def ended(self) -> bool:
        """Return whether the task will not run any more."""
        return self.state in {"success", "failed", "skipped", "upstream_failed", "removed"}


@dataclass(frozen=True, kw_only=True)
class DagRun:
    """A run of a DAG that has not ended."""

    run_id: str
    conf: Mapping[str, Json]
    state: str
    since: str  # ISO 8601
    by: str

    @property
    def words(self) -> str:
        """Return which run it is, in words."""
        return f"run {self.run_id} ({self.state}, asked for by {self.by} at {self.since})"


class Airflow:
    """One Airflow on one address; logs in when first asked and again when the token is old."""

    def __init__(
        self,
        base_url: str,
        *,
        user: str,
        password: str,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """Use Airflow at `base_url`; nothing is asked yet."""
        self._timeout = timeout_seconds
        self.base_url = base_url.rstrip("/")
        self._login = {"username": user, "password": password}
        self._token: str | None = None
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def unhealthy(self) -> Sequence[str]:
        """Return the components that do not (yet) say that they are healthy."""
        health = self.health()
        needed = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        return [name for name in needed if (health.get(name) or {}).get("status") != "healthy"]

    def health(self) -> dict[str, Any]:
        """Return what Airflow says of its own components."""
        return self._open("GET", "/api/v2/monitor/health", None, token=None)

    def has_dag(self, dag: str) -> bool:
        """Say whether the DAG has been parsed."""
        try:
            self._call("GET", f"/api/v2/dags/{dag}")
        except _NotFoundError:
            return False
        return True

    def import_errors(self) -> Sequence[str]:
        """Return the last line of each DAG file's import error."""
        rows = self._call("GET", "/api/v2/importErrors")["import_errors"]
        return [f"{row['filename']}: {_last(row['stack_trace'])}" for row in rows]

    def unpause(self, dag: str) -> None:
        """Let the DAG run."""
        self._call("PATCH", f"/api/v2/dags/{dag}?update_mask=is_paused", {"is_paused": False})

    def trigger(self, dag: str, form: Mapping[str, Json], run_id: str) -> str:
        """Start a run with these values of the trigger form; return its id."""
        body: dict[str, Json] = {"logical_date": None, "conf": dict(form), "dag_run_id": run_id}
        return str(self._call("POST", f"/api/v2/dags/{dag}/dagRuns", body)["dag_run_id"])

    def run_state(self, dag: str, run: str) -> str:
        """Return queued, running, success or failed."""
        return str(self._call("GET", f"{_run_path(dag, run)}")["state"])

    def running(self, dag: str) -> Sequence[str]:
        """Return the ids of the DAG's runs that have not ended."""
        return [run.run_id for run in self.runs(dag)]

    def runs(self, dag: str) -> Sequence[DagRun]:
        """Return the DAG's runs that have not ended."""
        query = f"state=queued&state=running&limit={PAGE}"
        rows = self._call("GET", f"/api/v2/dags/{dag}/dagRuns?{query}")["dag_runs"]
        return [_dag_run(row) for row in rows]

    def task_order(self, dag: str) -> Sequence[str]:
        """Return the DAG's tasks, each after all that it waits for."""
        rows = self._call("GET", f"/api/v2/dags/{dag}/tasks")["tasks"]
        return in_order({row["task_id"]: row["downstream_task_ids"] for row in rows})

    def tasks(self, dag: str, run: str) -> Sequence[TaskRun]:
        """Return every task of the run."""
        path = f"{_run_path(dag, run)}/taskInstances?limit={PAGE}"
        rows: list[Any] = []
        while True:
            answer = self._call("GET", f"{path}&offset={len(rows)}")
            rows += answer["task_instances"]
            if not answer["task_instances"] or len(rows) >= answer["total_entries"]:
                return [_task_run(row) for row in rows]

    def xcom(self, dag: str, run: str, task: str, key: str) -> str | None:
        """Return a text that the task left, None where it left none."""
        path = f"{_run_path(dag, run)}/taskInstances/{task}/xcomEntries/{key}?deserialize=true"
        try:
            value = self._call("GET", path)["value"]
        except _NotFoundError:
            return None
        return None if value is None else str(value)

    def log(self, dag: str, run: str, task: str, try_number: int) -> Sequence[str]:
        """Return the lines of one try of a task, as far as they are written."""
        path = f"{_run_path(dag, run)}/taskInstances/{task}/logs/{try_number}?full_content=true"
        try:
            content = self._call("GET", path).get("content")
        except _NotFoundError:
            return []
        rows = content if isinstance(content, list) else []
        return [str(row.get("event", "")) for row in rows if isinstance(row, dict)]

    def _call(self, method: str, path: str, body: Json = None) -> dict[str, Any]:
        if self._token is None:
            self._token = self._log_in()
        try:
            return self._open(method, path, body, token=self._token)
        except _UnauthorizedError:
            self._token = self._log_in()
            return self._open(method, path, body, token=self._token)

    def _log_in(self) -> str:
        answer = self._open("POST", "/auth/token", cast("Json", self._login), token=None)
        return str(answer["access_token"])

    def _open(self, method: str, path: str, body: Json, token: str | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - the address of our own stack
            self.base_url + path, data=data, headers=headers, method=method
        )
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                return cast("dict[str, Any]", json.loads(answer.read() or b"{}"))
        except urllib.error.HTTPError as error:
            raise _refusal(error, f"{method} {path}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            message = (
                f"Airflow at {self.base_url}: expected an answer to {method} {path}, found: "
                f"{error}; see `headrace status`"
            )
            raise AirflowUnreachableError(message) from error


class _NotFoundError(BadRequestError):
    pass


class _UnauthorizedError(BadRequestError):
    pass


def _refusal(error: urllib.error.HTTPError, what: str) -> HeadraceError:
    text = error.read().decode(errors="replace")
    try:
        detail = json.loads(text).get("detail", text)
    except (ValueError, AttributeError):
        detail = text
    message = f"Airflow: {what}: answered {error.code}: {detail!s:.600}"
    if error.code == _UNAUTHORIZED:
        return _UnauthorizedError(message)
    if error.code == _NOT_FOUND:
        return _NotFoundError(message)
    if error.code in _CLIENT_ERRORS:
        return BadRequestError(message)
    return AirflowUnreachableError(message)


def in_order(downstream: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names so that each stands before all of its downstream names."""
    waiting = dict.fromkeys(downstream, 0)
    for names in downstream.values():
        for name in names:
            waiting[name] = waiting.get(name, 0) + 1
    ready = [name for name, count in waiting.items() if count == 0]
    ordered = []
    while ready:
        name = ready.pop(0)
        ordered.append(name)
        for after in downstream.get(name, ()):
            waiting[after] -= 1
            ready += [after] if waiting[after] == 0 else []
    return ordered


def _run_path(dag: str, run: str) -> str:
    return f"/api/v2/dags/{dag}/dagRuns/{urllib.parse.quote(run, safe='')}"


def _dag_run(row: Mapping[str, Any]) -> DagRun:
    return DagRun(
        run_id=str(row["dag_run_id"]),
        conf=row.get("conf") or {},
        state=str(row["state"]),
        since=str(row.get("run_after") or "an unknown time"),
        by=str(row.get("triggering_user_name") or row.get("triggered_by") or "somebody"),
    )


def _task_run(row: Mapping[str, Any]) -> TaskRun:
    return TaskRun(
        task_id=str(row["task_id"]),
        state=row["state"],
        try_number=int(row.get("try_number") or 0),
        seconds=row.get("duration"),
        started=row.get("start_date"),
    )


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"
