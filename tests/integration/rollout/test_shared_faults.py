"""A real Envoy, stub slots and the keeper: what stable refuses as well is no fault of the candidate's."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import httpx
import pytest

from tasks.contracts.requests import PLANS
from tasks.rollout.exposure_files import read_exposures
from tasks.rollout.exposures import exposure_of
from tasks.rollout.judge import judge
from tasks.rollout.observation import StepFacts, observe
from tasks.rollout.phases import Decision, Phase
from tests.integration.rollout.asking import in_threads
from tests.integration.rollout.conftest import Deployment, eventually
from tests.integration.rollout.test_router import users_of_candidate
from tests.integration.rollout.upstreams import FAULTY, METHOD

pytestmark = [pytest.mark.integration, pytest.mark.trial]
STEP = 2  # 25 % of users
FAULTY_EVERY = 20  # 5 % of requests
WORKERS = 4
PAUSE_SECONDS = 0.02
PER_TRY_TIMEOUT_MS = 150.0
SECONDS = 12.0


@dataclass
class Users:
    """Users who ask by both protocols, and what they got."""

    deployment: Deployment
    numbers: Iterator[int] = field(default_factory=itertools.count)
    rest: Counter[tuple[bool, int]] = field(default_factory=Counter)
    grpc: Counter[tuple[bool, int]] = field(default_factory=Counter)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        options = [("grpc.default_authority", "shop.headrace"), ("grpc.enable_http_proxy", 0)]
        router = f"127.0.0.1:{self.deployment.port}"
        with (
            httpx.Client(trust_env=False, timeout=40) as client,
            grpc.insecure_channel(router, options=options) as channel,
        ):
            predict = channel.unary_unary(METHOD)
            while not self.stop.wait(PAUSE_SECONDS):
                number = next(self.numbers)
                faulty = number // 2 % FAULTY_EVERY == 0
                body = FAULTY if faulty else b"{}"
                user = f"user-{number * 7919 % 1000}"
                if number % 2:
                    headers = {"x-model": "shop", "x-user-id": user}
                    url = f"{self.deployment.url}/v1/models/shop:predict"
                    code = client.post(url, content=body, headers=headers).status_code
                    self.rest[faulty, code] += 1
                else:
                    self.grpc[faulty, _status(predict, body, user)] += 1


def _status(predict: grpc.UnaryUnaryMultiCallable, body: bytes, user: str) -> int:
    try:
        predict(body, metadata=[("x-user-id", user)], timeout=40)
    except grpc.RpcError as error:
        return int(error.code().value[0])
    return 0


@contextmanager
def users(deployment: Deployment) -> Iterator[Users]:
    made = Users(deployment)
    with in_threads([made.ask] * WORKERS, made.stop):
        yield made


def in_step_2(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.begin(STEP, per_try_timeout_ms=PER_TRY_TIMEOUT_MS)


def test_requests_that_both_slots_refuse_cost_a_healthy_candidate_nothing(
    kept_deployment: Deployment,
) -> None:
    in_step_2(kept_deployment)
    state = kept_deployment.state
    with users(kept_deployment) as asked:
        time.sleep(SECONDS)
        assert state.peek().status.phase is Phase.STEPPING, state.history()[-1].why
    assert set(asked.rest) == {(False, 200), (True, 404)}
    assert set(asked.grpc) == {(False, 0), (True, 9)}
    folder = kept_deployment.state_dir / "shop" / "traffic" / "r2"
    number = asked.rest.total() + asked.grpc.total()
    eventually(lambda: len(list(read_exposures(folder))) >= number)
    record = state.peek()
    facts = StepFacts(
        model="shop",
        release_id="second",
        rollout="r2",
        salt=record.salt or "",
        step=STEP,
        candidate_colour="green",
        per_try_timeout_ms=PER_TRY_TIMEOUT_MS,
        plan=PLANS["replay"],
    )
    verdict = judge(observe(facts, read_exposures(folder), []))
    assert verdict.observation.candidate.stable_too > 0
    assert verdict.decision is Decision.PROCEED, verdict.sentences


@pytest.mark.parametrize(
    ("status", "grpc_status"),
    (
        pytest.param(404, grpc.StatusCode.NOT_FOUND, id="does not know the model"),
        pytest.param(400, grpc.StatusCode.INVALID_ARGUMENT, id="wants other inputs"),
        pytest.param(400, grpc.StatusCode.FAILED_PRECONDITION, id="lacks a signature"),
    ),
)
def test_one_that_alone_refuses_is_cut_within_seconds_and_costs_no_user(
    kept_deployment: Deployment, status: int, grpc_status: grpc.StatusCode
) -> None:
    in_step_2(kept_deployment)
    state, mood = kept_deployment.state, kept_deployment.candidate.mood
    with users(kept_deployment) as asked:
        time.sleep(3)
        mood.status, mood.grpc_status = status, grpc_status
        began = time.monotonic()
        eventually(lambda: state.peek().status.share == 0)
        took = time.monotonic() - began
    assert took < 5
    assert set(asked.rest) == {(False, 200), (True, 404)}
    assert set(asked.grpc) == {(False, 0), (True, 9)}
    entry = state.history()[-1]
    assert (entry.kind, entry.who) == ("cut", "keeper")
    print(f"{took:.2f} s: {entry.why}")


def test_a_path_that_names_stables_version_never_meets_the_candidate(
    deployment: Deployment,
) -> None:
    in_step_2(deployment)
    (user,) = users_of_candidate(deployment, 1)
    asked = deployment.candidate.mood.asked
    for place, pin in enumerate(("versions/1", "labels/stable")):
        headers = {"x-model": "shop", "x-user-id": user, "x-request-id": f"pinned-{place}"}
        url = f"{deployment.url}/v1/models/shop/{pin}:predict"
        answer = deployment.client.post(url, json={}, headers=headers)
        assert (answer.status_code, answer.headers["x-headrace-variant"]) == (200, "stable")
    assert deployment.candidate.mood.asked == asked
    lines = deployment.lines_of({"pinned-0", "pinned-1"})
    assert [exposure_of(line, b"key") for line in lines] == [None, None]
