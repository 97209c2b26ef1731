from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from headrace_airflow import reaper
from headrace_airflow.pod_api import Patience, PodApi
from headrace_airflow.pod_identity import MANAGED_BY, TaskKey
from headrace_airflow.reaper import AirflowApi, Reaper, TaskFound, verdict

from tests.fake_kubernetes import FakeKubernetes, serving

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
RUN_MADE = datetime(2026, 11, 25, 10, tzinfo=UTC)
KEY = TaskKey(dag_id="d", run_id="manual__1+x", task_id="t", run_made=RUN_MADE.isoformat())


def a_pod(made: datetime, *, name: str = "t-1", uid: str = "u1", **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "uid": uid,
            "creationTimestamp": made.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "labels": dict(MANAGED_BY),
            "annotations": KEY.annotations(1),
            **metadata,
        }
    }


def found(state: str | None, *, ended_before: float = 3600, made: datetime = RUN_MADE) -> TaskFound:
    ended = NOW - timedelta(seconds=ended_before)
    return TaskFound(state=state, ended=ended, run_made=made)


@pytest.mark.parametrize(
    ("task", "expected"),
    (
        pytest.param(found("failed"), "its task is failed", id="marked failed: goes"),
        pytest.param(found("success"), "its task is success", id="marked success: goes"),
        pytest.param(found("failed", ended_before=60), "", id="just ended: its try tidies up"),
        pytest.param(found("running"), "", id="running: stays"),
        pytest.param(found("deferred"), "", id="deferred: stays"),
        pytest.param(found("up_for_retry"), "", id="the next try takes it up: stays"),
        pytest.param(found("up_for_reschedule"), "", id="after a shutdown: stays"),
        pytest.param(found(None), "", id="cleared: the next try replaces it"),
        pytest.param(None, "its task instance is not there any more", id="run deleted: goes"),
        pytest.param(
            found("running", made=NOW),
            "its run was deleted, another of 2026-11-25T12:00:00+00:00 took the name",
            id="another run took the name: goes",
        ),
    ),
)
def test_only_pods_of_ended_task_instances_go(task: TaskFound | None, expected: str) -> None:
    pod = a_pod(NOW - timedelta(hours=1))
    assert verdict(pod, KEY, task, NOW, grace=120) == expected


def test_young_pods_and_those_that_go_already_are_left_alone() -> None:
    young = a_pod(NOW - timedelta(seconds=119))
    going = a_pod(NOW - timedelta(hours=1), deletionTimestamp="2026-11-25T11:59:59Z")
    assert verdict(young, KEY, None, NOW, grace=120) == ""
    assert verdict(going, KEY, None, NOW, grace=120) == ""


