from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from airflow.api_fastapi.core_api.security import get_user
from fastapi.testclient import TestClient
from headrace_airflow.report_pages import pages, the_store

from tasks.contracts.stages import Stage


@pytest.fixture
def client(sealer: Any) -> Iterator[TestClient]:
    pages.dependency_overrides[the_store] = lambda: sealer.store
    pages.dependency_overrides[get_user] = lambda: "somebody"
    yield TestClient(pages)
    pages.dependency_overrides.clear()


def test_a_gate_report_is_shown_and_its_scripts_never_run(client: TestClient, sealer: Any) -> None:
    report = sealer.seal(Stage.GATE_ARTIFACT, {"report.html": "<h1>refused</h1>"})
    answer = client.get(f"/reports/{report.address}/report.html")
    assert (answer.status_code, answer.text) == (200, "<h1>refused</h1>")
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert "allow-scripts" not in answer.headers["Content-Security-Policy"]


def test_a_manifest_is_shown(client: TestClient, sealer: Any) -> None:
    made = sealer.seal(Stage.TRAIN_MODEL, {"model.json": "{}"})
    answer = client.get(f"/artifacts/{made.address}/manifest.json")
    assert answer.json()["key"] == made.key


@pytest.mark.parametrize(
    ("path", "status"),
    (
        pytest.param(f"/reports/gate_report/{'a' * 64}/report.html", 404, id="no such report"),
        pytest.param("/reports/gate_report/..%2F..%2Fetc/report.html", 404, id="an encoded climb"),
        pytest.param(f"/reports/gate_report/{'A' * 64}/report.html", 422, id="no key"),
        pytest.param(f"/reports/trained_model/{'a' * 64}/report.html", 404, id="no gate report"),
        pytest.param(f"/artifacts/state/{'a' * 64}/manifest.json", 422, id="no kind"),
    ),
)
def test_nothing_else_is_served(client: TestClient, path: str, status: int) -> None:
    assert client.get(path).status_code == status


def test_a_page_needs_a_login(sealer: Any) -> None:
    report = sealer.seal(Stage.GATE_ARTIFACT, {"report.html": "<h1>refused</h1>"})
    path = f"/reports/{report.address}/report.html"
    assert TestClient(pages).get(path).status_code == 401
