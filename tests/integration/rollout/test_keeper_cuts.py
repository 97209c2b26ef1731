"""A real Envoy, stub slots and the keeper, and nobody else: candidates that harm are out in seconds."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tasks.contracts.errors import BadRequestError
from tasks.rollout.metrics import metrics_file
from tasks.rollout.phases import Decision, Phase
from tasks.rollout.retrace import retrace, state_problems
from tests.integration.rollout.asking import in_threads
from tests.integration.rollout.conftest import Deployment, eventually
from tests.integration.rollout.test_router import ILLS, is_candidates, users_of_candidate
from tests.ports import free_port

pytestmark = [pytest.mark.integration, pytest.mark.trial]
HANGING = {"_hangs", "_hangs_in_the_middle_of_its_answer"}
WORKERS = 4
PAUSE_SECONDS = 0.02  # of each worker: below 200 requests a second together
PER_TRY_TIMEOUT_MS = 150.0  # three times the p95 that the plan accepts, as `shift_traffic` says


@dataclass
class Load:
    """Users who keep asking; every answer is kept."""

    deployment: Deployment
    users: list[str]
    codes: Counter[int] = field(default_factory=Counter)
    variants: Counter[str] = field(default_factory=Counter)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self, worker: int) -> None:
        with httpx.Client(trust_env=False, timeout=40) as client:
            number = worker
            url = f"{self.deployment.url}/v1/models/shop:predict"
            while not self.stop.wait(PAUSE_SECONDS):
                user = self.users[number % len(self.users)]
                headers = {"x-model": "shop", "x-user-id": user}
                answer = client.post(url, json={}, headers=headers)
                self.codes[answer.status_code] += 1
                self.variants[answer.headers["x-headrace-variant"]] += 1
                number += WORKERS


@contextmanager
def load(deployment: Deployment) -> Iterator[Load]:
    """Half of the users are the candidate's."""
    candidates = users_of_candidate(deployment, 200)
    asking = (f"s{number}" for number in range(10_000))
    others = [user for user in asking if not is_candidates(deployment, user)][:200]
    users = [user for pair in zip(candidates, others, strict=True) for user in pair]
    made = Load(deployment=deployment, users=users)
    with in_threads([partial(made.ask, number) for number in range(WORKERS)], made.stop):
        yield made


