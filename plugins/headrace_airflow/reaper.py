"""Removes pods of ended task instances: `python -m headrace_airflow.reaper [--every SECONDS]`.

The operator and its trigger remove their own pods; this is for what they could not: no worker or
triggerer was left to act, or the API was away. It asks Airflow about every pod of its namespace
that has our marks, so a namespace belongs to one deployment.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import urllib3
from airflow.sdk.exceptions import AirflowException

from headrace_airflow.pod_api import Patience, PodApi
from headrace_airflow.pod_identity import ENDED_STATES, MANAGED_BY, TaskKey
from headrace_airflow.pod_news import utc_now
from tasks.contracts.errors import BadRequestError, HeadraceError, bounded

GRACE_SECONDS = 120.0  # a try that is just ending removes its pod itself
ANSWER_SECONDS = 20.0
ABSENT, UNAUTHORIZED = 404, 401
SELECTOR = ",".join(f"{name}={value}" for name, value in MANAGED_BY.items())


@dataclass(frozen=True, kw_only=True)
class TaskFound:
    """What Airflow says of a task instance."""

    state: str | None  # None: not scheduled yet, or cleared
    ended: datetime | None
    run_made: datetime


def verdict(
    pod: Mapping[str, Any], key: TaskKey, task: TaskFound | None, now: datetime, grace: float
) -> str:
    """Return why the pod has to go, or an empty text; a pod that goes already is left alone."""
    if is_young(pod, now, grace) or pod["metadata"].get("deletionTimestamp"):
        return ""
    if task is None:
        return "its task instance is not there any more"
    if key.run_made and datetime.fromisoformat(key.run_made) != task.run_made:
        return f"its run was deleted, another of {task.run_made.isoformat()} took the name"
    just_ended = task.ended is not None and (now - task.ended).total_seconds() < grace
    if task.state in ENDED_STATES and not just_ended:
        return f"its task is {task.state}"
    return ""


def is_young(pod: Mapping[str, Any], now: datetime, grace: float) -> bool:
    """Say whether the pod was made so lately that Airflow is not even asked."""
    made = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
    return (now - made).total_seconds() < grace


class AirflowApi:
    """Airflow's public API: only what an absent or ended task instance can be told by."""

    def __init__(self, url: str, user: str = "", password: str = "") -> None:
        self._url = url.rstrip("/")
        self._login = {"username": user, "password": password} if user else None
        self._http = urllib3.PoolManager(timeout=ANSWER_SECONDS, retries=False)
        self._token = ""

    def task(self, key: TaskKey) -> TaskFound | None:
        """Return the task instance; None only if Airflow itself says that there is none."""
        run_path = f"/api/v2/dags/{_part(key.dag_id)}/dagRuns/{_part(key.run_id)}"
        run = self._get(run_path)
        if run is None:
            return None
        mapped = f"/{key.map_index}" if key.map_index >= 0 else ""
        task = self._get(f"{run_path}/taskInstances/{_part(key.task_id)}{mapped}")
        if task is None:
            return None
        ended = task.get("end_date")
        return TaskFound(
            state=task["state"],
            ended=None if ended is None else datetime.fromisoformat(ended),
            run_made=datetime.fromisoformat(run["run_after"]),
        )

    def _get(self, path: str) -> Mapping[str, Any] | None:
        status, answer = self._ask("GET", path)
        if status == UNAUTHORIZED:
            self._token = self._new_token()
            status, answer = self._ask("GET", path)
        if status == ABSENT and "was not found" in str(answer.get("detail")):
            return None
        if status != 200:
            raise AirflowException(self._unusable(f"GET {path}", status, answer))
        return answer

    def _new_token(self) -> str:
        status, answer = self._ask("POST" if self._login else "GET", "/auth/token", self._login)
        if "access_token" not in answer:
            raise AirflowException(self._unusable("/auth/token", status, answer))
        return str(answer["access_token"])

    def _ask(self, method: str, path: str, body: object = None) -> tuple[int, Mapping[str, Any]]:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body)
        answer = self._http.request(method, self._url + path, body=data, headers=headers)
        try:
            found = json.loads(answer.data)
        except ValueError:
            found = {}
        return answer.status, found if isinstance(found, dict) else {}

    def _unusable(self, what: str, status: int, answer: Mapping[str, Any]) -> str:
        found = answer.get("detail") or "no JSON"
        return bounded(
            f"Airflow at {self._url}: {what}: expected an answer, found {status}: {found}; check "
            "HEADRACE_AIRFLOW, HEADRACE_AIRFLOW_USER and HEADRACE_AIRFLOW_PASSWORD"
        )


@dataclass(frozen=True, kw_only=True)
class Reaper:
    """Looks through one namespace; `task` asks Airflow."""

    api: PodApi
    task: Callable[[TaskKey], TaskFound | None]
    grace_seconds: float = GRACE_SECONDS
    dry_run: bool = False
    say: Callable[[str], None] = print

    def round(self) -> int:
        """Remove what has to go; return how many pods could not be judged or removed."""
        troubles = 0
        for pod in self.api.labelled(SELECTOR):
            key, now = TaskKey.of_pod(pod), utc_now()
            if key is None or is_young(pod, now, self.grace_seconds):
                continue
            try:
                why = verdict(pod, key, self.task(key), now, self.grace_seconds)
                if why:
                    self._remove(pod, why)
            except (AirflowException, HeadraceError, urllib3.exceptions.HTTPError) as error:
                troubles += 1
                self.say(f"pod {pod['metadata']['name']} stays: {error}")
        return troubles

    def _remove(self, pod: Mapping[str, Any], why: str) -> None:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        if not self.dry_run:
            self.api.delete_own(name, uid)
        self.say(f"pod {name} (uid {uid}) {'would be' if self.dry_run else 'is'} removed: {why}")


def main(arguments: list[str] | None = None) -> int:
    """Reap once, or again and again; 1: something could not be judged."""
    parser = argparse.ArgumentParser(prog="python -m headrace_airflow.reaper", description=__doc__)
    parser.add_argument("--every", type=float, default=0.0, help="seconds between rounds; 0: one")
    parser.add_argument("--grace-seconds", type=float, default=GRACE_SECONDS)
    parser.add_argument("--dry-run", action="store_true", help="say what would go")
    options = parser.parse_args(arguments)
    try:
        reaper = Reaper(
            api=PodApi(_demanded("HEADRACE_NAMESPACE"), Patience(seconds=60)),
            task=AirflowApi(
                _demanded("HEADRACE_AIRFLOW"),
                os.environ.get("HEADRACE_AIRFLOW_USER", ""),
                os.environ.get("HEADRACE_AIRFLOW_PASSWORD", ""),
            ).task,
            grace_seconds=options.grace_seconds,
            dry_run=options.dry_run,
            say=lambda text: print(text, flush=True),
        )
    except BadRequestError as error:
        print(error, file=sys.stderr)
        return 2
    return _rounds(reaper, options.every)


def _rounds(reaper: Reaper, every: float) -> int:
    while True:
        try:
            troubles = reaper.round()
        except AirflowException as error:
            troubles = 1
            reaper.say(str(error))
        if not every:
            return 1 if troubles else 0
        time.sleep(every)


def _demanded(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        expected = {"HEADRACE_AIRFLOW": "the URL of Airflow's API server"}.get(name, "a namespace")
        message = f"{name}: expected {expected}, found nothing; the reaper needs it"
        raise BadRequestError(message)
    return value


def _part(text: str) -> str:
    return quote(text, safe="")


if __name__ == "__main__":
    sys.exit(main())
