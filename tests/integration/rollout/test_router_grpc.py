"""PredictionService through the router: the same promises as for REST, on one HTTP/2 connection."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import pytest

from tasks.rollout.assignment import bucket_of
from tasks.rollout.envoy_stats import VariantCounts, VariantName, read_statistics
from tasks.rollout.exposure_files import read_exposures
from tasks.rollout.exposures import ExposureLander, exposure_of, user_key
from tasks.rollout.phases import Phase
from tasks.rollout.record import Colour
from tasks.rollout.routes import GRPC_BODY_BYTES
from tests.integration.rollout.conftest import Deployment, eventually
from tests.integration.rollout.test_router import is_candidates, users_of_candidate
from tests.integration.rollout.upstreams import METHOD, grpc_without_status

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Answer:
    name: str
    variant: str


class Client:
    """One channel to the router, as a service keeps it."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.predict = channel.unary_unary(METHOD)

    def ask(self, user: str | None, body: bytes = b"request", **headers: str) -> Answer:
        sent = list(headers.items()) + ([("x-user-id", user)] if user else [])
        metadata = [(name.replace("_", "-"), value) for name, value in sent]
        answer, done = self.predict.with_call(body, metadata=metadata, timeout=20)
        return Answer(answer.decode(), str(dict(done.initial_metadata())["x-headrace-variant"]))


@contextmanager
def client(deployment: Deployment, authority: str = "shop.headrace") -> Iterator[Client]:
    options = [("grpc.default_authority", authority), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{deployment.port}", options=options) as channel:
        yield Client(channel)


def in_step_3(deployment: Deployment, per_try_timeout_ms: float = 20_000) -> None:
    deployment.first_release()
    deployment.begin(3, per_try_timeout_ms=per_try_timeout_ms)


def test_grpc_and_rest_put_a_user_on_the_same_side_as_the_library(deployment: Deployment) -> None:
    in_step_3(deployment)
    salt = deployment.state.peek().salt
    assert salt is not None
    users = [f"user-{number}" for number in range(150)]
    with client(deployment) as shop, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(shop.ask, users))
    for user, answer in zip(users, found, strict=True):
        side = "candidate" if bucket_of(salt, user) < 5000 else "stable"
        name = "green" if side == "candidate" else "blue"
        assert (user, answer) == (user, Answer(name, side))
    for user, answer in list(zip(users, found, strict=True))[:20]:
        assert deployment.ask(user).headers["x-headrace-variant"] == answer.variant


def test_a_grpc_client_chooses_neither_its_bucket_nor_its_retries(deployment: Deployment) -> None:
    in_step_3(deployment)
    user = next(u for u in map(str, range(100)) if not is_candidates(deployment, u))
    forged = {
        "x_headrace_bucket": "0",
        "x_envoy_max_retries": "0",
        "x_envoy_retry_grpc_on": "",
        "x_envoy_upstream_rq_timeout_ms": "1",
    }
    with client(deployment) as shop:
        assert shop.ask(user, **forged) == Answer("blue", "stable")
        assert shop.ask(None, **forged) == Answer("blue", "stable")
        deployment.candidate.mood.grpc_status = grpc.StatusCode.UNAVAILABLE
        (mine,) = users_of_candidate(deployment, 1)
        assert shop.ask(mine, **forged) == Answer("blue", "candidate")


def test_the_models_name_may_also_be_a_header_and_an_unknown_one_is_refused(
    deployment: Deployment,
) -> None:
    in_step_3(deployment)
    with client(deployment, authority=f"127.0.0.1:{deployment.port}") as any_model:
        assert any_model.ask(None, x_model="shop") == Answer("blue", "stable")
        with pytest.raises(grpc.RpcError) as refused:
            any_model.ask(None, x_model="other")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED  # what gRPC makes of a 404
    with (
        client(deployment, authority="other.headrace") as other,
        pytest.raises(grpc.RpcError) as refused,
    ):
        other.ask("ann")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_what_is_not_for_clients_is_refused_and_reaches_no_slot(deployment: Deployment) -> None:
    in_step_3(deployment)
    (mine,) = users_of_candidate(deployment, 1)
    options = [("grpc.default_authority", "shop.headrace"), ("grpc.enable_http_proxy", 0)]
    reload = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
    asked = [slot.mood.asked for slot in deployment.slots.values()]
    with grpc.insecure_channel(f"127.0.0.1:{deployment.port}", options=options) as channel:
        for user in (mine, "nobody"):
            with pytest.raises(grpc.RpcError, match="expected /v1/models/shop") as refused:
                channel.unary_unary(reload)(b"", metadata=[("x-user-id", user)], timeout=5)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    for path in ("/monitoring/prometheus/metrics", "/v1/models/other:predict", "/"):
        headers = {"x-model": "shop", "x-user-id": mine}
        answer = deployment.client.post(f"{deployment.url}{path}", json={}, headers=headers)
        assert (answer.status_code, "expected /v1/models/shop" in answer.text) == (404, True)
    assert [slot.mood.asked for slot in deployment.slots.values()] == asked


