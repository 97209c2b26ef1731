"""A kept world may be used again: KILLS_FOLDER is there for that."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.integration.kills.kill_world import KillWorld
from tests.integration.kills.mirror_world import with_mlflow


class Healthy(BaseHTTPRequestHandler):
    """Answers as an MLflow that is up: here nobody asks it for more."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class LightWorld(KillWorld):
    """A world whose MLflow takes no seconds to start."""

    def start(self, name: str, *words: str) -> Any:
        self.web = ThreadingHTTPServer(("127.0.0.1", int(words[-1])), Healthy)
        threading.Thread(target=self.web.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self, *_: Any) -> None:
        self.web.shutdown()
        self.web.server_close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[KillWorld]:
    made = LightWorld(folder=tmp_path)
    yield made
    made.stop()


def test_the_folder_of_mlflow_may_be_there_and_keeps_what_it_holds(world: KillWorld) -> None:
    database = world.folder / "mlflow" / "mlflow.db"
    database.parent.mkdir()
    database.write_text("of an earlier call")
    with_mlflow(world)
    assert database.read_text() == "of an earlier call"


def test_a_new_world_gets_its_folder(world: KillWorld) -> None:
    with_mlflow(world)
    assert (world.folder / "mlflow").is_dir()
    assert world.mlflow == f"http://127.0.0.1:{world.web.server_port}"
