from __future__ import annotations

import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import grpc
import httpx
import pytest

from tasks.rollout.assignment import bucket_of
from tasks.rollout.envoy import reopen_log
from tasks.rollout.exposure_files import read_exposures
from tasks.rollout.exposures import ExposureLander, exposure_of
from tasks.rollout.phases import Decision, Phase
from tasks.rollout.routes import WHOLE_ANSWER_BYTES
from tests.integration.rollout.conftest import PLAN, STEP_SHARES, Deployment, eventually
from tests.integration.rollout.upstreams import METHOD, Mood

pytestmark = pytest.mark.integration
USERS = [f"user-{number}" for number in range(400)]


def name_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["outputs"]["items"][0][0])


def variant_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-headrace-variant"])


def is_candidates(deployment: Deployment, user: str) -> bool:
    record = deployment.state.peek()
    assert record.salt is not None
    return bucket_of(record.salt, user) < record.status.share


def users_of_candidate(deployment: Deployment, number: int) -> list[str]:
    found = [f"u{n}" for n in range(number * 40) if is_candidates(deployment, f"u{n}")]
    assert len(found) >= number
    return found[:number]


def ask_many(deployment: Deployment, users: list[str], workers: int = 8) -> list[httpx.Response]:
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(deployment.ask, users))


def test_before_any_release_the_router_says_that_nothing_serves(deployment: Deployment) -> None:
    deployment.state.reserve_slot("first")
    eventually(lambda: deployment.files.routes.read_text().count("503") > 0)
    eventually(lambda: _status(deployment) == 503)
    assert deployment.ask("ann").json() == {"error": "model shop has no release that serves"}


def _status(deployment: Deployment) -> int | None:
    try:
        return deployment.ask("ann").status_code
    except httpx.TransportError:
        return None


def test_without_a_rollout_everybody_meets_stable_and_nobody_is_exposed(
    deployment: Deployment,
) -> None:
    deployment.first_release()
    answer = deployment.ask("ann", **{"x-request-id": "one"})
    assert name_of(answer) == "blue"
    assert answer.headers["x-headrace-variant"] == "stable"
    line = deployment.lines_of({"one"})[0]
    assert (line["step_users"], line["rollout"], line["slot"]) == (None, None, "blue")


def test_an_unknown_model_is_refused_with_the_known_names(deployment: Deployment) -> None:
    deployment.first_release()
    answer = deployment.ask("ann", **{"x-model": "other"})
    assert answer.status_code == 404
    assert "shop" in answer.json()["error"]


def test_the_router_gives_every_user_the_variant_that_the_library_says_at_every_share(
    deployment: Deployment,
) -> None:
    deployment.first_release()
    for step, share in enumerate(STEP_SHARES, start=1):
        deployment.begin(step)
        salt = deployment.state.peek().salt
        assert salt is not None
        expected = {
            user: "candidate" if bucket_of(salt, user) < share else "stable" for user in USERS
        }
        answers = ask_many(deployment, USERS)
        assert dict(zip(USERS, map(variant_of, answers), strict=True)) == expected

        def logged(step: int = step) -> list[dict[str, Any]]:
            lines = deployment.log()
            return [one for one in lines if one["user_id"] and one["step"] == str(step)]

        eventually(lambda: len(logged()) >= len(USERS))
        for line in logged():  # one that Envoy dealt otherwise would be refused here
            exposure = exposure_of(line, b"key")
            assert exposure is not None
            assert exposure["variant"] == expected[line["user_id"]]


def test_users_never_flip_and_the_candidates_users_only_grow(deployment: Deployment) -> None:
    deployment.first_release()
    seen: dict[str, set[str]] = {}
    met: set[str] = set()
    for step in (1, 2, 3):
        deployment.begin(step)
        for _ in range(2):
            variants = [variant_of(answer) for answer in ask_many(deployment, USERS)]
            for user, variant in zip(USERS, variants, strict=True):
                seen.setdefault(f"{step} {user}", set()).add(variant)
        now = {user for user in USERS if "candidate" in seen[f"{step} {user}"]}
        assert met <= now
        met = now
    assert all(len(variants) == 1 for variants in seen.values())
    assert 140 < len(met) < 260  # of 400 at 50 %: 200 with standard deviation 10