def test_a_candidate_that_fails_grpc_is_ejected_and_asked_again_later(
    deployment: Deployment,
) -> None:
    in_step_3(deployment)
    mood = deployment.candidate.mood
    mood.grpc_status = grpc.StatusCode.UNAVAILABLE
    users = users_of_candidate(deployment, 40)
    with client(deployment) as shop:
        for _ in range(3):
            assert {shop.ask(user) for user in users} == {Answer("blue", "candidate")}
        asked = mood.asked
        assert asked < 60  # of 120: five in a row, and Envoy asks stable at once
        mood.grpc_status = None
        eventually(lambda: shop.ask(users[0]).name == "green", seconds=20)
        assert mood.asked > asked


def test_a_hanging_candidate_costs_grpc_its_time_limit_and_no_failure(
    deployment: Deployment,
) -> None:
    in_step_3(deployment, per_try_timeout_ms=80)
    deployment.candidate.mood.delay_seconds = 30
    with client(deployment) as shop:
        times = []
        for user in users_of_candidate(deployment, 15):
            began = time.monotonic()
            assert shop.ask(user) == Answer("blue", "candidate")
            times.append(time.monotonic() - began)
    assert max(times) < 2


def test_no_grpc_user_pays_for_a_candidate_that_dies_under_load(deployment: Deployment) -> None:
    in_step_3(deployment)
    users = users_of_candidate(deployment, 30) * 15
    with client(deployment) as shop, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(shop.ask, user) for user in users]
        time.sleep(0.1)
        deployment.candidate.stop()
        names = Counter(one.result().name for one in asked)
    assert sum(names.values()) == len(users)
    assert names["blue"] > 0


@pytest.mark.parametrize("stables_seconds", (0.1, 0.4), ids=("shortly", "much"))
def test_a_candidate_that_fails_late_beside_a_held_answer_of_stable_ends_no_router(
    deployment: Deployment, stables_seconds: float
) -> None:
    """Both heads have come, and the candidate's end before stable's: it is passed on, no more."""
    in_step_3(deployment, per_try_timeout_ms=80)
    candidate, stable = deployment.candidate.mood, deployment.stable.mood
    candidate.held_seconds, candidate.grpc_status = 0.25, grpc.StatusCode.UNAVAILABLE
    stable.held_seconds = 0.17 + stables_seconds
    users = [*users_of_candidate(deployment, 8), None] * 5
    with client(deployment) as shop, ThreadPoolExecutor(4) as pool:
        met = Counter(zip(users, pool.map(lambda user: _met(shop, user), users), strict=True))
    assert deployment.envoy.poll() is None
    assert {name for _, name in met} == {"blue", "UNAVAILABLE: told to"}
    assert met[None, "blue"] == 5


def _met(shop: Client, user: str | None) -> str:
    try:
        return shop.ask(user).name
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"


LARGEST = GRPC_BODY_BYTES - 5  # beside what frames a message


@pytest.mark.parametrize("ill", ("fails", "hangs"))
def test_the_largest_grpc_request_falls_back_and_a_larger_one_is_refused_whoever_asks(
    deployment: Deployment, ill: str
) -> None:
    in_step_3(deployment, per_try_timeout_ms=500)
    mood = deployment.candidate.mood
    mood.grpc_status = grpc.StatusCode.UNAVAILABLE if ill == "fails" else None
    mood.delay_seconds = 30 if ill == "hangs" else 0
    (mine,) = users_of_candidate(deployment, 1)
    other = next(u for u in map(str, range(100)) if not is_candidates(deployment, u))
    with client(deployment) as shop:
        assert shop.ask(mine, b"x" * LARGEST) == Answer("blue", "candidate")
        assert deployment.stable.mood.bodies[-1] == LARGEST
        asked = mood.asked + deployment.stable.mood.asked
        for user in (mine, other, None):
            with pytest.raises(grpc.RpcError, match="at most 4194304 bytes") as refused:
                shop.ask(user, b"x" * (LARGEST + 1), x_request_id=f"large-{user}")
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert mood.asked + deployment.stable.mood.asked == asked
    lines = deployment.lines_of({f"large-{user}" for user in (mine, other)})
    exposures = [exposure_of(line, b"key") for line in lines if line["user_id"]]
    assert [one and one["variant"] for one in exposures] == ["neither", "neither"]


