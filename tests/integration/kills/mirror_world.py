"""A real MLflow beside the small release: forgotten before each kill, looked at afterwards."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tasks.adapters.mlflow_mirror import RELEASE_TAG, answers, connect, versions_of
from tests.integration.kills.build_release import MODEL
from tests.integration.kills.kill_world import KillWorld
from tests.ports import free_port


def with_mlflow(world: KillWorld) -> None:
    """Start MLflow and let the world's mirror speak to it."""
    folder, port = world.folder / "mlflow", free_port()
    folder.mkdir(exist_ok=True)  # of a kept world: what an earlier call left is forgotten
    url = f"http://127.0.0.1:{port}"
    world.start(
        "mlflow",
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--artifacts-destination", str(folder / "artifacts")),
        *("--host", "127.0.0.1", "--port", str(port)),
    )
    deadline = time.monotonic() + 180
    while not answers(url):
        assert time.monotonic() < deadline, (world.folder / "mlflow.log").read_text()[-2000:]
        time.sleep(0.2)
    client = connect(url)
    world.mlflow = url
    world.forget_mirror = lambda: forget(client)
    world.mirrored = lambda: mirrored(client)


def runs_of(client: MlflowClient) -> list[Any]:
    experiment = client.get_experiment_by_name(MODEL)
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def forget(client: MlflowClient) -> None:
    for run in runs_of(client):
        client.delete_run(run.info.run_id)
    with suppress(MlflowException):
        client.delete_registered_model(MODEL)


def mirrored(client: MlflowClient) -> dict[str, Any]:
    """Return what MLflow holds of the release, run ids left out: it draws them."""
    registered = client.search_registered_models(f"name = '{MODEL}'")
    return {
        "runs": [
            {
                "release": run.data.tags.get(RELEASE_TAG),
                "status": run.info.status,
                "parameters": dict(run.data.params),
                "metrics": dict(run.data.metrics),
                "tags": {k: v for k, v in run.data.tags.items() if k.startswith("headrace.")},
                "artifacts": sorted(f.path for f in client.list_artifacts(run.info.run_id)),
            }
            for run in runs_of(client)
        ],
        "versions": [dict(version.tags) for version in versions_of(client, MODEL)],
        "aliases": [dict(model.aliases) for model in registered],
    }
