"""The release DAG with a pod for every stage: a first release, and a candidate through its steps.

`make cluster-release`; it takes minutes. What it needs and what it showed: docs/runbooks/pods.md
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.adapters.artifact_store import ArtifactStore
from tasks.adapters.object_store import ObjectStore
from tasks.contracts.artifacts import Address
from tasks.contracts.stages import STAGE_FACTS, Stage
from tests.cluster.airflow_parts import patiently
from tests.cluster.built_images import demand_images
from tests.cluster.release_world import (
    Released,
    ReleaseWorld,
    release_world,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
STEPS = (1, 2, 3)  # of the plan `replay`
WITHOUT_PODS = frozenset({"approval", "hold_share", "released"})


@pytest.fixture(scope="module")
def world(cluster: None) -> Iterator[ReleaseWorld]:
    demand_images()
    scratch = os.environ.get("HEADRACE_SCRATCH")
    with release_world(Path(tempfile.mkdtemp(prefix="headrace-release-", dir=scratch))) as made:
        yield made


@pytest.fixture(scope="module")
def first(world: ReleaseWorld) -> Released:
    return world.release("popularity")


@pytest.fixture(scope="module")
def second(world: ReleaseWorld, first: Released) -> Released:
    assert first.state == "success", first.log
    return world.release(os.environ.get("HEADRACE_RELEASE_RECIPE", "blended_transformer"))


def assert_promoted_by_sealed_work(world: ReleaseWorld, run: Released, number: int) -> None:
    print(f"release {number}: {run.state} in {run.took:.0f} s, {len(run.pods)} pods")
    for task_id, seconds in run.seconds.items():
        if run.tasks[task_id] != "skipped":
            print(f"  {task_id:<24} {run.tasks[task_id]:<8} {seconds:6.1f} s")
    assert (run.state, run.tasks["promote_release"]) == ("success", "success"), run.log
    assert run.tasks["mirror_release"] == "success"  # it would be skipped, and fail nothing
    green = {one for one, state in run.tasks.items() if state == "success"}
    worked = {one for one in green - WITHOUT_PODS if not one.endswith(".bake")}
    store = ArtifactStore(ObjectStore(world.store_url), cache=world.folder / "seen")
    for task_id in worked:
        manifest = store.manifest(Address.parse(run.addresses[task_id]))
        assert STAGE_FACTS[manifest.stage].produces is manifest.kind
        assert manifest.stage is _stage_of(task_id), task_id
        payload = store.fetch(manifest)  # verifies every byte
        if manifest.stage is Stage.MIRROR_RELEASE:
            told = json.loads((payload / "mirror.json").read_text())
            assert (told["status"], told["release_status"]) == ("mirrored", "promoted")
    # A pod a try, no more: a stage that lost the store for a while was tried again.
    assert Counter(key.task_id for key in run.pods) == {one: run.tries[one] for one in worked}
    stable = world.state.peek().stable
    assert stable is not None
    assert stable.release_number == number
    assert patiently(lambda: world.served_version() == number, 30, "the new model's answers")
    verified = world.command("tasks.cli", "verify", str(number), "--model", world.model)
    assert verified.returncode == 0, verified.stdout
    print(verified.stdout)


def _stage_of(task_id: str) -> Stage:
    name = task_id.rpartition(".")[2]
    return Stage.GATE_ARTIFACT if name.startswith("gate_") else Stage(name)


def assert_judged_steps(world: ReleaseWorld, run: Released) -> None:
    """Each step began, was baked, judged and gated; a second release was promoted."""
    for step in STEPS:
        for task in ("shift_traffic", "bake", "judge_step", "gate_step"):
            assert run.tasks[f"step_{step}.{task}"] == "success", run.log
    kinds = [entry.kind for entry in world.state.history()]
    assert kinds.count("step_began") == kinds.count("judged") == len(STEPS)
    assert kinds.count("promoted") == 2


def test_a_first_release_is_promoted_by_pods_alone(world: ReleaseWorld, first: Released) -> None:
    assert_promoted_by_sealed_work(world, first, 1)
    assert first.tasks["step_1.shift_traffic"] == "skipped"


def test_a_candidate_meets_its_users_in_steps_and_is_promoted(
    world: ReleaseWorld, second: Released
) -> None:
    assert_judged_steps(world, second)
    assert_promoted_by_sealed_work(world, second, 2)


def test_no_pod_is_left(world: ReleaseWorld, second: Released) -> None:
    reaped = world.command("headrace_airflow.reaper", "--grace-seconds", "1")
    assert reaped.returncode == 0, reaped.stdout + reaped.stderr
    assert [pod.metadata.name for pod in world.pods()] == []
