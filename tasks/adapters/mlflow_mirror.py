"""MLflow as a mirror of the ledger: one run and one model version per release, found by tag."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.contracts.errors import StoreUnavailableError

if TYPE_CHECKING:
    from mlflow import MlflowClient

RELEASE_TAG = "headrace.release_id"
NUMBER_TAG = "headrace.release_number"
STATUS_TAG = "headrace.status"
BUNDLE_TAG = "headrace.bundle"
COMPLETE_TAG = "headrace.mirrored"
ALIASES = ("champion", "candidate", "previous")
PROBE_SECONDS = 3.0
BATCH = 100
MAX_PARAMETER = 500
MAX_TAG = 4000
_RUN_STATUS = {"promoted": "FINISHED", "rolled back": "KILLED"}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One value of a metric."""

    name: str
    value: float
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class MirroredRelease:
    """All that MLflow is told of a release; `files` maps a folder of the run to local files."""

    model: str
    release_id: str
    status: str  # promoted, rolled back, refused, in progress
    at_milliseconds: int
    parameters: Mapping[str, str]
    points: Sequence[Point]
    files: Mapping[str, Sequence[Path]]
    release_number: int | None = None
    bundle: str | None = None  # address of the serving bundle
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MirroredAs:
    """Where a release is in MLflow."""

    run_id: str
    version: str | None
    aliases: Mapping[str, str]


def answers(url: str) -> bool:
    """Say whether an MLflow server answers at this address, without importing mlflow."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url.rstrip('/')}/health", timeout=PROBE_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def connect(url: str) -> MlflowClient:
    """Return a client that gives up soon: a mirror must not hold up a release."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    from mlflow import MlflowClient  # noqa: PLC0415  seconds, and only where it is used

    return MlflowClient(tracking_uri=url, registry_uri=url)


def publish(
    client: MlflowClient, release: MirroredRelease, serving: Mapping[str, int | None]
) -> MirroredAs:
    """Mirror a release, once however often it is asked, and let aliases follow the ledger.

    `serving` maps each of ALIASES to the release number that has the role, None for a vacant one.
    """
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        run_id = _run(client, release)
        version = _version(client, release, run_id) if release.bundle else None
        aliases = follow_ledger(client, release.model, serving)
    except MlflowException as error:
        message = f"MLflow: expected it to take release {release.release_id}, found: {error}"
        raise StoreUnavailableError(message) from error
    return MirroredAs(run_id=run_id, version=version, aliases=aliases)


def _run(client: MlflowClient, release: MirroredRelease) -> str:
    experiment = client.get_experiment_by_name(release.model)
    experiment_id = (
        client.create_experiment(release.model) if experiment is None else experiment.experiment_id
    )
    wanted = f"tags.`{RELEASE_TAG}` = '{release.release_id}'"
    known = client.search_runs([experiment_id], filter_string=wanted, max_results=1)
    if known:
        run = known[0]
    else:
        run = client.create_run(
            experiment_id,
            start_time=release.at_milliseconds,
            tags={RELEASE_TAG: release.release_id},
            run_name=release.release_id,
        )
    run_id = str(run.info.run_id)
    if run.data.tags.get(COMPLETE_TAG) != release.status:
        _fill(client, run_id, release)
    return run_id


def _fill(client: MlflowClient, run_id: str, release: MirroredRelease) -> None:
    """Write everything, the mark of completeness last: a half mirrored run is written again."""
    from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415

    tags = {**release.tags, STATUS_TAG: release.status}
    parameters = [Param(k, v[:MAX_PARAMETER]) for k, v in release.parameters.items()]
    # Equal time and step: a point that is written twice is one point.
    metrics = [
        Metric(point.name, point.value, release.at_milliseconds, point.step)
        for point in release.points
    ]
    client.log_batch(run_id, tags=[RunTag(k, v[:MAX_TAG]) for k, v in tags.items()])
    for start in range(0, len(parameters), BATCH):
        client.log_batch(run_id, params=parameters[start : start + BATCH])
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH])
    for folder, files in release.files.items():
        for file in files:
            client.log_artifact(run_id, str(file), artifact_path=folder or None)
    client.set_terminated(run_id, _RUN_STATUS.get(release.status, "FAILED"))
    client.set_tag(run_id, COMPLETE_TAG, release.status)


def _version(client: MlflowClient, release: MirroredRelease, run_id: str) -> str:
    known = versions_of(client, release.model)
    for version in known:
        if version.tags.get(RELEASE_TAG) == release.release_id:
            client.set_model_version_tag(release.model, version.version, STATUS_TAG, release.status)
            return str(version.version)
    if not known and not _registered(client, release.model):
        client.create_registered_model(
            release.model, description="Mirror of the ledger: `headrace history` is the truth."
        )
    uri = client.get_run(run_id).info.artifact_uri
    number = "" if release.release_number is None else str(release.release_number)
    made = client.create_model_version(
        release.model,
        source=f"{uri}/manifests",
        run_id=run_id,
        description=f"release {number}: {release.bundle}",
        tags={
            RELEASE_TAG: release.release_id,
            NUMBER_TAG: number,
            BUNDLE_TAG: str(release.bundle),
            STATUS_TAG: release.status,
        },
    )
    return str(made.version)


def versions_of(client: MlflowClient, model: str) -> list[Any]:
    """Return every version of a registered model."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{model}'", page_token=token)
        found += list(page)
        token = page.token
        if not token:
            return found


def _registered(client: MlflowClient, model: str) -> bool:
    return bool(client.search_registered_models(f"name = '{model}'"))


def follow_ledger(
    client: MlflowClient, model: str, serving: Mapping[str, int | None]
) -> dict[str, str]:
    """Set and delete aliases so that they say what the ledger says; return alias -> version."""
    if not _registered(client, model):
        return {}
    by_number = {v.tags.get(NUMBER_TAG): str(v.version) for v in versions_of(client, model)}
    has = dict(client.get_registered_model(model).aliases)
    aliases = {}
    for alias in ALIASES:
        version = by_number.get(str(serving.get(alias)))
        if version is not None:
            aliases[alias] = version
            if str(has.get(alias)) != version:
                client.set_registered_model_alias(model, alias, version)
        elif alias in has:
            client.delete_registered_model_alias(model, alias)
    return aliases
