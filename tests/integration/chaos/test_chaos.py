"""Short form of `make chaos`: each part once or twice; Envoy, keeper, slots and users are processes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.integration.chaos.faults import GRPC_FAULTS, REST_FAULTS, Fault
from tests.integration.chaos.keeper_kills import kill_keepers
from tests.integration.chaos.lapses import lapse_often
from tests.integration.chaos.trials import Met, fault_piece, healthy_piece
from tests.integration.chaos.world import World, world

pytestmark = [pytest.mark.integration, pytest.mark.trial]
WORST_SECONDS = 5.0
# By gRPC one of each kind; `make chaos` plays all.
SHORT = ("crashes", "answers UNAVAILABLE", "hangs", "protocol-invalid bytes")
FAULTS = (*REST_FAULTS, *(one for one in GRPC_FAULTS if one.name.endswith(SHORT)))


@pytest.fixture
def router(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def demand_answers(met: Met | None, at_least: int) -> None:
    assert met is not None
    assert met.failures == ()
    assert met.failed == 0
    assert met.requests > at_least


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_candidate_that_harms_is_out_in_seconds_and_costs_no_user(
    tmp_path: Path, fault: Fault
) -> None:
    with world(tmp_path, protocol=fault.protocol) as router:
        seen = fault_piece(router, fault, 2, random.Random(1))
    demand_answers(seen.met, 1000)
    assert len(seen.cuts) == 2
    for cut in seen.cuts:
        assert cut.why.startswith("cut by keeper")
        assert max(cut.in_record_seconds, cut.in_router_seconds) <= WORST_SECONDS
        print(f"{fault.name}: {asdict(cut)}")


def test_a_healthy_candidate_keeps_its_share(router: World) -> None:
    seen = healthy_piece(router, 20, seed=2)
    demand_answers(seen.met, 3000)
    assert seen.cuts == []


def test_the_keepers_death_gives_nobody_to_a_candidate_beyond_the_plan(router: World) -> None:
    seen = kill_keepers(router, 8, random.Random(3))
    demand_answers(seen.met, 1000)
    assert seen.kills == 8
    assert seen.exposed > 50
    assert seen.exposed_after_the_last_kill > 0
    assert seen.beyond_the_plan == []
    assert seen.healthy_cut == []


def test_a_lease_that_nobody_renews_any_more_lapses_in_time_and_can_be_resumed(
    tmp_path: Path,
) -> None:
    with world(tmp_path, lease_seconds=5) as router:
        seen = lapse_often(router, 1, random.Random(4))
    demand_answers(seen.met, 3000)
    assert [lapse.moment for lapse in seen.lapses] == ["a 5 % step", "the approval"]
    for lapse in seen.lapses:
        assert max(lapse.in_record_seconds, lapse.in_router_seconds) <= 5 + 2
        assert (lapse.phase, lapse.resumed) == ("paused", True)
