"""Nobody cuts a candidate that is slower than one try: what does it cost the users of stable?

There is no breaker, since Envoy does not ask stable for what overflows. What bounds the candidate's
part is that a try ends when stable has answered, and that slots share no connection.
"""

from __future__ import annotations

import http.client
import statistics
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from tasks.rollout.envoy import admin_address
from tests.integration.chaos.load import Asked
from tests.integration.chaos.slot import Ill
from tests.integration.chaos.trials import begin_share
from tests.integration.chaos.world import (
    PER_TRY_TIMEOUT_MS,
    Protocol,
    World,
    eventually,
    world,
)

pytestmark = [pytest.mark.integration, pytest.mark.trial]
PERIOD_SECONDS = 8.0
MOST_AT_THE_CANDIDATE = 100  # 50 rps are its share; a pile in 8 s would be 400


def at_the_candidate(router: World) -> int:
    """Return how many tries are open there."""
    name = f"cluster.shop.green.{router.protocol}.candidate.upstream_rq_active"
    connection = http.client.HTTPConnection(*admin_address(router.files), timeout=5)
    with closing(connection):
        connection.request("GET", f"/stats?filter=^{name}$")
        return int(connection.getresponse().read().decode().rpartition(":")[2])


def median_ms(asked: Iterable[Asked], variant: str, began: float, ended: float) -> float:
    took = [
        (one.ended - one.due) * 1000
        for one in asked
        if one.variant == variant and began <= one.due < ended
    ]
    assert len(took) > 100
    return statistics.median(took)


@pytest.mark.parametrize("protocol", ("rest", "grpc"))
@pytest.mark.parametrize("ill", (Ill.SLOWER, Ill.HANGS))
def test_a_candidate_slower_than_one_try_takes_nothing_from_the_users_of_stable(
    tmp_path: Path, ill: Ill, protocol: Protocol
) -> None:
    with world(tmp_path, protocol=protocol) as router, router.users() as asked:
        begin_share(router, router.new_candidate())
        router.keeper.kill()  # or it would be out after a second
        began = time.monotonic()
        time.sleep(PERIOD_SECONDS)
        router.candidate.tell(ill)
        harmed = time.monotonic()
        most = 0
        while time.monotonic() < harmed + PERIOD_SECONDS:
            most = max(most, at_the_candidate(router))
            time.sleep(0.02)
        over = time.monotonic()
        eventually(lambda: at_the_candidate(router) < 20, 5, "no pile at the candidate")
    got = asked()
    before, during = (median_ms(got, "stable", *when) for when in ((began, harmed), (harmed, over)))
    candidates = median_ms(got, "candidate", harmed, over)
    print(f"{ill} {protocol}: stable {before:.0f} -> {during:.0f} ms, candidate's {candidates:.0f}")
    print(f"at most {most} tries open at the candidate")
    assert [one for one in got if not one.right] == []
    assert 0 < most < MOST_AT_THE_CANDIDATE
    assert during < max(2 * before, PER_TRY_TIMEOUT_MS / 2)
    assert candidates < 2 * PER_TRY_TIMEOUT_MS
