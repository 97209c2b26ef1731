"""What `headrace status` finds wrong, asked of real sockets, processes and files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.cli import health
from tasks.cli.home import Home
from tasks.cli.parts import Status
from tasks.cli.processes import Identity
from tasks.cli.status import Situation
from tasks.contracts.requests import PLANS
from tasks.rollout.record import Colour
from tasks.rollout.state import ModelState, Note, open_state
from tests.unit.cli.stack_reports import a_part, a_report

NOW = datetime(2026, 1, 31, 10, 0, 0, tzinfo=UTC)
WELL = {"metadatabase": {"status": "healthy"}} | {
    name: {"status": "healthy", f"latest_{name}_heartbeat": "2026-01-31T09:59:55.1+00:00"}
    for name in ("scheduler", "triggerer", "dag_processor")
}


def test_an_airflow_whose_parts_beat_is_well() -> None:
    assert health.heartbeats(WELL, NOW) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    (
        pytest.param(
            {"scheduler": {"latest_scheduler_heartbeat": "2026-01-31T09:59:20+00:00"}},
            "Airflow scheduler: no heartbeat for 40 s; see logs/airflow-scheduler.log",
            id="a heartbeat of 40 seconds ago",
        ),
        pytest.param(
            {"triggerer": {"status": "unhealthy", "latest_triggerer_heartbeat": None}},
            "Airflow triggerer: no heartbeat yet; see logs/airflow-triggerer.log",
            id="none at all",
        ),
        pytest.param(
            {"dag_processor": None},
            "Airflow DAG processor: no heartbeat yet; see logs/airflow-dag-processor.log",
            id="a component that is not told of",
        ),
        pytest.param(
            {"metadatabase": {"status": "unhealthy"}},
            "Airflow database: cannot be reached; see logs/airflow-api-server.log",
            id="no database",
        ),
    ),
)
def test_a_part_of_airflow_that_does_not_beat_is_named(changed: Any, said: str) -> None:
    assert health.heartbeats(WELL | changed, NOW) == [said]


@pytest.mark.parametrize(
    ("part", "words"),
    (
        ("envoy", "router"),
        ("shop-blue", "slot blue of shop"),
        ("recommender-ml-1m-violet", "slot violet of recommender-ml-1m"),
        ("airflow-scheduler", "Airflow scheduler"),
        ("keeper", "keeper"),
    ),
)
def test_parts_are_called_what_people_call_them(part: str, words: str) -> None:
    assert health.words_for(part) == words


# Slots and router: real HTTP on loopback


class Answers:
    """A server that answers as told: a code, and which version is available."""

    def __init__(self) -> None:
        self.code, self.version, self.delay, self.garbage = 200, 1, 0.0, False
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                time.sleep(told.delay)
                row = {"version": str(told.version), "state": "AVAILABLE"}
                body = json.dumps({"model_version_status": [row]}).encode()
                self.send_response(told.code)
                self.end_headers()
                with contextlib.suppress(OSError):  # who asked has given up
                    self.wfile.write(b"<html>" if told.garbage else body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def answers() -> Iterator[Answers]:
    made = Answers()
    yield made
    made.close()


@pytest.fixture
def state(tmp_path: Path, answers: Answers) -> ModelState:
    """A model whose first release serves from the blue slot."""
    state = open_state(tmp_path / "state", "shop")
    state.reserve_slot("first")
    state.promote("first")
    ports = {"grpc": answers.port, "rest": answers.port}
    slots = dict.fromkeys(("blue", "green", "violet"), ports)
    record = {"format": "slots/1", "model": "shop", "slots": slots}
    (tmp_path / "state/shop/slots.json").write_text(json.dumps(record))
    return state


def model(tmp_path: Path) -> health.ServedModel:
    return health.read_models(Home(root=tmp_path, store_url=f"file://{tmp_path}/store"))[0]


def test_a_slot_that_serves_its_release_is_well(tmp_path: Path, state: ModelState) -> None:
    assert health._slots(model(tmp_path)) == []


def test_a_slot_that_answers_503_is_named_with_its_role(
    tmp_path: Path, state: ModelState, answers: Answers
) -> None:
    answers.code = 503
    assert health._slots(model(tmp_path)) == [
        "slot blue of shop: answers 503 (stable, release 1)",
    ]


def test_a_slot_with_another_release_or_nonsense_is_named(
    tmp_path: Path, state: ModelState, answers: Answers
) -> None:
    answers.version = 7
    assert health._slots(model(tmp_path)) == [
        "slot blue of shop: expected release 1 (stable), found 7"
    ]
    answers.garbage = True
    assert health._slots(model(tmp_path)) == [
        "slot blue of shop: expected release 1 (stable), found none available"
    ]


def test_a_slot_that_hangs_is_not_waited_for(
    tmp_path: Path, state: ModelState, answers: Answers
) -> None:
    answers.delay = 5
    began = time.monotonic()
    assert health._slots(model(tmp_path)) == [
        f"slot blue of shop: no answer on port {answers.port} (stable, release 1)"
    ]
    assert time.monotonic() - began < 3


def test_a_candidate_that_is_still_loading_is_not_asked_and_one_with_a_share_is(
    tmp_path: Path, state: ModelState, answers: Answers
) -> None:
    state.reserve_slot("second")
    assert health._slots(model(tmp_path)) == []
    state.begin_step("second", 1, PLANS["replay"], per_try_timeout_ms=50)
    assert health._slots(model(tmp_path)) == [
        "slot green of shop: expected release 2 (candidate), found 1"
    ]


def test_a_router_is_well_silent_refusing_or_behind(
    tmp_path: Path, state: ModelState, answers: Answers
) -> None:
    address = f"http://127.0.0.1:{answers.port}"
    report = a_report(addresses={"router": address})
    models = [model(tmp_path)]
    assert health._router(report, models) == []
    answers.code = 503
    assert health._router(report, models) == ["router: answers 503 for shop"]
    answers.code, answers.version = 200, 4
    assert health._router(report, models) == [
        (
            "router: expected release 1 of shop, which the ledger says is stable, found 4; is the "
            "keeper running?"
        )
    ]
    silent = a_report()
    assert health._router(silent, models) == [
        "router: no answer at http://127.0.0.1:9; see `logs/envoy.log`"
    ]
    assert health._router(silent, []) == []  # nothing is released: nobody asks


def test_a_record_that_cannot_be_read_is_named_and_hides_no_other_model(
    tmp_path: Path, state: ModelState
) -> None:
    other = open_state(tmp_path / "state", "search")
    other.reserve_slot("s-1")
    state.path.write_text("{")
    search, shop = health.read_models(Home(root=tmp_path, store_url=f"file://{tmp_path}/store"))
    assert search.record is not None
    assert health.records([search, shop]) == [
        (
            f"shop: {state.path}: expected a JSON object, found text that does not parse: Expecting "
            "property name enclosed in double quotes: line 1 column 2 (char 1)"
        )
    ]


def test_a_paused_rollout_waits_for_a_person(tmp_path: Path, state: ModelState) -> None:
    state.reserve_slot("second")
    state.begin_step("second", 1, PLANS["replay"], per_try_timeout_ms=50)
    assert health.records([model(tmp_path)]) == []
    state.lapse("second", state.peek().lease.renewals)
    said = health.records([model(tmp_path)])
    assert said[0].startswith("shop: release second is paused: the candidate takes nothing;")
    assert "the lease of 600 s was not renewed; `headrace resume --model shop" in said[0]
    assert said[0].endswith("or `headrace rollback --model shop --reason WHY`")
    state.pause("second", note=Note(who="person ann", why="odd numbers"))
    assert "; paused by person ann at " in health.records([model(tmp_path)])[0]
    assert ": odd numbers; `headrace resume" in health.records([model(tmp_path)])[0]


def test_a_halted_rollout_waits_for_its_stable_slot(tmp_path: Path, state: ModelState) -> None:
    state.reserve_slot("second")
    state.begin_step("second", 1, PLANS["replay"], per_try_timeout_ms=50)
    state.look({Colour.BLUE}, note=Note(who="keeper"))
    (said,) = health.records([model(tmp_path)])
    assert "halted by keeper at " in said
    assert "or replace its release by `headrace hotfix --model shop --bundle" in said
    assert "then `headrace rollback --model shop --reason WHY`" in said
    assert "resume" not in said


def test_a_rollout_that_was_cut_is_not_to_be_resumed(tmp_path: Path, state: ModelState) -> None:
    state.reserve_slot("second")
    state.begin_step("second", 1, PLANS["replay"], per_try_timeout_ms=80)
    state.cut("second", 1, numbers={})
    assert health.records([model(tmp_path)]) == [
        (
            "shop: release second is paused: step 1 was cut or judged unfavourably, and nothing "
            "resumes it; `headrace history` says why; `headrace rollback --model shop --reason WHY`"
        )
    ]


# Processes, ports and disks


def test_a_part_that_ended_is_named_with_its_last_words() -> None:
    part = a_part("envoy", status=Status.BACKING_OFF, restarts=3, note="ended with exit code 1: no")
    assert health._processes(a_report(parts=(part,), ports={"router": 9}), []) == [
        (
            "router: not running, ended with exit code 1: no; started again 3 times; see "
            "/logs/envoy.log"
        )
    ]


def test_a_port_that_somebody_else_has_taken_is_named_with_who_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        port = foreign.getsockname()[1]
        part = a_part("mlflow", status=Status.BACKING_OFF, note="ended with exit code 1: bind")
        said = health._processes(a_report(parts=(part,), ports={"mlflow": port}), [])
    assert said[0].startswith(
        f"MLflow: not running; its port {port} is taken by process {os.getpid()} ("
    )
    assert said[0].endswith("end that, or `headrace down` and `headrace up` for another port")


def test_the_port_of_a_slot_that_cannot_listen_is_found_too(
    tmp_path: Path, state: ModelState, answers: Answers
) -> None:
    part = a_part("shop-green", status=Status.BACKING_OFF, note="ended with exit code 4: taken")
    said = health._processes(a_report(parts=(part,)), [model(tmp_path)])
    assert said[0].startswith(f"slot green of shop: not running; its port {answers.port} is taken")


def test_a_suspended_process_and_one_that_has_just_ended_are_named() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        part = a_part("keeper", process=Identity.of(sleeper.pid))
        report = a_report(parts=(part,))
        assert health._processes(report, []) == []
        sleeper.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 5
        while not health._processes(report, []) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert health._processes(report, []) == [
            f"keeper: process {sleeper.pid} is suspended; kill -CONT {sleeper.pid} lets it go on"
        ]
    finally:
        sleeper.kill()
        sleeper.wait()
    assert health._processes(report, []) == [
        f"keeper: process {sleeper.pid} has ended and is not started again yet"
    ]


def test_a_full_disk_is_said_with_how_full_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(root=tmp_path, store_url=f"file://{tmp_path}/store")
    full = SimpleNamespace(total=100_000_000_000, used=98_000_000_000, free=2_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: full)
    assert health.room(home) == [
        (
            f"disk 98 % full (2.0 GB left) at {tmp_path}: free some space, `headrace gc` removes what "
            "no release reaches"
        )
    ]
    roomy = SimpleNamespace(total=100_000_000_000, used=90_000_000_000, free=10_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: roomy)
    assert health.room(home) == []


def test_the_worst_stands_in_the_line_and_says_how_many_more_there_are() -> None:
    assert Situation.bad("router: no answer").line == "router: no answer"
    both = Situation.bad("router: no answer", "MLflow: no answer")
    assert (both.line, both.well) == ("router: no answer (and 1 more)", False)
    assert Situation(line="all well").well


def test_everything_is_asked_at_once_and_what_is_down_is_said_once(
    tmp_path: Path, state: ModelState, answers: Answers
) -> None:
    home = Home(root=tmp_path, store_url=f"file://{tmp_path}/store")
    part = a_part("envoy", status=Status.BACKING_OFF, note="ended with exit code 1: no")
    answers.delay = 2.5
    began = time.monotonic()
    said = health.problems_of(home, a_report(parts=(part,)))
    assert time.monotonic() - began < 6
    assert [line.partition(":")[0] for line in said] == [
        "router",
        "slot blue of shop",
        "Airflow API",
        "MLflow",
    ]
