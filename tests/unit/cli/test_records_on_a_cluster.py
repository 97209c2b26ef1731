"""What the commands say of a model whose record lies in a ConfigMap."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.adapters.config_map_records import ConfigMapRecords, config_map_name
from tasks.adapters.kube_api import KubeApi, server_at
from tasks.adapters.object_store import ObjectStore
from tasks.cli.command import main
from tasks.cli.home import Home
from tasks.cli.ledgers import ledger_mentions, records_of
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.requests import PLANS
from tasks.rollout.record import Colour
from tasks.rollout.state import ModelState, open_state
from tests.fake_config_maps import FakeConfigMaps, serving
from tests.fake_kubernetes import kubeconfig


@pytest.fixture
def fake() -> FakeConfigMaps:
    return FakeConfigMaps()


@pytest.fixture
def state(
    fake: FakeConfigMaps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModelState]:
    store = f"file://{tmp_path}/store"
    with serving(fake) as url:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "kubeconfig", url)))
        monkeypatch.setenv("HEADRACE_ROLLOUT_STATE", "configmap://prod")
        monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HEADRACE_STORE", store)
        records = ConfigMapRecords(api=KubeApi(server_at(url)), namespace="prod")
        yield open_state(tmp_path / "home/state", "shop", ObjectStore(store), records=records)


def test_history_reads_the_record_in_the_config_map(
    state: ModelState, capsys: pytest.CaptureFixture[str]
) -> None:
    state.reserve_slot("first")
    state.promote("first")
    assert main(["history", "--model", "shop"]) == ExitCode.DONE
    said = capsys.readouterr().out
    assert "promoted" in said
    assert "now: release 1 (first) served" in said


def test_status_without_a_stack_says_what_the_records_of_the_cluster_say(
    state: ModelState, capsys: pytest.CaptureFixture[str]
) -> None:
    state.reserve_slot("first")
    state.promote("first")
    assert main(["status"]) == ExitCode.DONE
    said = capsys.readouterr().out
    assert said.startswith("all well by the records in configmap://prod; nothing else was asked\n")
    assert "1 first" in said
    state.reserve_slot("second")
    state.begin_step("second", 1, PLANS["replay"], per_try_timeout_ms=50)
    state.look({Colour.BLUE})
    assert main(["status"]) == ExitCode.CRASHED
    said = capsys.readouterr().out
    assert said.startswith("shop: release second is halted: stable is broken")
    assert "also: shop: slot blue (release 1) does not answer the keeper" in said
    assert "headrace up" not in said


def test_status_of_a_namespace_without_records_is_not_well(
    state: ModelState, capsys: pytest.CaptureFixture[str]
) -> None:
    assert state.text() is None
    assert main(["status"]) == ExitCode.CRASHED
    said = capsys.readouterr().out
    assert said.startswith("configmap://prod: expected state records of models, found none")


def test_a_model_without_a_config_map_is_refused_with_the_known_ones(
    state: ModelState, capsys: pytest.CaptureFixture[str]
) -> None:
    state.reserve_slot("first")
    assert main(["history", "--model", "search"]) == ExitCode.BAD_REQUEST
    assert "known: shop" in capsys.readouterr().err


def test_a_record_that_is_lost_is_restored_into_its_config_map(
    state: ModelState, fake: FakeConfigMaps
) -> None:
    state.reserve_slot("first")
    state.promote("first")
    lost = state.peek()
    fake.maps.clear()
    assert state.text() is None
    assert main(["restore", "--model", "shop"]) == ExitCode.DONE
    assert list(fake.maps) == [config_map_name("shop")]
    assert state.peek().stable == lost.stable
    assert state.verify() == []


def test_nothing_that_a_record_of_the_cluster_names_is_collected(state: ModelState) -> None:
    bundle = "serving_bundle/" + "a" * 64
    state.reserve_slot("first", bundle=bundle, events="validated_events/" + "b" * 64)
    home = Home.from_environment()
    assert records_of(home).models() == ["shop"]
    addresses, release_ids, _ = ledger_mentions(home)
    assert bundle in {str(one) for one in addresses}
    assert "first" in release_ids
