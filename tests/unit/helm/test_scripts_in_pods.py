"""The shell and Python that stand in manifests, run as they are rendered."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.unit.helm.rendered import EVERYTHING, SMALLEST, named, objects, pods

NO_RELEASE = '{"error": "model recommender has no release that serves"}\n'


@contextmanager
def answering(status: int, text: str) -> Iterator[int]:
    """Serve one answer on a loopback port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()


def readiness(folder: Path, port: int) -> int:
    slot = named(objects(SMALLEST), "Deployment", "headrace-recommender-blue")["spec"]["template"]
    probe = slot["spec"]["containers"][0]["readinessProbe"]["exec"]["command"]
    *script, rendered_folder, model, rendered_port = probe
    assert (rendered_folder, model, rendered_port) == (
        "/srv/headrace/state/recommender/slots/blue",
        "recommender",
        "8501",
    )
    command = [*script, str(folder), model, str(port)]
    return subprocess.run(command, capture_output=True, check=False, timeout=20).returncode


AVAILABLE = '{"model_version_status": [{"version": "1", "state": "AVAILABLE"}]}'
LOADING = '{"model_version_status": [{"version": "1", "state": "LOADING"}]}'


def test_a_slot_without_a_folder_or_a_version_is_ready(tmp_path: Path) -> None:
    assert readiness(tmp_path / "absent", 1) == 0
    (tmp_path / "3.tmp").mkdir()
    assert readiness(tmp_path, 1) == 0


@pytest.mark.parametrize(
    ("status", "text", "code"),
    (
        pytest.param(200, AVAILABLE, 0, id="served"),
        pytest.param(200, LOADING, 1, id="loading"),
        pytest.param(404, '{"error": "no versions"}', 1, id="not known"),
    ),
)
def test_a_slot_with_a_version_is_ready_once_it_is_served(
    tmp_path: Path, status: int, text: str, code: int
) -> None:
    (tmp_path / "12").mkdir()
    with answering(status, text) as port:
        assert readiness(tmp_path, port) == code


def test_a_slot_with_a_version_that_does_not_listen_is_not_ready(tmp_path: Path) -> None:
    (tmp_path / "12").mkdir()
    with answering(200, AVAILABLE) as port:
        pass
    assert readiness(tmp_path, port) != 0


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The container `keeper` with a program that writes down its pid and its arguments."""
    program = tmp_path / "headrace"
    program.write_text(
        "#!/usr/bin/env bash\n"
        f"trap 'echo bye >> {tmp_path}/ends; exit 0' TERM\n"
        f'echo "$$ $*" >> {tmp_path}/starts\n'
        "while :; do sleep 0.05; done\n"
    )
    program.chmod(0o755)
    pod = named(objects(SMALLEST), "Deployment", "headrace-router")["spec"]["template"]["spec"]
    container = next(one for one in pod["containers"] if one["name"] == "keeper")
    command = [*container["command"], *container["args"]]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        yield process, tmp_path / "starts"
        process.kill()
    for line in (tmp_path / "starts").read_text().splitlines():
        try:
            os.kill(int(line.split()[0]), signal.SIGKILL)
        except ProcessLookupError:
            pass


def starts(file: Path, count: int) -> list[str]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        lines = file.read_text().splitlines() if file.exists() else []
        if len(lines) >= count:
            return lines
        time.sleep(0.05)
    pytest.fail(f"expected {count} starts of the keeper, found {lines}")


def test_a_keeper_that_is_killed_starts_again_in_its_container(
    keeper: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, file = keeper
    (first,) = starts(file, 1)
    assert "keeper --state-dir=/srv/headrace/state --router-dir=/run/headrace" in first
    os.kill(int(first.split()[0]), signal.SIGKILL)
    second = starts(file, 2)[1]
    assert second.split()[1:] == first.split()[1:]
    assert process.poll() is None


def test_a_keepers_container_ends_with_its_keeper_when_it_is_asked_to(
    keeper: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, file = keeper
    starts(file, 1)
    process.terminate()
    assert process.wait(timeout=20) == 0
    assert (file.parent / "ends").read_text() == "bye\n"
    assert len(starts(file, 1)) == 1


def ask_router(case: str, port: int) -> subprocess.CompletedProcess[str]:
    """Run the pod of `helm test`, at a port of this machine."""
    (container,) = dict(pods(objects(case)))["Pod/headrace-test-router"]["spec"]["containers"]
    script, host, _, *models = container["args"]
    assert host == "headrace-router.shop.svc.cluster.local"
    command = [sys.executable, "-c", script, "127.0.0.1", str(port), *models]
    return subprocess.run(command, capture_output=True, check=False, text=True, timeout=30)


def test_helm_test_passes_where_models_serve() -> None:
    with answering(200, AVAILABLE) as port:
        told = ask_router(EVERYTHING, port)
    assert told.returncode == 0, told
    assert told.stdout.splitlines() == [
        f"recommender: serves: 200 {AVAILABLE}",
        f"search: serves: 200 {AVAILABLE}",
    ]


@pytest.mark.parametrize(
    ("status", "text", "code"),
    (
        pytest.param(503, NO_RELEASE, 0, id="before the first release"),
        pytest.param(503, "no healthy upstream", 1, id="its slot is away"),
        pytest.param(
            404, '{"error": "expected x-model of []"}', 1, id="the router does not know it"
        ),
        pytest.param(200, LOADING, 1, id="nothing is loaded"),
    ),
)
def test_helm_test_tells_no_release_yet_from_broken(status: int, text: str, code: int) -> None:
    with answering(status, text) as port:
        told = ask_router(SMALLEST, port)
    assert told.returncode == code, told
    assert text.strip() in told.stdout
