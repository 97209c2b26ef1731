"""A model's state record as Airflow reads it: a file of the state folder, or a ConfigMap's text."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace_airflow.deployment import Deployment
from tasks.contracts.bake import STATE_FILE, RolloutNow, rollout_now_of, state_path

if TYPE_CHECKING:
    from headrace_airflow.pod_api import SharedConnection

CONFIG_MAP = "configmap://"
_NAME = "headrace-rollout-{model}"


def record_place(deployment: Deployment, model: str) -> str:
    """Return where a model's record lies, as a trigger keeps it: a path, or configmap://NS/NAME."""
    if deployment.rollout_state is None:
        return str(state_path(deployment.state_dir, model))
    return f"{deployment.rollout_state.rstrip('/')}/{_NAME.format(model=model)}"


async def read_now(place: str) -> RolloutNow | None:
    """Return what a bake needs to know; None where the record cannot be read just now."""
    text = await record_text(place)
    return None if text is None else rollout_now_of(text, place)


async def record_text(place: str) -> bytes | None:
    """Return the record; None where it cannot be read just now."""
    if place.startswith(CONFIG_MAP):
        return await asyncio.to_thread(_of_config_map, place)
    return text_now(place)  # one small local file


def text_now(place: str) -> bytes | None:
    """Return the record, outside a trigger; None where it cannot be read just now."""
    if place.startswith(CONFIG_MAP):
        return _of_config_map(place)
    try:
        return Path(place).read_bytes()
    except OSError:
        return None


def _of_config_map(place: str) -> bytes | None:
    # The local runtime does without the provider, which takes seconds to load.
    from headrace_airflow.pod_api import QUICK  # noqa: PLC0415

    namespace, _, name = place.removeprefix(CONFIG_MAP).partition("/")
    core: Any = None
    try:
        core = _shared().connected()
        found = core.read_namespaced_config_map(name, namespace, _request_timeout=QUICK)
    except Exception:  # noqa: BLE001  the API away, a right that is missing: the lease decides
        _shared().forget(core)  # a token may have been replaced
        return None
    text = (found.data or {}).get(STATE_FILE)
    return None if text is None else str(text).encode()


@cache
def _shared() -> SharedConnection:
    from headrace_airflow.pod_api import SharedConnection  # noqa: PLC0415

    return SharedConnection()
