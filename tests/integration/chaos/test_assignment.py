"""The running router and the library put the same users in the same bucket."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest

from tasks.rollout.assignment import bucket_of
from tasks.rollout.step_users import StepUsers
from tests.integration.chaos.load import Asked, Users, ask_each
from tests.integration.chaos.trials import begin_share
from tests.integration.chaos.world import MODEL, World, eventually, world

pytestmark = [pytest.mark.integration, pytest.mark.trial]
NAMES = [f"user-{number}" for number in range(20_000)]


def ask_all(router: World, names: list[str]) -> list[Asked]:
    file = io.StringIO()
    asyncio.run(ask_each(Users(router.port, MODEL, file), names))
    return [Asked(**json.loads(line)) for line in file.getvalue().splitlines()]


def logged_buckets(router: World, rollout: str) -> dict[str, int]:
    text = router.files.access_log.read_text()
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return {
        one["user_id"]: StepUsers.parse(one["step_users"]).bucket_of(one["user_id"])
        for one in lines
        if one["rollout"] == rollout
    }


def test_twenty_thousand_users_meet_whom_the_library_says(tmp_path: Path) -> None:
    with world(tmp_path) as router:
        rollout = begin_share(router, router.new_candidate())
        salt = router.state.peek().salt or ""
        eventually(
            lambda: ask_all(router, ["ann"])[0].step == f"{rollout}:2", 10, "the step in the router"
        )
        asked = ask_all(router, NAMES)
        eventually(lambda: len(logged_buckets(router, rollout)) > len(NAMES), 20, "the whole log")
        logged = logged_buckets(router, rollout)
    library = {name: bucket_of(salt, name) for name in NAMES}
    assert all(one.right for one in asked)
    assert {one.user: one.variant for one in asked} == {
        name: "candidate" if bucket < 2500 else "stable" for name, bucket in library.items()
    }
    assert {name: logged[name] for name in NAMES} == library
