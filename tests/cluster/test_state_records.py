"""State records on a real API server: the contract of every place, the watch, and a role's rights."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.adapters.config_map_records import ConfigMapRecords, config_map_name
from tasks.adapters.kube_api import KubeApi, server_at, the_api
from tasks.adapters.watched_records import WatchedRecords
from tasks.contracts.errors import BadRequestError
from tasks.rollout.state import ModelState, open_state
from tests.fake_kubernetes import eventually
from tests.record_contract import MODEL, RecordContract, ledger

NAME = config_map_name(MODEL)
KEEPER = ["get", "list", "watch", "update"]


@pytest.fixture(scope="session")
def api(cluster: None) -> KubeApi:
    return the_api(os.environ)


@pytest.fixture
def namespace(api: KubeApi) -> Iterator[str]:
    """A namespace of its own for each test: nothing is left over, and nothing waited for."""
    name = f"headrace-records-{uuid.uuid4().hex[:8]}"
    made(api, "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    api.call("DELETE", f"/api/v1/namespaces/{name}")


def made(api: KubeApi, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = api.call("POST", path, body)
    assert answer.status == 201, answer
    return dict(answer.body)


@pytest.fixture
def opened(api: KubeApi, namespace: str) -> Callable[..., ConfigMapRecords]:
    return lambda **more: ConfigMapRecords(api=api, namespace=namespace, **more)


@pytest.fixture
def records(opened: Callable[..., ConfigMapRecords]) -> ConfigMapRecords:
    return opened()


class TestOnTheApi(RecordContract):
    @pytest.fixture
    def a_state(
        self, tmp_path: Path, opened: Callable[..., ConfigMapRecords]
    ) -> Callable[[], ModelState]:
        return lambda: open_state(tmp_path, MODEL, ledger(tmp_path), records=opened())


def test_a_record_too_large_for_a_config_map_is_refused_with_the_apis_words(
    records: ConfigMapRecords,
) -> None:
    records.update(MODEL, lambda _text: "a")
    with pytest.raises(BadRequestError, match="refused with 4"):
        records.update(MODEL, lambda _text: "b" * 1024 * 1024 + "c")
    assert records.read(MODEL) == b"a"


def test_a_config_map_made_anew_is_not_taken_for_the_one_that_was_read(
    api: KubeApi, namespace: str, records: ConfigMapRecords
) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    records.update(MODEL, lambda _text: "a")
    seen = []

    def change(text: bytes | None) -> str:
        seen.append(text)
        if len(seen) == 1:
            assert api.call("DELETE", f"{path}/{NAME}").status == 200
            made(api, path, {"metadata": {"name": NAME}, "data": {"state.json": "of another"}})
        return "b"

    records.update(MODEL, change)
    assert seen == [b"a", b"of another"]


def test_two_watches_follow_changes_within_two_seconds_and_through_a_new_watch(
    opened: Callable[..., ConfigMapRecords],
) -> None:
    limited = opened(names=(MODEL,)).impatient()
    both = [WatchedRecords(records=limited, watch_seconds=1.0) for _ in range(2)]
    for one in both:
        one.start()
        eventually(lambda one=one: one.unseen() == [])
    for number in range(20):
        opened().update(MODEL, lambda _text, new=number: f"text {new}")
        for one in both:
            eventually(lambda one=one, new=number: one.read(MODEL) == f"text {new}".encode(), 2.0)
    for one in both:
        one.close()


# Rights


@pytest.fixture
def as_role(api: KubeApi, namespace: str) -> Callable[[list[str]], ConfigMapRecords]:
    """Records as a service account sees them that may do some verbs on the model's ConfigMap."""
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"

    def of(verbs: list[str]) -> ConfigMapRecords:
        name = f"role-{uuid.uuid4().hex[:6]}"
        accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        made(api, accounts, {"metadata": {"name": name}})
        rule = {
            "apiGroups": [""], "resources": ["configmaps"], "resourceNames": [NAME], "verbs": verbs,
        }  # fmt: skip
        made(api, f"{rbac}/roles", {"metadata": {"name": name}, "rules": [rule]})
        group = "rbac.authorization.k8s.io"
        made(
            api,
            f"{rbac}/rolebindings",
            {
                "metadata": {"name": name},
                "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
            },
        )
        token = made(
            api,
            f"{accounts}/{name}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
        )["status"]["token"]
        asked = with_token(api, token)
        return ConfigMapRecords(api=asked, namespace=namespace, names=(MODEL,))

    return of


def with_token(api: KubeApi, token: str) -> KubeApi:
    """Return the same API, asked by whom the token names instead of the kubeconfig's user."""
    server = server_at(api.server.host, token)
    server.ssl_ca_cert = api.server.ssl_ca_cert
    return KubeApi(server)


def test_a_keepers_role_by_name_is_enough_to_watch_and_to_change(
    records: ConfigMapRecords, as_role: Callable[[list[str]], ConfigMapRecords]
) -> None:
    records.update(MODEL, lambda _text: "a")
    keeper = as_role(KEEPER)
    eventually(lambda: readable(keeper))  # a role takes effect a moment after it was made
    watched = WatchedRecords(records=keeper.impatient())
    watched.start()
    eventually(lambda: watched.read(MODEL) == b"a")
    watched.update(MODEL, lambda _text: "b")
    assert records.read(MODEL) == b"b"
    records.update(MODEL, lambda _text: "c")
    eventually(lambda: watched.read(MODEL) == b"c", 2.0)
    watched.close()


def test_no_role_by_name_reaches_another_models_record_or_makes_one(
    records: ConfigMapRecords, as_role: Callable[[list[str]], ConfigMapRecords]
) -> None:
    records.update(MODEL, lambda _text: "a")
    records.update("other", lambda _text: "secret")
    stage = as_role(["get", "update"])
    eventually(lambda: readable(stage))
    stage.update(MODEL, lambda _text: "b")
    with pytest.raises(BadRequestError, match="get headrace-rollout-other .* 403"):
        stage.read("other")
    with pytest.raises(BadRequestError, match="list ConfigMaps .* refused with 403"):
        replace(stage, names=()).models()
    reader = as_role(["get"])
    eventually(lambda: readable(reader))
    with pytest.raises(BadRequestError, match="update headrace-rollout-shop .* 403"):
        reader.update(MODEL, lambda _text: "c")
    assert records.read(MODEL) == b"b"


def readable(records: ConfigMapRecords) -> bool:
    try:
        return records.read(MODEL) is not None
    except BadRequestError:
        return False
