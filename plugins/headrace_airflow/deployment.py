"""Where this Airflow runs its stages: read once from the environment, refused if missing."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from headrace_airflow.compute_choice import DEFAULT_COMPUTE, ComputeTable, read_compute
from headrace_airflow.pod_settings import PodSettings, read_pod_settings
from tasks.contracts.errors import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping


_CONFIG_MAPS = re.compile(r"configmap://[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Runtime(StrEnum):
    """What a stage runs in."""

    LOCAL = "local"  # a subprocess of the worker
    KUBERNETES = "kubernetes"  # a pod


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One deployment of Headrace as Airflow sees it."""

    runtime: Runtime
    store_url: str  # fsspec URL of the artifact store
    state_dir: Path  # state records and traffic logs of the models
    python: Path  # interpreter of the stages in the local runtime
    stage_path: Path  # folder that holds the package `tasks`
    warm_gates: Path | None = None  # socket of `tasks.warm_start`; None or no server: slower
    compute: ComputeTable = DEFAULT_COMPUTE  # node pools, and each stage's place in them
    pods: PodSettings | None = None  # of the kubernetes runtime only
    rollout_state: str | None = None  # configmap://NAMESPACE; None: records in the state folder
    slot_host: str | None = None  # name of a slot's Service; None: slots.json in the state folder
    rollout_account: str | None = None  # service account of the stages that change a record


def read_deployment(environment: Mapping[str, str]) -> Deployment:
    """Read the deployment from HEADRACE_* variables."""
    runtime = _demanded(environment, "HEADRACE_RUNTIME", "local or kubernetes")
    if runtime not in set(Runtime):
        message = (
            f"HEADRACE_RUNTIME: expected {[item.value for item in Runtime]}, found {runtime!r}"
        )
        raise BadRequestError(message)
    store_url = _demanded(environment, "HEADRACE_STORE", "a URL such as file:///srv/headrace/store")
    if "://" not in store_url:
        message = f"HEADRACE_STORE: expected a URL such as file:///srv/store, found {store_url!r}"
        raise BadRequestError(message)
    return Deployment(
        runtime=Runtime(runtime),
        store_url=store_url.rstrip("/"),
        state_dir=Path(_demanded(environment, "HEADRACE_STATE", "the folder of state records")),
        python=Path(environment.get("HEADRACE_PYTHON") or sys.executable),
        stage_path=_package_folder(),
        warm_gates=Path(warm) if (warm := environment.get("HEADRACE_WARM_GATES")) else None,
        compute=_compute(environment),
        pods=read_pod_settings(environment) if runtime == Runtime.KUBERNETES else None,
        rollout_state=_rollout_state(environment),
        slot_host=environment.get("HEADRACE_SLOT_HOST") or None,
        rollout_account=environment.get("HEADRACE_ROLLOUT_ACCOUNT") or None,
    )


@cache
def the_deployment() -> Deployment:
    """Return the deployment of this process."""
    return read_deployment(os.environ)


def _demanded(environment: Mapping[str, str], name: str, expected: str) -> str:
    value = environment.get(name, "")
    if not value:
        message = (
            f"{name}: expected {expected}, found nothing; set it for every Airflow component "
            "(`headrace demo` does)"
        )
        raise BadRequestError(message)
    return value


def _rollout_state(environment: Mapping[str, str]) -> str | None:
    url = environment.get("HEADRACE_ROLLOUT_STATE") or None
    if url is not None and not _CONFIG_MAPS.fullmatch(url):
        message = (
            "HEADRACE_ROLLOUT_STATE: expected configmap://NAMESPACE, or nothing for files below "
            f"HEADRACE_STATE, found {url!r:.120}"
        )
        raise BadRequestError(message)
    return url


def _compute(environment: Mapping[str, str]) -> ComputeTable:
    file = environment.get("HEADRACE_COMPUTE", "")
    if not file:
        return DEFAULT_COMPUTE
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = (
            "HEADRACE_COMPUTE: expected a readable file with a compute_profiles/1, "
            f"found {error}; leave it unset for the tables of the code"
        )
        raise BadRequestError(message) from error
    return read_compute(text, f"HEADRACE_COMPUTE {file}")


def _package_folder() -> Path:
    import tasks  # noqa: PLC0415  only its place is wanted

    return Path(next(iter(tasks.__path__))).parent
