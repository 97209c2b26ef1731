"""A real Envoy mirrors to a real comparator, which may be dead or hang: users notice nothing."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import httpx
import pytest

from tasks.rollout.comparison import ShadowReport
from tasks.rollout.shadow_routes import ShadowAddress, read_shadow
from tasks.serving import protos
from tasks.serving.client import matrix, predict_request
from tests.integration.rollout.conftest import Deployment, eventually
from tests.integration.rollout.test_router import ask_many, name_of
from tests.integration.rollout.upstreams import METHOD
from tests.ports import free_port

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[3]
USERS = [f"user-{number}" for number in range(100)]


@contextmanager
def comparing(deployment: Deployment, percent: float = 100.0) -> Iterator[subprocess.Popen[bytes]]:
    """Run the comparator as the stack does, mirroring to it so many requests."""
    command = [sys.executable, "-m", "tasks.cli", "shadow"]
    command += ["--state-dir", str(deployment.state_dir)]
    command += ["--port", str(free_port()), "--grpc-port", str(free_port())]
    with (deployment.folder / "shadow.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--percent", str(percent)], cwd=ROOT, stdout=log, stderr=log
        )
    try:
        eventually(lambda: read_shadow(deployment.files.shadow) is not None, seconds=30)
        mirrors = '"request_mirror_policies"'
        eventually(lambda: mirrors in deployment.files.routes.read_text())
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(20)


def report(deployment: Deployment) -> ShadowReport | None:
    path = deployment.state_dir / "shop" / "traffic" / "r2" / "shadow.json"
    return ShadowReport.parse(path.read_bytes(), str(path)) if path.exists() else None


def compared(deployment: Deployment) -> int:
    found = report(deployment)
    return 0 if found is None else found.compared


def counted(deployment: Deployment, name: str) -> int:
    """Return a count of Envoy's."""
    url = f"http://127.0.0.1:{deployment.admin_port}/stats"
    answer = deployment.client.get(url, params={"format": "json", "filter": f"^{name}$"})
    return sum(stat["value"] for stat in json.loads(answer.text)["stats"] if "value" in stat)


def mirrored_so_far(deployment: Deployment) -> int:
    """Return how many mirrored requests Envoy has tried to send."""
    return counted(deployment, "cluster.shadow.upstream_rq_total")