def in_step_3(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.begin(3, per_try_timeout_ms=PER_TRY_TIMEOUT_MS)


@pytest.mark.parametrize("ill", ILLS, ids=lambda ill: ill.__name__.strip("_").replace("_", " "))
def test_the_keeper_alone_takes_out_a_candidate_that(
    kept_deployment: Deployment, ill: object
) -> None:
    in_step_3(kept_deployment)
    with load(kept_deployment) as users:
        time.sleep(3)  # healthy for a while
        assert kept_deployment.state.peek().status.phase is Phase.STEPPING
        ill(kept_deployment.candidate.mood)  # type: ignore[operator]
        began = time.monotonic()
        eventually(lambda: kept_deployment.state.peek().status.share == 0)
        took = time.monotonic() - began
        eventually(lambda: "r2:3" not in kept_deployment.files.routes.read_text())
    assert took < 5
    assert set(users.codes) == {200}
    entry = kept_deployment.state.history()[-1]
    assert (entry.kind, entry.who, entry.step, entry.share) == ("cut", "keeper", 3, 0)
    assert entry.details["surely_above"] > entry.details["limit"]  # type: ignore[operator]
    if ill.__name__ in HANGING:  # type: ignore[attr-defined]
        # Such an answer is over both limits; on a busy machine the lower one may be sure first.
        assert entry.why.startswith(("over the 150 ms of one try", "slower than"))
    assert kept_deployment.state.peek().status.verdicts[3] is Decision.ROLL_BACK
    assert kept_deployment.state.verify() == []
    print(f"{took:.2f} s: {entry.why}")


def test_a_healthy_candidate_is_not_cut(kept_deployment: Deployment) -> None:
    in_step_3(kept_deployment)
    with load(kept_deployment) as users:
        time.sleep(10)
    assert kept_deployment.state.peek().status.phase is Phase.STEPPING
    assert users.codes[200] == sum(users.codes.values()) > 500
    path = metrics_file(kept_deployment.files)
    candidate = 'headrace_requests_total{model="shop",variant="candidate",release="2"} '
    eventually(lambda: _value(path, candidate) == users.variants["candidate"])
    met = 'headrace_candidate_slot_requests_total{model="shop",slot="green"} '
    assert 0.9 * users.variants["candidate"] <= _value(path, met) <= users.variants["candidate"]
    timed = 'headrace_request_duration_seconds_count{model="shop",variant="candidate",release="2"} '
    eventually(lambda: _value(path, timed) == users.variants["candidate"])


def _value(metrics: Path, name: str) -> float:
    (line,) = (line for line in metrics.read_text().splitlines() if line.startswith(name))
    return float(line.removeprefix(name))


@pytest.mark.skipif(
    shutil.which("prometheus") is None,
    reason="prometheus is not installed (`make setup-prometheus`)",
)
def test_a_real_prometheus_scrapes_what_the_keeper_writes(kept_deployment: Deployment) -> None:
    in_step_3(kept_deployment)
    with load(kept_deployment):
        time.sleep(1)
    folder = kept_deployment.files.folder
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        scraped = {"targets": [f"127.0.0.1:{server.server_port}"]}
        job = {"job_name": "x", "metrics_path": "/metrics.prom", "static_configs": [scraped]}
        config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}
        (kept_deployment.folder / "prometheus.json").write_text(json.dumps(config))
        port = free_port()
        flags = (
            f"--config.file={kept_deployment.folder / 'prometheus.json'}",
            f"--storage.tsdb.path={kept_deployment.folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        )
        with (kept_deployment.folder / "prometheus.log").open("wb") as log:
            prometheus = subprocess.Popen(["prometheus", *flags], stdout=log, stderr=log)
        try:
            query = 'headrace_requests_total{variant="candidate",release="2"}'
            eventually(lambda: _asked_prometheus(kept_deployment, port, query) > 0, seconds=30)
        finally:
            prometheus.terminate()
            prometheus.wait()
            server.shutdown()


def _asked_prometheus(deployment: Deployment, port: int, query: str) -> float:
    url = f"http://127.0.0.1:{port}/api/v1/query"
    try:
        found = deployment.client.get(url, params={"query": query}).json()["data"]["result"]
    except (httpx.TransportError, ValueError, KeyError):
        return 0.0
    return float(found[0]["value"][1]) if found else 0.0


def test_a_judge_who_comes_after_the_cut_is_told_so_and_the_rollback_follows(
    kept_deployment: Deployment,
) -> None:
    in_step_3(kept_deployment)
    state = kept_deployment.state
    with load(kept_deployment):
        kept_deployment.candidate.mood.status = 500
        eventually(lambda: state.peek().status.share == 0)
    for decision in (Decision.SHIP, Decision.ROLL_BACK):
        with pytest.raises(BadRequestError, match=r"step 3 of second was cut by keeper at .* roll"):
            state.record_verdict("second", 3, decision, numbers={})
    assert state.renew("second", 60) is Phase.PAUSED
    with pytest.raises(BadRequestError, match="verdict ship"):
        state.promote("second")
    assert state.roll_back("second") is not None
    assert state.verify() == []
    assert state_problems(state.peek(), retrace("shop", state.history()), "state.json") == []


def test_an_envoy_that_is_started_again_is_read_on(kept_deployment: Deployment) -> None:
    in_step_3(kept_deployment)
    with load(kept_deployment):
        time.sleep(1)
    kept_deployment.envoy.terminate()
    kept_deployment.envoy.wait()
    kept_deployment.start_envoy()
    kept_deployment.settle()
    with load(kept_deployment):
        time.sleep(2)
        assert kept_deployment.state.peek().status.phase is Phase.STEPPING
        kept_deployment.candidate.stop()
        eventually(lambda: kept_deployment.state.peek().status.share == 0)
    assert kept_deployment.state.history()[-1].kind == "cut"
