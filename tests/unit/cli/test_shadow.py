"""`headrace shadow`: where it listens, what it says of itself, whose records it reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.adapters.config_map_records import ConfigMapRecords
from tasks.adapters.kube_api import KubeApi, server_at
from tasks.adapters.watched_records import watched_records
from tasks.cli import shadow
from tasks.contracts.errors import BadRequestError
from tasks.contracts.record_store import RecordStore
from tasks.rollout.comparison import ShadowReport
from tasks.rollout.envoy import router_files
from tasks.rollout.shadow_routes import ShadowAddress, read_shadow
from tasks.rollout.state import open_state
from tests.fake_config_maps import FakeConfigMaps, serving
from tests.fake_kubernetes import kubeconfig
from tests.ports import free_port

WORDS = ["--state-dir", "/nowhere", "--port", "1", "--grpc-port", "2"]
RANKED = b'{"outputs": {"items": [["bag", "coat"]], "scores": [[1.0, 0.5]]}}'


def test_it_binds_loopback_unless_told_otherwise() -> None:
    assert shadow.parser_of_shadow().parse_args(WORDS).host == "127.0.0.1"
    told = shadow.parser_of_shadow().parse_args([*WORDS, "--host", "0.0.0.0"])
    assert told.host == shadow.EVERY_ADDRESS


@contextmanager
def listening(folder: Path, host: str, **others: Any) -> Iterator[int]:
    """Run a comparator in a thread; gives its port for REST."""
    stop, port, grpc_port = threading.Event(), free_port(), free_port()
    words = {"host": host, "port": port, "grpc_port": grpc_port, **others}
    thread = threading.Thread(target=shadow.run, args=(folder, stop), kwargs=words)
    thread.start()
    try:
        eventually(lambda: _answers(port))
        yield port
    finally:
        stop.set()
        thread.join()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).status_code == 202
    except httpx.TransportError:
        return False


def eventually(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_at_an_address_of_its_own_it_says_where_it_listens(tmp_path: Path) -> None:
    file = router_files(tmp_path).shadow
    with listening(tmp_path, "127.0.0.1", percent=2.5) as port:
        eventually(file.exists)
        found = read_shadow(file)
    assert isinstance(found, ShadowAddress)
    assert (found.host, found.port, found.percent) == ("127.0.0.1", port, 2.5)


def test_at_every_address_it_cannot_know_how_it_is_reached_and_says_nothing(tmp_path: Path) -> None:
    with listening(tmp_path, shadow.EVERY_ADDRESS) as port:
        httpx.post(f"http://127.0.0.1:{port}/v1/models/shop:predict", trust_env=False)
        time.sleep(0.3)  # a turn
    assert list(tmp_path.iterdir()) == []


@contextmanager
def slot_that_ranks() -> Iterator[int]:
    """Give every question one answer; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", str(len(RANKED)))
            self.end_headers()
            self.wfile.write(RANKED)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_it_compares_by_the_records_of_a_cluster(
    tmp_path: Path,
) -> None:
    fake = FakeConfigMaps()
    with serving(fake) as url, slot_that_ranks() as slot:
        records = ConfigMapRecords(api=KubeApi(server_at(url)), namespace="prod")
        state = open_state(tmp_path, "shop", records=records)
        state.reserve_slot("first")
        state.promote("first")
        state.reserve_slot("second")
        _one_slot_for_all(tmp_path, slot)
        environment = {
            "KUBECONFIG": str(kubeconfig(tmp_path / "kubeconfig", url)),
            "HEADRACE_ROLLOUT_STATE": "configmap://prod",
            "HEADRACE_MODELS": "shop",
        }
        watched = watched_records(environment, who="shadow", say=print)
        assert watched is not None
        watched.start()
        eventually(lambda: watched.unseen() == [])
        writes = len([one for one in fake.asked if not one.startswith("GET")])
        compare_one(tmp_path, watched)
        watched.close()
        assert len([one for one in fake.asked if not one.startswith("GET")]) == writes
    path = tmp_path / "shop/traffic/r2/shadow.json"
    found = ShadowReport.parse(path.read_bytes(), str(path))
    assert (found.candidate, found.stable, found.compared, found.equal) == (2, 1, 1, 1)


def _one_slot_for_all(folder: Path, port: int) -> None:
    (folder / "shop").mkdir(exist_ok=True)
    slots = ", ".join(
        f'"{colour}": {{"grpc": 1, "rest": {port}}}' for colour in ("blue", "green", "violet")
    )
    text = f'{{"format": "slots/1", "model": "shop", "slots": {{{slots}}}}}'
    (folder / "shop/slots.json").write_text(text)


def compare_one(folder: Path, records: RecordStore) -> None:
    with listening(folder, "127.0.0.1", records=records) as port:
        url = f"http://127.0.0.1:{port}/v1/models/shop:predict"
        assert httpx.post(url, content=b"{}", trust_env=False).status_code == 202
        eventually((folder / "shop/traffic/r2/shadow.json").exists)


CLUSTER = {"HEADRACE_ROLLOUT_STATE": "configmap://prod", "HEADRACE_MODELS": "shop"}


@pytest.mark.parametrize(
    ("environment", "words", "sentence"),
    (
        pytest.param(
            {"HEADRACE_MODELS": ""},
            WORDS,
            "HEADRACE_MODELS: expected the models of this shadow with commas, found none",
            id="no model",
        ),
        pytest.param(
            {"HEADRACE_SLOT_HOST": "headrace-{model}.svc"},
            WORDS,
            "HEADRACE_SLOT_HOST: expected a host name with {model} and {colour}",
            id="one host for three slots",
        ),
        pytest.param(
            {"HEADRACE_ROLLOUT_STATE": ""},
            [*WORDS, "--host", "192.0.2.1"],
            "shadow: expected to listen on 192.0.2.1:1, found",
            id="an address of another machine",
        ),
    ),
)
def test_what_cannot_work_is_said_at_the_start(
    environment: dict[str, str],
    words: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "config", "http://127.0.0.1:1")))
    for name, value in {**CLUSTER, **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadRequestError) as told:
        shadow.main(words)
    assert sentence in str(told.value)
