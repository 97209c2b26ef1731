"""Stable is replaced under load while the candidate keeps its users."""

from __future__ import annotations

import threading
from collections import Counter

import httpx
import pytest

from tasks.rollout.hotfix import apply_hotfix, reserve_hotfix
from tests.integration.rollout.conftest import Deployment, eventually
from tests.integration.rollout.test_router import ask_many, is_candidates, name_of

pytestmark = pytest.mark.integration
USERS = [f"user-{number}" for number in range(200)]


def test_a_hotfix_under_load_fails_no_request_and_moves_no_user_of_the_candidate(
    deployment: Deployment,
) -> None:
    deployment.first_release()
    deployment.begin(2, per_try_timeout_ms=20_000)  # a busy machine must not fall back
    mine = {user: is_candidates(deployment, user) for user in USERS}
    assert 20 < sum(mine.values()) < 80
    stop, seen = threading.Event(), Counter[tuple[int, str, str]]()

    def load(worker: int) -> None:
        with httpx.Client(trust_env=False, timeout=40) as client:
            number = worker
            while not stop.is_set():
                user = USERS[number % len(USERS)]
                url = f"{deployment.url}/v1/models/shop:predict"
                headers = {"x-model": "shop", "x-user-id": user}
                answer = client.post(url, json={}, headers=headers)
                kind = "candidate's" if mine[user] else "others"
                seen[(answer.status_code, kind, name_of(answer))] += 1
                number += 4

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: sum(seen.values()) > 100)
    reserved = reserve_hotfix(deployment.state, "fix")
    apply_hotfix(deployment.state, "fix", reserved.release_number)

    def others_meet_the_hotfix() -> bool:
        answers = dict(zip(USERS, ask_many(deployment, USERS), strict=True))
        assert {name_of(answers[user]) for user in USERS if mine[user]} == {"green"}
        return {name_of(answers[user]) for user in USERS if not mine[user]} == {"violet"}

    eventually(others_meet_the_hotfix, seconds=30)
    stop.set()
    for thread in threads:
        thread.join()
    assert {(code, kind, name) for code, kind, name in seen} <= {
        (200, "candidate's", "green"),
        (200, "others", "blue"),
        (200, "others", "violet"),
    }
    assert sum(seen.values()) > 200
    # The candidate falls back to the hotfixed stable.
    deployment.candidate.mood.status = 503
    user = next(user for user in USERS if mine[user])
    assert name_of(deployment.ask(user)) == "violet"
