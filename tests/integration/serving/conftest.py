"""SavedModels written once per test session, and servers that end with the test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.serving.running_server import RunningServer


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that write_models.py fills."""
    folder = tmp_path_factory.mktemp("models")
    script = Path(__file__).with_name("write_models.py")
    subprocess.run([sys.executable, str(script), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Start servers; all are stopped at the end of the test."""
    servers: list[RunningServer] = []

    def start(*flags: str, ready: bool = True) -> RunningServer:
        log = tmp_path / f"server-{len(servers)}.log"
        server = RunningServer(flags=flags, log=log).start()
        servers.append(server)
        if ready:
            server.wait_ready()
        return server

    yield start
    for server in servers:
        server.stop()
