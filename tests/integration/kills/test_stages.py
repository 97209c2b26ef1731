"""Each stage killed at random moments of its time, then run again: the end is the undisturbed one.

The long form, 20 kills a stage, is `make kills`; its figures are in docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tasks.contracts.stages import Stage
from tests.integration.kills.driver import Tally, kill_often
from tests.integration.kills.kill_world import LEAST_RESUMED, WITH_EFFECTS, KillWorld, kill_world

pytestmark = [pytest.mark.trial, pytest.mark.timeout(900)]
SEED = 20261125
# Once where most of a second is spent on importing a framework, twice elsewhere.
SLOW = frozenset({Stage.BUNDLE_MODEL, Stage.EVALUATE_MODEL, Stage.GATE_ARTIFACT})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillWorld]:
    with kill_world(tmp_path_factory.mktemp("kills")) as made:
        yield made


@pytest.fixture(scope="module")
def tallies(world: KillWorld) -> dict[Stage, Tally]:
    """Stages without effects run beside each other; those with effects share one state."""
    with ThreadPoolExecutor(2) as pool:
        pure = [stage for stage in Stage if stage not in WITH_EFFECTS]
        found = {stage: pool.submit(kills_of, world, stage) for stage in pure}
        shared: Future[dict[Stage, Tally]] = pool.submit(
            lambda: {stage: kills_of(world, stage) for stage in Stage if stage in WITH_EFFECTS}
        )
        return {stage: tally.result() for stage, tally in found.items()} | shared.result()


def kills_of(world: KillWorld, stage: Stage) -> Tally:
    return kill_often(world.subject(stage), 1 if stage in SLOW else 2, SEED)


@pytest.mark.parametrize("stage", list(Stage), ids=[f"{s.value} ends undisturbed" for s in Stage])
def test_a_stage_killed_at_any_moment_ends_as_if_undisturbed_when_it_is_run_again(
    tallies: dict[Stage, Tally], stage: Stage
) -> None:
    tally = tallies[stage]
    assert tally.trouble == []
    assert tally.kills == tally.equal == (1 if stage in SLOW else 2)
    assert len(tally.resumed) >= (stage in LEAST_RESUMED), "no kill met a checkpoint"