def test_a_client_chooses_neither_its_bucket_nor_its_retries(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.begin(1)
    user = next(user for user in USERS if not is_candidates(deployment, user))
    forged = {"x-headrace-bucket": "0", "x-envoy-max-retries": "0", "x-headrace-variant": "x"}
    forged |= {"x-headrace-now": "1"}
    assert name_of(deployment.ask(user, **forged)) == "blue"
    got = deployment.stable.mood.headers[-1]
    assert not {"x-headrace-bucket", "x-headrace-variant", "x-headrace-now"} & set(got)
    assert name_of(deployment.ask(None, **forged)) == "blue"


def test_a_request_without_a_user_meets_stable_and_is_no_exposure(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.begin(3)
    assert name_of(deployment.ask(None, **{"x-request-id": "nobody"})) == "blue"
    assert name_of(deployment.ask("", **{"x-request-id": "empty"})) == "blue"
    lines = deployment.lines_of({"nobody", "empty"})
    assert [exposure_of(line, b"key") for line in lines] == [None, None]


def test_whoever_lands_exposures_sees_the_user_that_the_router_saw(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.begin(3)
    asked: dict[str, tuple[bytes, ...]] = {
        "Cyrillic": ("пользователь".encode(),),
        "twice": (b"ann", b"bob"),
        "Latin-1": (b"\xff\xfe4",),
        "half a letter": (b"ann\xc3",),
        "a surrogate": (b"\xed\xa0\x80",),
    }
    url = f"{deployment.url}/v1/models/shop:predict"
    answers = {}
    for name, users in asked.items():
        headers = [(b"host", b"shop.headrace"), (b"x-request-id", name.replace(" ", "-").encode())]
        headers += [(b"x-user-id", user) for user in users]
        answers[name] = httpx.post(url, json={"inputs": {"history": [["a"]]}}, headers=headers)
    ids = {name: name.replace(" ", "-") for name in asked}
    lines = {line["request_id"]: line for line in deployment.lines_of(set(ids.values()))}
    found = {name: exposure_of(lines[one], b"key") for name, one in ids.items()}
    assert [name for name, one in found.items() if one is not None] == ["Cyrillic", "twice"]
    salt = deployment.state.peek().salt or ""
    for name, user in (("Cyrillic", "пользователь"), ("twice", "ann")):
        one = found[name]
        assert one is not None
        assert one["bucket"] == bucket_of(salt, user)
        assert variant_of(answers[name]) == one["variant"]
    assert {variant_of(answers[name]) for name in list(asked)[2:]} == {"stable"}


def test_the_models_authority_does_what_the_header_does(deployment: Deployment) -> None:
    deployment.first_release()
    url = f"{deployment.url}/v1/models/shop:predict"
    for host in ("shop.headrace", f"shop.headrace:{deployment.port}"):
        answer = deployment.client.post(url, json={}, headers={"host": host})
        assert name_of(answer) == "blue"


def call(deployment: Deployment, user: str, timeout: float = 20) -> tuple[str, str]:
    options = [("grpc.default_authority", "shop.headrace"), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{deployment.port}", options=options) as channel:
        predict = channel.unary_unary(METHOD)
        answer, done = predict.with_call(
            b"request", metadata=[("x-user-id", user)], timeout=timeout
        )
        variant = dict(done.initial_metadata())["x-headrace-variant"]
    return answer.decode(), str(variant)


def test_grpc_takes_the_same_way_on_the_same_port(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.begin(3)
    for user in USERS[:40]:
        name, variant = call(deployment, user)
        assert (variant == "candidate") is is_candidates(deployment, user)
        assert variant == "candidate" or name == "blue"
    (user,) = users_of_candidate(deployment, 1)
    eventually(lambda: call(deployment, user) == ("green", "candidate"))


def _unavailable(mood: Mood) -> None:
    mood.status, mood.grpc_status = 503, grpc.StatusCode.UNAVAILABLE


def _throws(mood: Mood) -> None:
    mood.status, mood.grpc_status = 500, grpc.StatusCode.UNKNOWN


def _lost_the_model(mood: Mood) -> None:
    mood.status, mood.grpc_status = 404, grpc.StatusCode.NOT_FOUND


def _redirects(mood: Mood) -> None:
    mood.status, mood.grpc_status = 302, grpc.StatusCode.ABORTED


def _wants_other_inputs(mood: Mood) -> None:
    mood.status, mood.grpc_status = 400, grpc.StatusCode.INVALID_ARGUMENT


def _hangs(mood: Mood) -> None:
    mood.delay_seconds = 30


def _resets(mood: Mood) -> None:
    mood.reset, mood.grpc_status = True, grpc.StatusCode.INTERNAL


def _talks_garbage(mood: Mood) -> None:
    mood.garbage, mood.grpc_status = True, grpc.StatusCode.DATA_LOSS


def _dies_in_the_middle_of_its_answer(mood: Mood) -> None:
    mood.half = True


def _hangs_in_the_middle_of_its_answer(mood: Mood) -> None:
    mood.half, mood.half_seconds = True, 30


ILLS = (
    _unavailable,
    _throws,
    _lost_the_model,
    _redirects,
    _wants_other_inputs,
    _hangs,
    _resets,
    _talks_garbage,
    _dies_in_the_middle_of_its_answer,
    _hangs_in_the_middle_of_its_answer,
)


@pytest.mark.parametrize("ill", ILLS, ids=lambda ill: ill.__name__.strip("_").replace("_", " "))
def test_no_user_pays_for_a_candidate_that(deployment: Deployment, ill: object) -> None:
    deployment.first_release()
    deployment.begin(3)
    users = users_of_candidate(deployment, 60)
    ill(deployment.candidate.mood)  # type: ignore[operator]
    answers = ask_many(deployment, users)
    assert Counter(name_of(answer) for answer in answers) == {"blue": 60}
    assert {answer.headers["x-headrace-variant"] for answer in answers} == {"candidate"}
    assert deployment.candidate.mood.asked > 0
    assert [call(deployment, user) for user in users[:5]] == [("blue", "candidate")] * 5


@pytest.mark.parametrize("ill", ILLS, ids=lambda ill: ill.__name__.strip("_").replace("_", " "))
def test_no_user_pays_for_a_candidate_that_too_late_while_stable_takes_long(
    deployment: Deployment, ill: object
) -> None:
    """What the candidate answers after its time limit must not meet the try of stable beside it."""
    deployment.first_release()
    deployment.begin(3, per_try_timeout_ms=80)
    users = users_of_candidate(deployment, 8)
    deployment.stable.mood.delay_seconds = 0.3
    deployment.candidate.mood.delay_seconds = 0.1
    ill(deployment.candidate.mood)  # type: ignore[operator]
    answers = ask_many(deployment, users * 2)
    assert {name_of(answer) for answer in answers} == {"blue"}
    with ThreadPoolExecutor(4) as pool:
        called = list(pool.map(partial(_called, deployment), users))
    # An RPC that began well and breaks off beside a try of stable is the one failure passed on,
    # where it breaks off before stable has answered.
    passed_on = {"UNAVAILABLE"} if ill is _dies_in_the_middle_of_its_answer else set()
    assert set(called) <= {"blue"} | passed_on
    assert deployment.envoy.poll() is None, "the router lives"


def _called(deployment: Deployment, user: str) -> str:
    try:
        return call(deployment, user)[0]
    except grpc.RpcError as error:
        return str(error.code().name)


def test_no_user_pays_for_a_bad_candidate_when_a_try_of_stable_breaks_off(
    deployment: Deployment,
) -> None:
    deployment.first_release()
    deployment.begin(3)
    (user,) = users_of_candidate(deployment, 1)
    deployment.candidate.mood.status = 500
    deployment.stable.mood.resets_left = 1
    answer = deployment.ask(user, **{"x-request-id": "broke-off"})
    assert name_of(answer) == "blue"
    assert deployment.lines_of({"broke-off"})[0]["attempts"] == 4  # each asked twice, in turns


def test_no_user_pays_for_a_candidate_that_is_gone(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.begin(3)
    users = users_of_candidate(deployment, 60)
    deployment.candidate.stop()
    assert {name_of(answer) for answer in ask_many(deployment, users)} == {"blue"}
    assert [call(deployment, user)[0] for user in users[:5]] == ["blue"] * 5


def test_no_user_pays_for_a_candidate_that_dies_under_load(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.begin(3)
    users = users_of_candidate(deployment, 30) * 20
    timer = threading.Timer(0.3, deployment.candidate.stop)
    timer.start()
    names = Counter(name_of(answer) for answer in ask_many(deployment, users))
    timer.join()
    assert names["green"] > 0
    assert names["blue"] > 0
    assert sum(names.values()) == 600


def test_a_slow_candidate_that_answers_in_the_end_is_no_failure_when_stable_is_slow_too(
    deployment: Deployment,
) -> None:
    deployment.first_release()
    deployment.begin(3, per_try_timeout_ms=30)
    deployment.candidate.mood.delay_seconds = 0.2
    deployment.stable.mood.delay_seconds = 0.4
    (user,) = users_of_candidate(deployment, 1)
    assert name_of(deployment.ask(user)) == "green"  # the first attempt went on beside the second


def test_a_hanging_candidate_costs_its_time_limit_and_is_soon_not_asked(
    deployment: Deployment,
) -> None:
    deployment.first_release()
    deployment.begin(3, per_try_timeout_ms=80)
    deployment.candidate.mood.delay_seconds = 30
    users = users_of_candidate(deployment, 20)
    times = []
    for user in users:
        started = time.monotonic()
        deployment.ask(user)
        times.append(time.monotonic() - started)
    assert max(times) < 1.0
    assert deployment.candidate.mood.asked < len(users)  # ejected after five


def test_the_log_tells_the_assigned_variant_and_who_answered(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.begin(3)
    deployment.candidate.mood.status = 503
    (user,) = users_of_candidate(deployment, 1)
    deployment.ask(user, **{"x-request-id": "fell-back"})
    line = deployment.lines_of({"fell-back"})[0]
    found = {name: line[name] for name in ("variant", "slot", "code", "rollout", "step", "model")}
    assert found == {
        "variant": "candidate",
        "slot": "blue",
        "code": 200,
        "rollout": "r2",
        "step": "3",
        "model": "shop",
    }
    assert line["attempts"] == 2


def test_a_large_body_is_repeated_whole_and_a_larger_one_meets_stable(
    deployment: Deployment,
) -> None:
    deployment.first_release()
    deployment.begin(3)
    deployment.candidate.mood.status = 503
    (user,) = users_of_candidate(deployment, 1)
    headers = {"x-model": "shop", "x-user-id": user}
    url = f"{deployment.url}/v1/models/shop:predict"
    large = deployment.client.post(url, content=b"x" * 3_000_000, headers=headers)
    assert name_of(large) == "blue"
    assert deployment.stable.mood.bodies[-1] == 3_000_000
    assert large.headers["x-headrace-variant"] == "candidate"
    larger = deployment.client.post(url, content=b"x" * 5_000_000, headers=headers)
    assert name_of(larger) == "blue"
    assert larger.headers["x-headrace-variant"] == "stable"


def test_a_request_that_could_not_meet_the_candidate_is_in_neither_arm_whatever_the_bucket(
    deployment: Deployment,
) -> None:
    deployment.first_release()
    deployment.begin(2)  # 25 %
    users = USERS[:60]
    url = f"{deployment.url}/v1/models/shop"

    def send(user: str, kind: str) -> str:
        sent = {"x-model": "shop", "x-user-id": user, "x-request-id": f"{kind}-{user}"}
        client = deployment.client
        if kind == "chunked":
            answer = client.post(f"{url}:predict", content=iter([b"{", b"}"]), headers=sent)
        elif kind == "get":
            answer = client.get(url, headers=sent)
        elif kind == "long":
            answer = client.post(f"{url}:predict", content=b"x" * 5_000_000, headers=sent)
        else:
            answer = client.post(f"{url}:predict", json={}, headers=sent)
        return variant_of(answer)

    by_bucket = {
        user: "candidate" if is_candidates(deployment, user) else "stable" for user in users
    }
    inside = next(user for user in users if by_bucket[user] == "candidate")
    outside = next(user for user in users if by_bucket[user] == "stable")
    asked = [(user, kind) for user in users for kind in ("usual", "chunked")]
    asked += [(user, kind) for user in (inside, outside) for kind in ("get", "long")]
    for user, kind in asked:
        assert send(user, kind) == (by_bucket[user] if kind == "usual" else "stable")
    deployment.lines_of({f"{kind}-{user}" for user, kind in asked})
    folder = deployment.state_dir / "shop" / "traffic" / "r2"
    eventually(lambda: len(list(read_exposures(folder))) >= len(asked))
    found = {line["request_id"]: line["variant"] for line in read_exposures(folder)}
    assert found == {
        f"{kind}-{user}": by_bucket[user] if kind == "usual" else "neither" for user, kind in asked
    }


def test_a_long_answer_reaches_its_user_whole_held_or_not(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.begin(3, per_try_timeout_ms=20_000)  # a busy machine must not fall back
    (user,) = users_of_candidate(deployment, 1)
    for number_of_bytes in (3_000_000, 2 * WHOLE_ANSWER_BYTES):
        deployment.candidate.mood.padding_bytes = number_of_bytes
        answer = deployment.ask(user)
        assert name_of(answer) == "green"
        assert len(answer.content) > number_of_bytes


def test_a_late_refusal_is_passed_on_only_when_stable_refuses_too(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.begin(3, per_try_timeout_ms=20_000)  # a busy machine must not fall back
    (user,) = users_of_candidate(deployment, 1)
    mood = deployment.candidate.mood
    mood.half, mood.half_status = True, grpc.StatusCode.INVALID_ARGUMENT
    assert call(deployment, user) == ("blue", "candidate")
    deployment.stable.mood.grpc_status = grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as refused:
        call(deployment, user)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_routes_are_swapped_without_a_failed_request(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.begin(1)
    stop, codes = threading.Event(), Counter[int]()

    def load(worker: int) -> None:
        with httpx.Client(trust_env=False, timeout=40) as client:
            number = 0
            while not stop.is_set():
                headers = {"x-model": "shop", "x-user-id": f"w{worker}-{number % 500}"}
                url = f"{deployment.url}/v1/models/shop:predict"
                codes[client.post(url, json={}, headers=headers).status_code] += 1
                number += 1

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    deployment.begin(2)
    deployment.begin(3)
    for _ in range(20):
        deployment.state.renew("second", 60)
        time.sleep(0.06)
    deployment.state.roll_back("second")
    deployment.settle()
    stop.set()
    for thread in threads:
        thread.join()
    assert set(codes) == {200}
    assert codes[200] > 200


def test_promotion_and_rollback_move_all_users(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.begin(3)
    deployment.state.record_verdict("second", 3, Decision.SHIP, numbers={})
    deployment.state.promote("second")
    eventually(lambda: {name_of(deployment.ask(user)) for user in USERS[:20]} == {"green"})
    deployment.state.roll_back("second")
    eventually(lambda: {name_of(deployment.ask(user)) for user in USERS[:20]} == {"blue"})


def test_a_lease_that_nobody_renews_ends_the_share(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.begin(1, plan=replace(PLAN, lease_seconds=2))
    users = users_of_candidate(deployment, 1)
    assert name_of(deployment.ask(users[0])) == "green"
    began = time.monotonic()
    deployment.state.renew("second", 2)
    eventually(lambda: name_of(deployment.ask(users[0])) == "blue", seconds=5)
    assert 1.5 < time.monotonic() - began < 4
    eventually(lambda: deployment.state.peek().status.phase is Phase.PAUSED)
    assert deployment.state.history()[-1].who == "keeper"
    assert deployment.state.verify() == []
    deployment.state.renew("second", 60)
    eventually(lambda: name_of(deployment.ask(users[0])) == "green")


def test_without_a_keeper_envoy_itself_refuses_the_candidate_past_the_expiry(
    deployment: Deployment,
) -> None:
    deployment.first_release()
    deployment.begin(1, plan=replace(PLAN, lease_seconds=3))
    (user,) = users_of_candidate(deployment, 1)
    deployment.keeper_stop.set()
    deployment.keeper_thread.join()
    assert name_of(deployment.ask(user)) == "green"
    eventually(lambda: name_of(deployment.ask(user)) == "blue", seconds=6)
    assert deployment.state.peek().status.phase is Phase.STEPPING  # nobody told the record


def test_envoy_survives_a_routes_file_that_is_no_json(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.keeper_stop.set()
    deployment.keeper_thread.join()
    good = deployment.files.routes.read_text()
    scratch = deployment.files.routes.with_name("x")
    scratch.write_text("{")
    scratch.replace(deployment.files.routes)
    time.sleep(0.3)
    assert name_of(deployment.ask("ann")) == "blue"
    assert json.loads(good)["resources"]


def test_a_long_log_is_set_aside_without_losing_an_exposure(deployment: Deployment) -> None:
    deployment.first_release()
    deployment.begin(3)
    deployment.keeper_stop.set()
    deployment.keeper_thread.join()
    files = deployment.files
    lander = ExposureLander(
        state_dir=deployment.state_dir,
        key=b"key",
        reopen=lambda: reopen_log(files),
        max_log_bytes=20_000,
    )
    asked = 0
    while asked < 600:
        ask_many(deployment, USERS[:100])
        asked += 100
        lander.land()
    folder = deployment.state_dir / "shop" / "traffic" / "r2"

    def all_landed() -> bool:
        lander.land()
        return len(list(read_exposures(folder))) == asked

    eventually(all_landed)

    def forgotten() -> bool:
        lander.land()
        return sum(path.stat().st_size for path in files.folder.glob("access*")) < 20_000

    eventually(forgotten)  # the log names users; the exposures do not
