"""Router and comparator as their pods start them: records in ConfigMaps, the comparator found by a name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.rollout.comparison import ShadowReport
from tasks.rollout.shadow_routes import ShadowAddress
from tasks.rollout.state import ModelState
from tests.fake_config_maps import FakeConfigMaps
from tests.integration.rollout.conftest import eventually
from tests.integration.rollout.records_of_a_cluster import cluster_records
from tests.integration.rollout.test_two_routers import SHORT, Router
from tests.ports import free_port

pytestmark = pytest.mark.integration


@dataclass
class Cluster:
    folder: Path
    fake: FakeConfigMaps
    state: ModelState
    router: Router

    def compared(self) -> int:
        """Return how many rankings the report of the second release counts."""
        path = self.folder / "state/shop/traffic/r2/shadow.json"
        if not path.exists():
            return 0
        return ShadowReport.parse(path.read_bytes(), str(path)).compared

    def ask_until_compared(self, count: int) -> None:
        def asked_and_compared() -> bool:
            answers = [self.router.ask(f"user-{number}") for number in range(20)]
            assert [answer.status_code for answer in answers] == [200] * 20
            return self.compared() >= count

        eventually(asked_and_compared, 60)


@contextmanager
def comparing(folder: Path, environment: dict[str, str], ports: tuple[int, int]) -> Iterator[None]:
    words = ("--state-dir", str(folder / "state"), "--host", "0.0.0.0")
    words += ("--port", str(ports[0]), "--grpc-port", str(ports[1]))
    with (folder / "shadow.log").open("wb") as log:
        command = [sys.executable, "-m", "tasks.cli", "shadow", *words]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(30) == 0, (folder / "shadow.log").read_text()[-2000:]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    ports = free_port(), free_port()
    told = tmp_path / "told.json"
    address = ShadowAddress(host="localhost", port=ports[0], grpc=ports[1], percent=100.0)
    told.write_text(address.to_text())
    with ExitStack() as stack:
        kept = cluster_records(tmp_path, stack)
        router = Router(tmp_path, "one", kept.environment, "--shadow", str(told))
        stack.callback(router.close)
        stack.enter_context(comparing(tmp_path, kept.environment, ports))
        eventually(router.ready, 60)
        yield Cluster(folder=tmp_path, fake=kept.fake, state=kept.state, router=router)


def test_requests_of_a_step_are_compared_by_records_in_config_maps_also_while_the_api_is_away(
    cluster: Cluster,
) -> None:
    cluster.state.reserve_slot("second")
    cluster.state.begin_step("second", 1, SHORT, per_try_timeout_ms=20_000)
    cluster.state.renew("second", 600)
    cluster.ask_until_compared(10)
    cluster.fake.fault = lambda _method, _path: 503
    cluster.ask_until_compared(cluster.compared() + 20)  # by the last record
    cluster.fake.fault = lambda _method, _path: None
    # It is reached by what the keeper was told: of itself it knows no address to write down.
    assert not (cluster.folder / "state/router/shadow.json").exists()
    assert not (cluster.folder / "state/shop/state.json").exists()
