"""Where a rollout's record lies is said once, and pods and triggers find it there."""

from __future__ import annotations

import ast
import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from headrace_airflow import rollout_record
from headrace_airflow.deployment import Deployment, read_deployment
from headrace_airflow.pod_stage_operator import rollout_identity
from headrace_airflow.rollout_record import read_now, record_place

from tasks.adapters.config_map_records import KEY, ConfigMapRecords, config_map_name
from tasks.adapters.kube_api import KubeApi, server_at
from tasks.contracts.errors import BadRequestError
from tasks.contracts.stages import ROLLOUT_STAGES, Stage
from tasks.rollout.state import open_state
from tests.fake_config_maps import FakeConfigMaps, serving
from tests.fake_kubernetes import kubeconfig

ROOT = Path(__file__).resolve().parents[3]
GOOD = {
    "HEADRACE_RUNTIME": "local",
    "HEADRACE_STORE": "file:///srv/store",
    "HEADRACE_STATE": "/srv/state",
}


@pytest.fixture
def on_cluster() -> Deployment:
    return read_deployment(GOOD | {"HEADRACE_ROLLOUT_STATE": "configmap://prod"})


def test_a_record_lies_in_the_state_folder_or_in_the_models_config_map(
    on_cluster: Deployment,
) -> None:
    assert record_place(read_deployment(GOOD), "shop") == "/srv/state/shop/state.json"
    assert record_place(on_cluster, "shop") == f"configmap://prod/{config_map_name('shop')}"
    assert rollout_record.STATE_FILE == KEY


@pytest.mark.parametrize("url", ("configmap://", "configmap://a/b", "file:///srv"))
def test_a_place_of_records_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(BadRequestError, match="expected configmap://NAMESPACE"):
        read_deployment(GOOD | {"HEADRACE_ROLLOUT_STATE": url})


def test_a_trigger_reads_what_a_stage_wrote_and_nothing_where_the_api_is_away(
    tmp_path: Path, on_cluster: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, place = FakeConfigMaps(), record_place(on_cluster, "shop")
    rollout_record._shared.cache_clear()
    with serving(fake) as url:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "kubeconfig", url)))
        records = ConfigMapRecords(api=KubeApi(server_at(url)), namespace="prod")
        assert asyncio.run(read_now(place)) is None
        open_state(tmp_path, "shop", records=records).reserve_slot("first")
        now = asyncio.run(read_now(place))
        assert now is not None
        assert (now.release_id, now.phase, now.last_kind) == ("first", "staged", "slot_reserved")
        fake.fault = lambda _method, _path: 503
        assert asyncio.run(read_now(place)) is None
    rollout_record._shared.cache_clear()


def test_only_stages_of_a_rollout_speak_to_the_api(on_cluster: Deployment) -> None:
    named = replace(on_cluster, rollout_account="rollout")
    nobody = {"automount_service_account_token": False}
    somebody = {"automount_service_account_token": True, "service_account_name": "rollout"}
    for stage in Stage:
        expected: dict[str, Any] = somebody if stage in ROLLOUT_STAGES else nobody
        assert rollout_identity(stage, named) == expected
        assert rollout_identity(stage, read_deployment(GOOD)) == nobody


def test_the_stages_of_a_rollout_are_those_that_open_the_state() -> None:
    """Otherwise a stage would look for its record in the state folder, and find another truth."""
    opening = set()
    for stage in Stage:
        tree = ast.parse((ROOT / "tasks" / "stages" / f"{stage.value}.py").read_text())
        calls = [
            call
            for call in ast.walk(tree)
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "open_state"
        ]
        if calls:
            opening.add(stage)
        for call in calls:
            assert "records" in {word.arg for word in call.keywords}, stage
    assert opening == ROLLOUT_STAGES
