"""What Kubernetes is told of a keeper, and how long one stays beside an Envoy that drains."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from pathlib import Path

from tasks.rollout.envoy import RouterFiles, write_bootstrap
from tasks.rollout.keeper_health import KeeperHealth, envoy_runs, lingering
from tasks.rollout.metrics_server import HEALTHY, READY, serving_metrics
from tests.ports import free_port
from tests.unit.rollout.test_keeper import Clock


def files_of(folder: Path, admin_port: int) -> RouterFiles:
    files = RouterFiles(folder=folder)
    write_bootstrap(files, port=free_port(), admin_port=admin_port, host="127.0.0.1")
    return files


def test_a_keeper_is_ready_when_all_models_were_seen_and_envoy_is_live(tmp_path: Path) -> None:
    unseen = ["shop"]
    files = files_of(tmp_path, free_port())
    health = KeeperHealth(files=files, unseen=lambda: unseen)
    assert health.trouble(HEALTHY) is None
    assert health.trouble(READY) == "the keeper has not turned yet"
    health.turned()
    assert "not seen yet: ['shop']" in str(health.trouble(READY))
    unseen.clear()
    health.turned(["shop"])
    assert "records that can be read, found others of: ['shop']" in str(health.trouble(READY))
    assert health.trouble(HEALTHY) is None
    health.turned()
    assert health.trouble(READY) == "Envoy does not answer /ready"


def test_a_keeper_that_stands_still_is_not_healthy(tmp_path: Path) -> None:
    clock = Clock()
    health = KeeperHealth(files=files_of(tmp_path, free_port()), monotonic=clock)
    health.turned()
    clock.now += 30
    assert health.trouble(HEALTHY) is None
    clock.now += 1
    assert health.trouble(HEALTHY) == "the keeper has not turned for 31 s"


def test_kubernetes_is_answered_by_status_and_sentence(tmp_path: Path) -> None:
    said = {READY: "no routes are written yet", HEALTHY: None}
    with serving_metrics(tmp_path / "none", "127.0.0.1", 0, said.get) as port:
        assert asked(port, READY) == (503, "no routes are written yet\n")
        assert asked(port, HEALTHY) == (200, "ok\n")
        assert asked(port, "/other")[0] == 404


def asked(port: int | None, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port or 0, timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def test_a_keeper_told_to_end_stays_until_envoy_has_ended(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        files = files_of(tmp_path, listener.getsockname()[1])
        assert envoy_runs(files)
        told = threading.Event()
        stop = lingering(told, files, 30.0)
        told.set()
        assert not stop.wait(1.0)
    assert stop.wait(5.0)


def test_a_keeper_does_not_wait_for_an_envoy_that_never_ends(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        told = threading.Event()
        stop = lingering(told, files_of(tmp_path, listener.getsockname()[1]), 0.5)
        began = time.monotonic()
        told.set()
        assert stop.wait(5.0)
        assert time.monotonic() - began >= 0.5