def in_step_3(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.begin(3, per_try_timeout_ms=20_000)  # a busy machine must not fall back


def test_live_requests_are_compared_in_both_slots_off_the_users_path(
    deployment: Deployment,
) -> None:
    in_step_3(deployment)
    with comparing(deployment):

        def asked_and_compared() -> bool:
            names = [name_of(answer) for answer in ask_many(deployment, USERS[:20])]
            assert set(names) <= {"blue", "green"}
            return compared(deployment) >= 10

        eventually(asked_and_compared, seconds=40)
    found = report(deployment)
    assert found is not None
    assert (found.candidate, found.stable) == (2, 1)
    assert found.equal == 0
    assert set(found.overlap.values()) == {0.0}  # blue shows "blue", green shows "green"
    # Who asked is known to neither the report nor the comparator's log.
    folder = deployment.state_dir / "shop" / "traffic" / "r2"
    assert "user-" not in (folder / "shadow.json").read_text()
    assert "user-" not in (deployment.folder / "shadow.log").read_text()


def test_a_staged_candidate_is_compared_before_any_user_meets_it(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.state.reserve_slot("second")
    with comparing(deployment):

        def asked_and_compared() -> bool:
            answers = ask_many(deployment, USERS[:20])
            assert {name_of(answer) for answer in answers} == {"blue"}
            return compared(deployment) > 0

        eventually(asked_and_compared, seconds=40)


def test_a_share_of_the_requests_is_mirrored(deployment: Deployment) -> None:
    in_step_3(deployment)
    with comparing(deployment, percent=25.0):
        before = mirrored_so_far(deployment)
        for _ in range(4):
            ask_many(deployment, USERS)
        time.sleep(0.5)
        share = mirrored_so_far(deployment) - before
        assert 60 < share < 140  # 100 of 400, with standard deviation 9


def test_a_dead_comparator_costs_no_request(deployment: Deployment) -> None:
    in_step_3(deployment)
    with comparing(deployment) as process:
        process.kill()
        process.wait()
        times = ask_all(deployment)
    assert sorted(times)[len(times) // 2] < 0.2


def test_a_comparator_that_hangs_costs_no_request_and_nobody_waits(deployment: Deployment) -> None:
    in_step_3(deployment)
    with comparing(deployment) as process:
        ask_all(deployment)
        process.send_signal(signal.SIGSTOP)
        times = ask_all(deployment)
        assert sorted(times)[len(times) // 2] < 0.2
        assert max(times) < 5  # its own limit of a mirrored request is 30 s
        process.send_signal(signal.SIGCONT)


RESOLVER = "envoy.network.dns_resolver.cares"


@contextmanager
def nobody_resolves(deployment: Deployment) -> Iterator[None]:
    """Start Envoy anew where the server of names never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        kind = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3"
        server = {"address": "127.0.0.1", "port_value": silent.getsockname()[1]}
        resolver = {
            "@type": f"{kind}.CaresDnsResolverConfig",
            "resolvers": [{"socket_address": server}],
        }
        bootstrap = json.loads(deployment.files.bootstrap.read_text())
        bootstrap["typed_dns_resolver_config"] = {"name": RESOLVER, "typed_config": resolver}
        deployment.envoy.terminate()
        deployment.envoy.wait()
        deployment.files.bootstrap.write_text(json.dumps(bootstrap))
        deployment.start_envoy()
        yield
        silent.setblocking(False)
        assert b"headrace-shadow" in silent.recv(512)  # it was asked


def test_a_comparator_whose_name_nobody_resolves_costs_no_start_no_route_and_no_request(
    deployment: Deployment,
) -> None:
    deployment.first_release()
    address = ShadowAddress(host="headrace-shadow.shop.svc", port=9911, grpc=9913, percent=100.0)
    deployment.files.shadow.write_text(address.to_text())
    eventually(lambda: address.host in deployment.files.clusters.read_text())
    with nobody_resolves(deployment):
        deployment.settle()  # it listens within 10 s
        deployment.begin(3, per_try_timeout_ms=20_000)
        assert '"request_mirror_policies"' in deployment.files.routes.read_text()
        assert {name_of(answer) for answer in ask_many(deployment, USERS)} == {"blue", "green"}
        for times in (ask_all(deployment), ask_by_grpc(deployment)):
            assert sorted(times)[len(times) // 2] < 0.2
            assert max(times) < 5


def test_a_comparator_that_is_found_by_a_name_is_sent_both_protocols(
    deployment: Deployment,
) -> None:
    in_step_3(deployment)
    with comparing(deployment):
        said = read_shadow(deployment.files.shadow)
        assert said is not None
        deployment.files.shadow.write_text(replace(said, host="localhost").to_text())
        eventually(lambda: "DnsCluster" in deployment.files.clusters.read_text())

        def mirrored() -> bool:
            ask_many(deployment, USERS[:20])
            ask_by_grpc(deployment, 20)
            names = ("cluster.shadow", "cluster.shadow.grpc")
            return all(counted(deployment, f"{one}.upstream_rq_completed") >= 10 for one in names)

        eventually(mirrored, seconds=40)


def ask_all(deployment: Deployment) -> list[float]:
    """Ask 600 times; every request must be answered."""
    times = []
    with httpx.Client(trust_env=False, timeout=40) as client:
        for number in range(600):
            headers = {"x-model": "shop", "x-user-id": USERS[number % len(USERS)]}
            began = time.monotonic()
            url = f"{deployment.url}/v1/models/shop:predict"
            answer = client.post(url, json={}, headers=headers)
            times.append(time.monotonic() - began)
            assert answer.status_code == 200
    return times


def test_a_comparator_whose_word_is_broken_stops_no_route(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.files.shadow.write_text('{"format": "shadow_address/1", "port": "many"}')
    deployment.begin(3)
    assert "request_mirror_policies" not in deployment.files.routes.read_text()
    assert {name_of(answer) for answer in ask_many(deployment, USERS)} == {"blue", "green"}


REQUEST = predict_request("shop", {"history": [["bag", "coat"]]}, version=7)  # what nobody serves


@contextmanager
def grpc_users(deployment: Deployment) -> Iterator[grpc.UnaryUnaryMultiCallable]:
    """Give the slots a prediction to answer with, and users one channel to the router."""
    for slot in (deployment.stable, deployment.candidate):
        slot.mood.answers = predicting(slot.mood.name)
    options = (("grpc.default_authority", "shop.headrace"), ("grpc.enable_retries", 0))
    with grpc.insecure_channel(f"127.0.0.1:{deployment.port}", options=options) as channel:
        yield channel.unary_unary(METHOD)


ASKED_VERSIONS: dict[str, set[int]] = {}


def predicting(name: str) -> Callable[[bytes], bytes]:
    ASKED_VERSIONS.setdefault(name, set())

    def answer(request: bytes) -> bytes:
        spec = protos.predict.PredictRequest.FromString(request).model_spec
        ASKED_VERSIONS[name].add(spec.version.value)
        response = protos.predict.PredictResponse()
        response.outputs["items"].CopyFrom(matrix([[name, "bag"]]))
        response.outputs["scores"].CopyFrom(matrix([[1.0, 0.5]]))
        return bytes(response.SerializeToString())

    return answer


def ask_by_grpc(deployment: Deployment, number: int = 600, request: bytes = REQUEST) -> list[float]:
    """Ask so many times; every request must be answered."""
    times = []
    with grpc_users(deployment) as predict:
        for place in range(number):
            began = time.monotonic()
            metadata = (("x-user-id", USERS[place % len(USERS)]),)
            predict(request, metadata=metadata, timeout=40)
            times.append(time.monotonic() - began)
    return times


def test_live_grpc_requests_are_compared_by_grpc_in_the_version_of_each_slot(
    deployment: Deployment,
) -> None:
    in_step_3(deployment)
    ASKED_VERSIONS.clear()
    with comparing(deployment):

        def asked_and_compared() -> bool:
            ask_by_grpc(deployment, 20)
            return compared(deployment) >= 10

        eventually(asked_and_compared, seconds=40)
    found = report(deployment)
    assert found is not None
    assert (found.candidate, found.stable, found.equal) == (2, 1, 0)
    assert (found.overlap["1"], found.overlap["5"]) == (0.0, 0.5)  # "bag" is in both
    assert mirrored_so_far(deployment) == 0  # none by REST
    # Users asked for version 7; the comparator asked for the version that each slot serves.
    assert {"green": {2, 7}, "blue": {1, 7}} == ASKED_VERSIONS
    folder = deployment.state_dir / "shop" / "traffic" / "r2"
    assert "user-" not in (folder / "shadow.json").read_text()
    assert "user-" not in (deployment.folder / "shadow.log").read_text()


def test_a_dead_comparator_costs_no_grpc_request(deployment: Deployment) -> None:
    in_step_3(deployment)
    with comparing(deployment) as process:
        process.kill()
        process.wait()
        times = ask_by_grpc(deployment)
        assert counted(deployment, "cluster.shadow.grpc.upstream_cx_connect_fail") > 0
    assert sorted(times)[len(times) // 2] < 0.2


def test_a_comparator_that_hangs_costs_no_grpc_request_and_holds_64_at_most(
    deployment: Deployment,
) -> None:
    in_step_3(deployment)
    with comparing(deployment) as process:
        ask_by_grpc(deployment)
        process.send_signal(signal.SIGSTOP)
        times = ask_by_grpc(deployment)
        assert counted(deployment, "cluster.shadow.grpc.upstream_rq_active") <= 64
        assert counted(deployment, "cluster.shadow.grpc.upstream_rq_active_overflow") > 0
        assert sorted(times)[len(times) // 2] < 0.2
        assert max(times) < 5  # its own limit of a mirrored request is 30 s
        process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("hangs", (True, False), ids=("hanging", "well"))
def test_a_comparator_holds_up_no_large_request_and_is_not_sent_it(
    deployment: Deployment, hangs: bool
) -> None:
    in_step_3(deployment)
    large = [["x" * 1000] * 20_000]  # 20 MB: more than all buffers on the way
    request = predict_request("shop", {"history": [large[0][:3_500]]})  # the router takes 4 MiB
    url, body = f"{deployment.url}/v1/models/shop:predict", json.dumps({"inputs": large})
    with comparing(deployment) as process, grpc_users(deployment) as predict:
        if hangs:
            process.send_signal(signal.SIGSTOP)
        for _ in range(5):
            answer = deployment.client.post(url, content=body, headers={"x-model": "shop"})
            assert answer.status_code == 200
            predict(request, timeout=40)
        for name in ("cluster.shadow", "cluster.shadow.grpc"):
            assert counted(deployment, f"{name}.upstream_cx_tx_bytes_total") < 10_000
            assert counted(deployment, f"{name}.upstream_rq_active") == 0
        process.send_signal(signal.SIGCONT)
    assert deployment.envoy.poll() is None


def test_a_comparator_of_before_is_sent_rest_alone(deployment: Deployment) -> None:
    in_step_3(deployment)
    with comparing(deployment):
        found = read_shadow(deployment.files.shadow)
        assert found is not None
        assert found.grpc is not None
        fields = {"host": "127.0.0.1", "port": found.port, "percent": 100.0}
        deployment.files.shadow.write_text(json.dumps({"format": "shadow_address/1", **fields}))
        clusters = deployment.files.clusters
        eventually(lambda: "shadow.grpc" not in clusters.read_text())
        assert "shadow" in clusters.read_text()
        assert max(ask_by_grpc(deployment, 20)) < 5