def test_a_grpc_request_is_an_exposure_by_its_assignment(deployment: Deployment) -> None:
    in_step_3(deployment)
    deployment.keeper_stop.set()
    deployment.keeper_thread.join()
    deployment.candidate.mood.grpc_status = grpc.StatusCode.UNAVAILABLE
    (user,) = users_of_candidate(deployment, 1)
    with client(deployment) as shop:
        shop.ask(user, x_request_id="fell-back")
        shop.ask(None, x_request_id="nobody")
    deployment.lines_of({"fell-back", "nobody"})
    lander = ExposureLander(state_dir=deployment.state_dir, key=user_key(deployment.state_dir))
    lander.land()
    lines = read_exposures(deployment.state_dir / "shop" / "traffic" / "r2")
    (line,) = (one for one in lines if one["request_id"] in {"fell-back", "nobody"})
    assert (line["variant"], line["slot"], line["grpc_status"]) == ("candidate", "blue", 0)


def counted(deployment: Deployment) -> VariantCounts:
    """Return what the keeper knows of stable: Envoy's counts, and its log's."""
    lander = ExposureLander(state_dir=deployment.state_dir, key=user_key(deployment.state_dir))
    lander.land()
    found = read_statistics(deployment.files)
    assert found is not None
    name = VariantName(model="shop", variant="stable", release_number=1)
    return found.with_failed_rpcs(lander.failed_rpcs).variants[name]


def test_each_grpc_request_that_fails_is_counted_once_whoever_refused_it(
    deployment: Deployment,
) -> None:
    deployment.first_release()
    deployment.keeper_stop.set()
    deployment.keeper_thread.join()
    before = counted(deployment)
    met: Counter[grpc.StatusCode] = Counter()
    with client(deployment) as shop:
        for status in grpc.StatusCode:
            if status is not grpc.StatusCode.OK:
                deployment.stable.mood.grpc_status = status
                with pytest.raises(grpc.RpcError) as refused:
                    shop.ask("ann", x_request_id=status.name)
                met[refused.value.code()] += 1
        deployment.stable.mood.grpc_status = None
        shop.ask("ann")
        deployment.stable.stop()
        with pytest.raises(grpc.RpcError):
            shop.ask("ann", x_request_id="gone")
    deployment.lines_of({status.name for status in met} | {"gone"})
    assert len(met) == 16
    after = counted(deployment)
    # UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, UNIMPLEMENTED, INTERNAL,
    # UNAVAILABLE and DATA_LOSS; what Envoy refuses itself, it counts itself.
    assert after.failed_rpcs - before.failed_rpcs == 8
    assert after.failed - before.failed == 1
    assert after.completed - before.completed == 18


@pytest.mark.parametrize("status", [one for one in grpc.StatusCode if one.value[0] != 0])
def test_a_grpc_status_other_than_ok_costs_no_user_of_the_candidate(
    deployment: Deployment, status: grpc.StatusCode
) -> None:
    in_step_3(deployment)
    deployment.candidate.mood.grpc_status = status
    (user,) = users_of_candidate(deployment, 1)
    with client(deployment) as shop:
        assert shop.ask(user) == Answer("blue", "candidate")


def test_an_answer_without_a_status_costs_no_user_and_the_keeper_takes_its_candidate_out(
    kept_deployment: Deployment,
) -> None:
    in_step_3(kept_deployment, per_try_timeout_ms=150)
    users = users_of_candidate(kept_deployment, 30)
    candidate = kept_deployment.candidate
    assert candidate.grpc is not None
    candidate.grpc.close()
    candidate.grpc = None
    with grpc_without_status(candidate.grpc_port), client(kept_deployment) as shop:
        for user in users * 3:
            assert _met(shop, user) == "blue"
        eventually(lambda: kept_deployment.state.peek().status.share == 0)
    assert kept_deployment.state.history()[-1].kind == "cut"


def test_halted_every_grpc_request_meets_the_only_slot_that_answers(
    deployment: Deployment,
) -> None:
    in_step_3(deployment)
    deployment.stable.stop()
    eventually(lambda: deployment.state.peek().status.phase is Phase.HALTED, seconds=20)
    with client(deployment) as shop:

        def everybody_meets_the_candidate() -> bool:
            try:
                found = {shop.ask(user) for user in (None, "ann", "bob", "cleo")}
            except grpc.RpcError:
                return False
            return found == {Answer("green", "candidate")}

        eventually(everybody_meets_the_candidate, seconds=20)
    assert deployment.state.peek().unready == (Colour.BLUE,)
