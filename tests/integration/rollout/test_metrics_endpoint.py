"""The keeper's process, scraped by a real Prometheus that has the alert rules loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.integration.rollout.conftest import Deployment, eventually
from tests.integration.rollout.test_router import ask_many
from tests.integration.rollout.test_router_grpc import client
from tests.ports import free_port

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "helm" / "headrace" / "monitoring" / "rollout_alerts.yaml"
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None,
    reason="prometheus is not installed (`make setup-prometheus` as root installs Debian's)",
)


@contextmanager
def running(deployment: Deployment, name: str, *command: str) -> Iterator[None]:
    with (deployment.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def keeper(deployment: Deployment) -> Iterator[str]:
    """Put the keeper's own process in the place of the thread; give its address."""
    deployment.keeper_stop.set()
    deployment.keeper_thread.join()
    port = free_port()
    command = (sys.executable, "-m", "tasks.cli", "keeper", "--state-dir")
    flags = (str(deployment.state_dir), "--metrics-port", str(port))
    with running(deployment, "keeper", *command, *flags):
        yield f"127.0.0.1:{port}"


def scraped(url: str) -> str:
    try:
        answer = httpx.get(url, trust_env=False, timeout=5)
    except httpx.TransportError:
        return ""
    return answer.text if answer.status_code == 200 else ""


def test_the_keepers_process_serves_its_metrics(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.begin(3, per_try_timeout_ms=20_000)
    with keeper(deployment) as address:
        ask_many(deployment, [f"user-{number}" for number in range(50)])
        share = 'headrace_candidate_share_ratio{model="shop"} 0.5'
        eventually(lambda: share in scraped(f"http://{address}/metrics"), seconds=40)
        text = scraped(f"http://{address}/metrics")
        assert 'headrace_slot_ready{model="shop",slot="green"} 1' in text
        assert "headrace_requests_total{" in text


@needs_prometheus
def test_a_real_prometheus_scrapes_the_keeper_and_fires_what_the_rules_say(
    deployment: Deployment,
) -> None:
    deployment.first_release()
    deployment.begin(3, per_try_timeout_ms=20_000)
    port = free_port()
    with keeper(deployment) as address, prometheus(deployment, address, port):
        asked = 'headrace_rollout_phase{phase="stepping"}'
        eventually(lambda: value(port, asked) == 1.0, seconds=60)
        assert alerts(port) == set()
        deployment.state.cut("second", 3, numbers={})
        eventually(lambda: alerts(port) >= {"HeadraceCandidateRefused"}, seconds=60)


@needs_prometheus
def test_a_real_prometheus_sees_that_users_of_stable_fail_by_grpc(deployment: Deployment) -> None:
    deployment.first_release()
    port = free_port()
    with (
        keeper(deployment) as address,
        prometheus(deployment, address, port),
        client(deployment) as shop,
    ):
        shop.ask("ann")
        asked = "sum(headrace_requests_total)"
        eventually(lambda: (value(port, asked) or 0) > 0, seconds=60)
        assert "HeadraceUsersFail" not in alerts(port, "pending", "firing")
        deployment.stable.mood.grpc_status = grpc.StatusCode.INTERNAL

        def told() -> bool:
            with pytest.raises(grpc.RpcError):
                shop.ask("ann")
            # It fires once it has been so for a minute.
            return "HeadraceUsersFail" in alerts(port, "pending", "firing")

        eventually(told, seconds=60)
        text = scraped(f"http://{address}/metrics")
    mine = 'headrace_failed_requests_total{model="shop",variant="stable",release="1"'
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(mine))
    assert found[f'{mine},by="code"}}'] == "0"
    assert int(found[f'{mine},by="grpc_status"}}']) > 0


@contextmanager
def prometheus(deployment: Deployment, address: str, port: int) -> Iterator[None]:
    every_second = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    job = {"job_name": "headrace-keeper", "static_configs": [{"targets": [address]}]}
    config = {"global": every_second, "scrape_configs": [job], "rule_files": [str(RULES)]}
    path = deployment.folder / "prometheus.json"
    path.write_text(json.dumps(config))
    flags = (
        f"--config.file={path}",
        f"--storage.tsdb.path={deployment.folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    with running(deployment, "prometheus", "prometheus", *flags):
        yield


def ask(port: int, path: str, **params: str) -> Any:
    try:
        url = f"http://127.0.0.1:{port}/api/v1/{path}"
        return httpx.get(url, params=params, trust_env=False, timeout=5).json().get("data")
    except (httpx.TransportError, ValueError):
        return None


def value(port: int, query: str) -> float | None:
    found = (ask(port, "query", query=query) or {}).get("result")
    return float(found[0]["value"][1]) if found else None


def alerts(port: int, *states: str) -> set[str]:
    found = (ask(port, "alerts") or {}).get("alerts", [])
    return {one["labels"]["alertname"] for one in found if one["state"] in (states or ("firing",))}
