"""Two routers, each a keeper and an Envoy as its pod starts them, over records in ConfigMaps.

The API is the fake of the records' contract; tests/cluster runs that contract on a real one.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from tasks.adapters.config_map_records import ConfigMapRecords
from tasks.contracts.requests import PLANS
from tasks.rollout.envoy import router_files
from tasks.rollout.exposure_files import read_exposures
from tasks.rollout.exposures import rollout_folder
from tasks.rollout.phases import Phase
from tasks.rollout.state import ModelState, open_state
from tests.fake_config_maps import FakeConfigMaps, serving
from tests.fake_kubernetes import kubeconfig
from tests.integration.rollout.conftest import eventually
from tests.integration.rollout.records_of_a_cluster import cluster_records
from tests.ports import free_port

pytestmark = pytest.mark.integration
AGREE_SECONDS = 2.0
DRAIN_SECONDS = 2.0
SHORT = replace(PLANS["replay"], lease_seconds=5.0)


class Router:
    """One router's two processes, with a folder of their own."""

    def __init__(
        self, folder: Path, name: str, environment: dict[str, str], *keeper_words: str
    ) -> None:
        self.folder, self.name, self.keeper_words = folder, name, keeper_words
        self.dir = folder / name
        self.environment = environment | {"HEADRACE_POD_NAME": name}
        self.port, self.admin, self.metrics = free_port(), free_port(), free_port()
        self.client = httpx.Client(trust_env=False, timeout=10)
        self.envoy = self._start(
            "envoy",
            *("--router-dir", str(self.dir), "--port", str(self.port)),
            *("--admin-port", str(self.admin), "--drain-seconds", str(DRAIN_SECONDS)),
        )
        self.start_keeper()

    def start_keeper(self) -> None:
        self.keeper = self._start(
            "keeper",
            *("--state-dir", str(self.folder / "state"), "--router-dir", str(self.dir)),
            *("--metrics-port", str(self.metrics), "--linger-seconds", "20"),
            *self.keeper_words,
        )

    def _start(self, command: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{self.name}-{command}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tasks.cli", command, *words],
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def ask(self, user: str) -> httpx.Response:
        headers = {"x-model": "shop", "x-user-id": user}
        url = f"http://127.0.0.1:{self.port}/v1/models/shop:predict"
        return self.client.post(url, json={}, headers=headers)

    def variant(self, user: str) -> str | None:
        try:
            return self.ask(user).headers.get("x-headrace-variant")
        except httpx.TransportError:
            return None

    def ready(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self.metrics}/ready"
            return self.client.get(url).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def close(self) -> None:
        for process in (self.envoy, self.keeper):
            process.send_signal(signal.SIGTERM)
        for process in (self.envoy, self.keeper):
            process.wait(timeout=40)
        self.client.close()


@dataclass
class World:
    folder: Path
    fake: FakeConfigMaps
    records: ConfigMapRecords
    routers: list[Router]

    @property
    def state(self) -> ModelState:
        return open_state(self.folder / "state", "shop", records=self.records)

    def agree(self, user: str, variant: str) -> None:
        """Wait until both routers send a user to a variant: 2 s at most."""
        eventually(lambda: {one.variant(user) for one in self.routers} == {variant}, AGREE_SECONDS)

    def begin(self) -> str:
        """Begin a step and return a user that meets the candidate."""
        self.state.reserve_slot("second")
        self.state.begin_step("second", 1, SHORT, per_try_timeout_ms=500)
        eventually(lambda: self.in_share() is not None, AGREE_SECONDS)
        user = self.in_share()
        assert user is not None
        self.agree(user, "candidate")
        return user

    def in_share(self) -> str | None:
        users = (f"user-{number}" for number in range(200))
        return next((one for one in users if self.routers[0].variant(one) == "candidate"), None)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        kept = cluster_records(tmp_path, stack)
        routers = [Router(tmp_path, name, kept.environment) for name in ("one", "two")]
        for router in routers:
            stack.callback(router.close)
        eventually(lambda: all(one.ready() for one in routers), 60)
        yield World(folder=tmp_path, fake=kept.fake, records=kept.records, routers=routers)


def test_two_routers_agree_on_a_step_a_pause_and_its_end_within_two_seconds(world: World) -> None:
    user = world.begin()
    world.state.pause("second")
    world.agree(user, "stable")
    world.state.resume("second")
    world.agree(user, "candidate")
    world.state.roll_back("second")
    world.agree(user, "stable")


def test_without_the_api_users_are_served_until_the_lease_lapses_and_it_is_written_once(
    world: World,
) -> None:
    user = world.begin()
    world.fake.fault = lambda _method, _path: 503
    began = time.monotonic()
    while time.monotonic() - began < SHORT.lease_seconds - 2:  # the last record goes on
        assert {one.variant(user) for one in world.routers} == {"candidate"}
        time.sleep(0.05)
    eventually(lambda: {one.variant(user) for one in world.routers} == {"stable"}, 4)
    world.fake.fault = lambda _method, _path: None
    eventually(lambda: world.state.peek().status.phase is Phase.PAUSED, 5)
    time.sleep(1.5)  # the other keeper tries, too
    kinds = [entry.kind for entry in world.state.history()]
    assert kinds.count("paused") == 1
    world.state.renew("second", 60)
    world.agree(user, "candidate")


def test_a_keeper_that_is_killed_costs_nobody_and_its_next_life_follows_again(
    world: World,
) -> None:
    user = world.begin()
    world.state.renew("second", 60)
    router = world.routers[0]
    router.keeper.kill()
    router.keeper.wait()
    for _ in range(50):
        assert router.ask(user).status_code == 200
    router.start_keeper()
    eventually(router.ready, 30)
    world.state.pause("second")
    world.agree(user, "stable")


def test_a_keeper_that_starts_while_the_api_is_away_leaves_users_with_the_last_routes(
    world: World,
) -> None:
    user = world.begin()
    world.state.renew("second", 60)
    router = world.routers[0]
    lapses = math.ceil(world.state.peek().lease.expires_at)
    routes = router_files(world.folder / "state", router.dir).routes
    eventually(
        lambda: f":{lapses}" in routes.read_text(), 30
    )  # else they lapse before a keeper is up
    router.keeper.kill()
    router.keeper.wait()
    world.fake.fault = lambda _method, _path: 503
    log = world.folder / "one-keeper.log"
    router.start_keeper()
    eventually(lambda: "Envoy keeps its routes" in log.read_text(), 30)
    time.sleep(1)  # ten turns
    assert [router.ask(user).status_code for _ in range(20)] == [200] * 20
    assert router.variant(user) == "candidate"
    world.fake.fault = lambda _method, _path: None
    eventually(router.ready, 30)
    world.state.pause("second")
    world.agree(user, "stable")


def test_before_the_first_release_a_router_says_that_it_will_serve_the_model(
    tmp_path: Path,
) -> None:
    fake = FakeConfigMaps()
    with serving(fake) as url:
        environment = os.environ | {
            "KUBECONFIG": str(kubeconfig(tmp_path / "kubeconfig", url)),
            "HEADRACE_ROLLOUT_STATE": "configmap://prod",
            "HEADRACE_SLOT_HOST": "headrace-{model}-{colour}.localhost",
            "HEADRACE_MODELS": "shop",
        }
        router = Router(tmp_path, "one", dict(environment))
        try:
            eventually(router.ready, 60)
            answer = router.ask("user")
        finally:
            router.close()
    assert (answer.status_code, answer.json()) == (
        503,
        {"error": "model shop has no release that serves"},
    )


def test_a_router_told_to_end_fails_no_request_and_lands_all_its_exposures(world: World) -> None:
    user = world.begin()
    world.state.renew("second", 60)
    before = len(landed(world))
    router = world.routers[0]
    router.envoy.send_signal(signal.SIGTERM)
    router.keeper.send_signal(signal.SIGTERM)
    asked, told_to_leave = 0, False
    deadline = time.monotonic() + DRAIN_SECONDS * 0.7
    while time.monotonic() < deadline:
        answer = router.ask(user)
        assert answer.status_code == 200
        told_to_leave |= answer.headers.get("connection") == "close"
        asked += 1
    assert told_to_leave
    router.envoy.wait(timeout=10)
    router.keeper.wait(timeout=10)
    assert router.envoy.returncode == router.keeper.returncode == 0
    assert len(landed(world)) - before >= asked
    for _ in range(20):
        assert world.routers[1].ask(user).status_code == 200


def landed(world: World) -> list[str]:
    folder = rollout_folder(world.folder / "state", "shop", "r2")
    return [json.dumps(line) for line in read_exposures(folder)]
