"""The mirror against a real MLflow server on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.adapters.mlflow_mirror import (
    MirroredRelease,
    Point,
    answers,
    connect,
    publish,
    versions_of,
)
from tasks.contracts.errors import StoreUnavailableError
from tests.ports import free_port

BUNDLE = f"serving_bundle/{'a' * 64}"
VACANT: dict[str, int | None] = {"champion": None, "candidate": None, "previous": None}


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    options = {
        "--backend-store-uri": f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination": str(folder / "artifacts"),
        "--host": "127.0.0.1",
        "--port": str(port),
        "--workers": "1",
    }
    command = [sys.executable, "-m", "mlflow", "server", *(t for o in options.items() for t in o)]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + 120
    while not answers(url):
        assert server.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.2)
    yield url
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(timeout=30)


def release(tmp_path: Path, model: str, name: str, number: int, status: str) -> MirroredRelease:
    manifest = tmp_path / "trained_model.json"
    manifest.write_text('{"format": "manifest/1"}')
    plot = tmp_path / "ndcg10.png"
    plot.write_bytes(b"\x89PNG")
    return MirroredRelease(
        model=model,
        release_id=name,
        status=status,
        at_milliseconds=1_700_000_000_000,
        parameters={"recipe": "markov", "seed": "1", "long": "x" * 6000},
        points=[
            Point(name="train/loss", value=2.0, step=1),
            Point(name="train/loss", value=1.0, step=2),
            *(Point(name=f"evaluation/figure {n}", value=n / 10) for n in range(150)),
        ],
        files={"manifests": [manifest], "plots": [plot]},
        release_number=number,
        bundle=BUNDLE,
    )


def test_a_release_that_is_mirrored_twice_is_there_once(mlflow_url: str, tmp_path: Path) -> None:
    client = connect(mlflow_url)
    told = release(tmp_path, "once", "release-1", 1, "promoted")
    first = publish(client, told, {**VACANT, "champion": 1})
    second = publish(client, told, {**VACANT, "champion": 1})
    assert second == first
    assert first.aliases == {"champion": first.version}
    experiment = client.get_experiment_by_name("once")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.run_id for run in runs] == [first.run_id]
    assert runs[0].data.params["recipe"] == "markov"
    assert runs[0].data.metrics["evaluation/figure 149"] == 14.9
    history = client.get_metric_history(first.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 1.0)]
    assert [item.path for item in client.list_artifacts(first.run_id, "plots")] == [
        "plots/ndcg10.png"
    ]
    versions = versions_of(client, "once")
    assert [version.version for version in versions] == [first.version]
    assert versions[0].tags["headrace.bundle"] == BUNDLE


def test_a_half_mirrored_run_is_completed_not_doubled(mlflow_url: str, tmp_path: Path) -> None:
    client = connect(mlflow_url)
    experiment = client.create_experiment("half")
    begun = client.create_run(experiment, tags={"headrace.release_id": "release-1"})
    told = release(tmp_path, "half", "release-1", 1, "promoted")
    mirrored = publish(client, told, {**VACANT, "champion": 1})
    assert mirrored.run_id == begun.info.run_id
    assert client.get_run(mirrored.run_id).data.tags["headrace.mirrored"] == "promoted"


def test_aliases_follow_the_ledger_through_promotion_and_rollback(
    mlflow_url: str, tmp_path: Path
) -> None:
    client = connect(mlflow_url)
    one = release(tmp_path, "moves", "release-1", 1, "promoted")
    two = release(tmp_path, "moves", "release-2", 2, "promoted")
    publish(client, one, {**VACANT, "champion": 1})
    publish(client, two, {"champion": 2, "candidate": None, "previous": 1})
    assert _aliases(client) == {"champion": "2", "previous": "1"}
    back = release(tmp_path, "moves", "release-2", 2, "rolled back")
    publish(client, back, {**VACANT, "champion": 1})
    assert _aliases(client) == {"champion": "1"}
    statuses = {v.version: v.tags["headrace.status"] for v in versions_of(client, "moves")}
    assert statuses == {"1": "promoted", "2": "rolled back"}


def _aliases(client) -> dict[str, str]:
    return {k: str(v) for k, v in client.get_registered_model("moves").aliases.items()}


def test_a_release_that_never_reached_a_slot_is_a_run_without_a_version(
    mlflow_url: str, tmp_path: Path
) -> None:
    client = connect(mlflow_url)
    told = MirroredRelease(
        model="refused",
        release_id="release-1",
        status="not staged",
        at_milliseconds=1_700_000_000_000,
        parameters={"recipe": "markov"},
        points=[],
        files={},
    )
    mirrored = publish(client, told, VACANT)
    assert mirrored.version is None
    assert mirrored.aliases == {}
    assert client.get_run(mirrored.run_id).info.status == "FAILED"


def test_a_server_that_goes_away_is_an_error_that_a_retry_may_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        assert not answers(url)
        told = release(tmp_path, "away", "release-1", 1, "promoted")
        with pytest.raises(StoreUnavailableError, match="expected it to take release release-1"):
            publish(connect(url), told, VACANT)
