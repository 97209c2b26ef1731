"""The release DAG in pods against an installed chart: two releases promoted, and the reaper beside them.

What the chart gives Airflow is all that it has here. `make cluster-release` plays all of it; `make
cluster-test` the first release and the reaper, with Airflow's tasks waiting themselves.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.contracts.image_tags import AIRFLOW
from tasks.rollout.exposure_files import read_exposures
from tasks.rollout.exposures import read_lines
from tests.cluster.airflow_parts import patiently
from tests.cluster.built_images import STAGES, demand_images
from tests.cluster.chart_release import GRACE_SECONDS, ChartRelease, chart_release
from tests.cluster.chart_world import LONG, MODEL, ChartWorld, find_program
from tests.cluster.release_world import Released
from tests.cluster.test_release_in_pods import (
    STEPS,
    assert_judged_steps,
    assert_promoted_by_sealed_work,
)

pytestmark = [pytest.mark.timeout(3600 if LONG else 1200)]
RECIPE = os.environ.get("HEADRACE_RELEASE_RECIPE", "blended_transformer")
ROLLOUT, STAGE = "headrace-rollout", "headrace-stage"
ALWAYS_ROLLOUT = {"request_release", "stage_bundle", "promote_release", "mirror_release"}
IMAGES = (*STAGES, AIRFLOW)


@pytest.fixture(scope="module")
def world(cluster: None) -> Iterator[ChartRelease]:
    demand_images(IMAGES)
    folder = Path(
        tempfile.mkdtemp(prefix="headrace-chart-", dir=os.environ.get("HEADRACE_SCRATCH"))
    )
    chart = ChartWorld(
        folder=folder,
        kubectl_path=find_program("kubectl"),
        helm_path=find_program("helm"),
        images=IMAGES,
    )
    with chart_release(chart, deferrable=LONG) as made:
        yield made


@pytest.fixture(scope="module")
def run_id(world: ChartRelease) -> str:
    assert world.served_version() == 0
    return world.begin("popularity")


@dataclass(frozen=True, kw_only=True)
class Reaped:
    """What the reaper did while the first release worked."""

    said: str
    left: set[str]


@pytest.fixture(scope="module")
def reaped(world: ChartRelease, run_id: str) -> Reaped:
    patiently(
        lambda: world.task_states(run_id)["request_release"] == "success", 300, "a first task"
    )
    world.plant("planted-orphan", world.key_of(run_id, "request_release"))
    world.plant("planted-early", world.key_of(run_id, "promote_release"))
    world.plant("planted-stranger", None)
    patiently(lambda: world.age_of("planted-stranger") > GRACE_SECONDS, 60, "the grace time")
    return Reaped(said=world.reap("reap-once"), left=world.planted())


@pytest.fixture(scope="module")
def first(world: ChartRelease, run_id: str, reaped: Reaped) -> Released:
    return world.ended(run_id)


@pytest.fixture(scope="module")
def second(world: ChartRelease, first: Released) -> Released:
    assert first.state == "success", first.log
    return world.release(RECIPE)


def test_beside_a_release_the_reaper_takes_pods_of_ended_tasks_and_no_others(
    reaped: Reaped,
) -> None:
    """Those of the release are left alone as well: the next test wants one pod a try."""
    assert reaped.left == {"planted-early", "planted-stranger"}
    lines = [line for line in reaped.said.splitlines() if "planted" in line]
    (line,) = lines
    assert line.startswith("pod planted-orphan (uid ")
    assert line.endswith(" is removed: its task is success")


def test_a_first_release_is_promoted_by_pods_with_what_the_chart_gives_them(
    world: ChartRelease, first: Released
) -> None:
    assert_promoted_by_sealed_work(world, first, 1)
    said = world.chart.helm("test", "reco", "--logs", "--timeout", "120s")
    assert "recommender: serves: 200" in said
    assert world.watch.accounts.keys() == {STAGE, ROLLOUT}
    assert world.watch.accounts[ROLLOUT] == ALWAYS_ROLLOUT


@pytest.mark.slow
def test_a_candidate_meets_the_users_of_the_charts_router_in_steps_and_is_promoted(
    world: ChartRelease, second: Released
) -> None:
    assert_judged_steps(world, second)
    assert_promoted_by_sealed_work(world, second, 2)
    (folder,) = (one for one in (world.state_dir / MODEL / "traffic").iterdir() if one.is_dir())
    outcomes = list(read_lines(folder / "outcomes.jsonl"))
    variants = Counter(line["variant"] for line in outcomes)
    print(f"users of the steps: {len(outcomes)} requests, {dict(variants)}")
    assert variants.keys() == {"stable", "candidate"}
    assert not any(line["failed"] for line in outcomes)
    assert len(list(read_exposures(folder))) >= len(outcomes)
    in_steps = {f"step_{step}.{name}" for step in STEPS for name in ("shift_traffic", "judge_step")}
    assert world.watch.accounts[ROLLOUT] == ALWAYS_ROLLOUT | in_steps
