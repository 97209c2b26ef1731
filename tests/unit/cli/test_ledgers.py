"""Commands find state records where HEADRACE_ROLLOUT_STATE says: in ConfigMaps as in files."""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.adapters.artifact_store import ArtifactStore
from tasks.adapters.object_store import ObjectStore
from tasks.cli import ledgers
from tasks.cli.console import Console
from tasks.cli.home import Home
from tasks.cli.ledgers import ledger_mentions, state_of
from tasks.cli.restore import run as restore
from tasks.cli.rollout_proof import state_and_ledger_problems
from tasks.contracts.errors import BadRequestError
from tasks.rollout.state import ModelState
from tests.fake_config_maps import FakeConfigMaps, serving
from tests.fake_kubernetes import kubeconfig

BUNDLE = "serving_bundle/" + "b" * 64


@pytest.fixture
def fake() -> FakeConfigMaps:
    return FakeConfigMaps()


@pytest.fixture(params=["files", "ConfigMaps"])
def home(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    fake: FakeConfigMaps,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Home]:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.delenv("HEADRACE_STORE", raising=False)
    monkeypatch.delenv("HEADRACE_ROLLOUT_STATE", raising=False)
    with serving(fake) as url:
        if request.param == "ConfigMaps":
            monkeypatch.setenv("HEADRACE_ROLLOUT_STATE", "configmap://prod")
            monkeypatch.setenv("HEADRACE_STORE", f"file://{tmp_path}/store")
            monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "kubeconfig", url)))
        yield Home.from_environment()


def opened(home: Home, model: str) -> ModelState:
    return ledgers.opened(home, model, ObjectStore(home.store_url))


def problems(home: Home) -> list[str]:
    store = ArtifactStore(ObjectStore(home.store_url), cache=home.root / "seen")
    state = state_of(home, "shop")
    return state_and_ledger_problems(store, state, state.history())


def test_a_record_is_found_and_proved_where_it_lies(home: Home, fake: FakeConfigMaps) -> None:
    with pytest.raises(BadRequestError, match="model shop: expected one that was released"):
        state_of(home, "shop")
    state = opened(home, "shop")
    state.reserve_slot("first", bundle=BUNDLE)
    state.promote("first")
    assert problems(home) == []
    addresses, releases, hotfixes = ledger_mentions(home)
    assert (sorted(map(str, addresses)), releases, hotfixes) == ([BUNDLE], {"first"}, set())
    in_files = (home.state / "shop/state.json").exists()
    assert in_files is not any(asked.startswith("POST") for asked in fake.asked)


def test_a_lost_record_is_named_and_restored_to_its_place(home: Home, fake: FakeConfigMaps) -> None:
    state = opened(home, "shop")
    state.reserve_slot("first", bundle=BUNDLE)
    state.promote("first")
    kept = state.peek()
    console = Console(out=io.StringIO())
    with pytest.raises(BadRequestError, match="expected no state record, found one"):
        restore(argparse.Namespace(model="shop", print=False), console)
    (home.state / "shop/state.json").unlink(missing_ok=True)
    fake.answer("DELETE", "/api/v1/namespaces/prod/configmaps/headrace-rollout-shop", None)
    store = ArtifactStore(ObjectStore(home.store_url), cache=home.root / "seen")
    (found,) = state_and_ledger_problems(store, opened(home, "shop"), [])
    assert found.endswith("expected the state record of shop, found none")
    assert restore(argparse.Namespace(model="shop", print=False), console) == 0
    assert (opened(home, "shop").peek().roles, problems(home)) == (kept.roles, [])


def test_records_of_a_cluster_have_a_store_that_somebody_named() -> None:
    """Else a forgotten variable would put the ledger's next entry into a folder of this machine."""
    named = {"HEADRACE_HOME": "/srv/home", "HEADRACE_ROLLOUT_STATE": "configmap://prod"}
    with pytest.raises(BadRequestError) as refused:
        Home.from_environment(named)
    assert str(refused.value) == (
        "HEADRACE_STORE: expected the store of the releases of configmap://prod "
        "(HEADRACE_ROLLOUT_STATE), found nothing; set it as the cluster's stages have it"
    )
    known = Home.from_environment({**named, "HEADRACE_STORE": "s3://bucket/prefix"})
    assert known.store_url == "s3://bucket/prefix"
    alone = Home.from_environment({"HEADRACE_HOME": "/srv/home"})
    assert alone.store_url == "file:///srv/home/store"
