"""The running router gives each user to the variant that the library says, at every share."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.rollout.assignment import bucket_of
from tests.integration.chaos.load import Asked, Users, ask_each
from tests.integration.chaos.world import MODEL, PLAN, World, eventually, world

pytestmark = [pytest.mark.integration, pytest.mark.trial]
NAMES = [f"user-{number}" for number in range(20_000)]
SHARES = (100, 500, 2500, 5000)  # 1, 5, 25 and 50 %: a bucket is pinned between two of them
RAMP, SHIP = (replace(step, replay_share=0.0) for step in (PLAN.steps[0], PLAN.steps[-1]))
STEPS = (*(replace(RAMP, share_basis_points=share) for share in SHARES[:-1]), SHIP)


def ask_all(router: World, names: list[str]) -> list[Asked]:
    file = io.StringIO()
    asyncio.run(ask_each(Users(router.port, MODEL, file), names))
    return [Asked(**json.loads(line)) for line in file.getvalue().splitlines()]


def variants_at(router: World, release: str, step: int) -> dict[str, str]:
    """Take the release to a step; return the variant that the router gives each user."""
    router.begin(release, step)
    served = f"{router.state.peek().rollout}:{step}"
    eventually(lambda: ask_all(router, ["ann"])[0].step == served, 10, "the step in the router")
    asked = ask_all(router, NAMES)
    assert all(one.right for one in asked)
    assert {one.step for one in asked} == {served}
    return {one.user: one.variant for one in asked}


def test_twenty_thousand_users_meet_whom_the_library_says_at_every_share(tmp_path: Path) -> None:
    assert tuple(step.share_basis_points for step in STEPS) == SHARES
    met: set[str] = set()
    with world(tmp_path) as router:
        router.plan = replace(PLAN, steps=STEPS)
        release = router.new_candidate()
        for step, share in enumerate(SHARES, start=1):
            found = variants_at(router, release, step)
            salt = router.state.peek().salt or ""
            assert found == {
                name: "candidate" if bucket_of(salt, name) < share else "stable" for name in NAMES
            }
            now = {name for name, variant in found.items() if variant == "candidate"}
            assert met < now, "nobody moves back to stable"
            met = now