class AirflowSays:
    """Answers by path, as Airflow 3.3.2 does; a token is asked for."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[str] = []

    def answer(self, method: str, path: str, token: str | None, body: Any) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        if path == "/auth/token":
            if body is not None and body != {"username": "reaper", "password": "p"}:
                return 401, {"detail": "Invalid credentials"}
            return 201, {"access_token": "T"}
        if token != "Bearer T":
            return 401, {"detail": "Not authenticated"}
        return self.answers.get(path, (404, {"detail": "Not Found"}))


@pytest.fixture
def airflow() -> Iterator[tuple[AirflowSays, str]]:
    says = AirflowSays()

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            code, answer = says.answer(
                self.command, self.path, self.headers.get("Authorization"), body
            )
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_GET = do_POST = _reply

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield says, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


RUN = "/api/v2/dags/d/dagRuns/manual__1%2Bx"
NO_RUN = {"detail": "The DagRun with dag_id: `d` and run_id: `manual__1+x` was not found"}


def airflow_knows(says: AirflowSays, state: str) -> None:
    says.answers[RUN] = 200, {"run_after": "2026-11-25T10:00:00Z"}
    says.answers[f"{RUN}/taskInstances/t"] = (
        200,
        {"state": state, "end_date": "2026-11-25T11:00:00Z"},
    )


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    fake = FakeKubernetes()
    with serving(fake, tmp_path) as config:
        monkeypatch.setenv("KUBECONFIG", str(config))
        yield fake


def old() -> datetime:
    return datetime.now(tz=UTC) - timedelta(hours=1)


def a_round(url: str, said: list[str], **more: Any) -> int:
    api = PodApi("ns", Patience(seconds=5))
    return Reaper(api=api, task=AirflowApi(url).task, say=said.append, **more).round()


def test_a_round_removes_the_pod_of_an_ended_task_and_no_other(
    cluster: FakeKubernetes, airflow: tuple[AirflowSays, str]
) -> None:
    says, url = airflow
    airflow_knows(says, "failed")
    strange = {"name": "s", "uid": "u2", "labels": {}, "annotations": {}}
    cluster.pods = {
        "t-1": a_pod(old()),
        "s": {"metadata": strange},
        "half": a_pod(old(), name="half", annotations={}),
    }
    said: list[str] = []
    assert a_round(url, said) == 0
    assert sorted(cluster.pods) == ["half", "s"]
    assert said == ["pod t-1 (uid u1) is removed: its task is failed"]


def test_a_dry_run_only_says(cluster: FakeKubernetes, airflow: tuple[AirflowSays, str]) -> None:
    says, url = airflow
    airflow_knows(says, "failed")
    cluster.pods = {"t-1": a_pod(old())}
    said: list[str] = []
    a_round(url, said, dry_run=True)
    assert list(cluster.pods) == ["t-1"]
    assert said == ["pod t-1 (uid u1) would be removed: its task is failed"]


def test_a_pod_of_a_deleted_run_goes(
    cluster: FakeKubernetes, airflow: tuple[AirflowSays, str]
) -> None:
    says, url = airflow
    says.answers[RUN] = 404, NO_RUN
    cluster.pods = {"t-1": a_pod(old())}
    assert a_round(url, []) == 0
    assert cluster.pods == {}


@pytest.mark.parametrize(
    ("code", "answer"),
    (
        pytest.param(404, {"detail": "Not Found"}, id="a 404 that is not Airflow's: a wrong URL"),
        pytest.param(403, {"detail": "Forbidden"}, id="no right to see the DAG"),
        pytest.param(500, {"detail": "x"}, id="Airflow is ill"),
    ),
)
def test_who_cannot_be_judged_stays(
    cluster: FakeKubernetes, airflow: tuple[AirflowSays, str], code: int, answer: Any
) -> None:
    says, url = airflow
    says.answers[RUN] = code, answer
    cluster.pods = {"t-1": a_pod(old())}
    said: list[str] = []
    assert a_round(url, said) == 1
    assert list(cluster.pods) == ["t-1"]
    assert f"expected an answer, found {code}" in said[0]


def test_a_pod_that_took_the_name_meanwhile_lives_on(
    cluster: FakeKubernetes, airflow: tuple[AirflowSays, str]
) -> None:
    says, url = airflow
    airflow_knows(says, "failed")
    cluster.pods = {"t-1": a_pod(old())}
    another = a_pod(old(), uid="u2")

    def replaced(method: str, path: str) -> None:
        if method == "DELETE":
            cluster.pods["t-1"] = another

    cluster.fault = replaced
    assert a_round(url, []) == 0
    assert cluster.pods == {"t-1": another}


def test_the_command_reads_its_environment_and_logs_in(
    cluster: FakeKubernetes, airflow: tuple[AirflowSays, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    says, url = airflow
    airflow_knows(says, "success")
    cluster.pods = {"t-1": a_pod(old())}
    for name, value in (("", url), ("_USER", "reaper"), ("_PASSWORD", "p")):
        monkeypatch.setenv(f"HEADRACE_AIRFLOW{name}", value)
    monkeypatch.setenv("HEADRACE_NAMESPACE", "ns")
    assert reaper.main([]) == 0
    assert cluster.pods == {}
    assert "POST /auth/token" in says.asked


def test_the_command_says_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_NAMESPACE", "ns")
    monkeypatch.delenv("HEADRACE_AIRFLOW", raising=False)
    assert reaper.main([]) == 2
    assert "HEADRACE_AIRFLOW: expected the URL" in capsys.readouterr().err
