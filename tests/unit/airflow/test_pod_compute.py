"""Which node pool, amounts and image a stage's pod gets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from airflow.sdk.exceptions import (
    AirflowFailException,
)
from headrace_airflow.compute_choice import read_compute

from tasks.contracts.errors import BadRequestError
from tasks.contracts.image_tags import image_tag
from tasks.contracts.stages import Stage
from tests.fake_kubernetes import node, status
from tests.unit.airflow.pod_world import World


def on_gpu_nodes(world: World) -> None:
    """Let the stage's place be the pool for training."""
    text = '{"format": "compute_profiles/1", "stages": {"train_model": {"profile": "gpu-train"}}}'
    world.deployment = replace(world.deployment, compute=read_compute(text, "test"))
    world.stage = Stage.TRAIN_MODEL


def test_the_deployments_pool_decides_node_and_image(world: World) -> None:
    on_gpu_nodes(world)
    world.fake.nodes = [node("gpu", {"headrace/pool": "gpu-train"})]
    world.ends(0, world.sealed())
    world.operator().execute(world.context)
    spec = world.fake.created[0]["spec"]
    assert spec["nodeSelector"] == {"headrace/pool": "gpu-train"}
    assert spec["containers"][0]["image"] == "r/headrace-torch-cuda:1"
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_a_deployment_that_says_two_ranks_gets_a_group_of_two(world: World) -> None:
    text = '{"format": "compute_profiles/1", "stages": {"train_model": {"ranks": 2}}}'
    world.deployment = replace(world.deployment, compute=read_compute(text, "test"))
    world.stage = Stage.TRAIN_MODEL
    operator = world.operator()
    assert operator.ranks == 2
    assert operator.cmds == ["python", "-m", "tasks.training.launch", "tasks"]
    world.stage = Stage.COMPRESS_MODEL
    assert (world.operator().ranks, world.operator().cmds) == (1, [])


def test_ranks_of_a_stage_that_shares_nothing_are_refused_at_parse(world: World) -> None:
    world.stage = Stage.COMPRESS_MODEL
    with pytest.raises(BadRequestError, match="compress_model: expected ranks=1, or 2 to 64 for"):
        world.operator(ranks=2)


def test_a_pod_takes_the_image_that_was_built_from_the_code_that_airflow_has(world: World) -> None:
    assert world.deployment.pods is not None
    pods = replace(world.deployment.pods, images="r/{image}:{tag}")
    world.deployment = replace(world.deployment, pods=pods)
    world.ends(0, world.sealed())
    operator = world.operator()
    assert operator.image == "r/rollout:{tag}"  # a parse reads no sources
    operator.execute(world.context)
    image = world.fake.created[0]["spec"]["containers"][0]["image"]
    assert image == operator.image == f"r/rollout:{image_tag('rollout')}"


def test_a_pod_that_no_node_can_ever_hold_is_refused_before_it_is_made(world: World) -> None:
    on_gpu_nodes(world)
    with pytest.raises(
        AirflowFailException, match="1 without the label headrace/pool=gpu-train; make"
    ):
        world.operator().execute(world.context)
    assert world.fake.created == []


def test_nodes_that_could_not_be_listed_ahead_are_asked_for_again(world: World) -> None:
    on_gpu_nodes(world)
    world.fake.nodes = [node("gpu", {"headrace/pool": "gpu-train"})]
    faults = [(500, status(500, "InternalError"), {})]
    world.fake.fault = lambda method, path: faults.pop() if "/nodes" in path and faults else None
    world.ends(0, world.sealed())
    world.operator().execute(world.context)
    assert sum("/nodes" in one for one in world.fake.asked) == 2
    assert len(world.fake.created) == 1


def test_who_may_not_see_nodes_waits_instead(world: World) -> None:
    on_gpu_nodes(world)
    world.fake.fault = lambda method, path: (
        (403, status(403, "Forbidden", kind="nodes"), {}) if "/nodes" in path else None
    )
    world.ends(0, world.sealed())
    world.operator().execute(world.context)
    assert len(world.fake.created) == 1


@pytest.mark.parametrize(
    ("asked", "selector", "image"),
    (
        pytest.param(None, None, "torch", id="the deployment's own"),
        pytest.param(
            {"train_model": {"profile": "spot-gpu"}}, "spot-gpu", "torch-cuda", id="another pool"
        ),
        pytest.param({"build_features": {"cpu_cores": 3}}, None, "torch", id="of another stage"),
    ),
)
def test_a_runs_form_chooses_the_pool_and_with_it_the_image(
    world: World, asked: Any, selector: str | None, image: str
) -> None:
    world.stage = Stage.TRAIN_MODEL
    world.params = {"compute": asked}
    world.fake.nodes.append(node("spot", {"headrace/pool": "spot-gpu"}))
    world.ends(0, world.sealed())
    world.operator().execute(world.context)
    spec = world.fake.created[0]["spec"]
    assert spec["nodeSelector"].get("headrace/pool") == selector
    assert spec["containers"][0]["image"] == f"r/headrace-{image}:1"


def test_a_runs_form_cannot_go_beyond_its_deployment(world: World) -> None:
    world.params = {"compute": {"promote_release": {"profile": "gpu-train"}}}
    with pytest.raises(AirflowFailException, match="promote_release"):
        world.operator().execute(world.context)
    assert world.fake.created == []


def test_a_pod_gets_the_compute_that_the_deployment_names_for_its_stage(world: World) -> None:
    assert world.operator().compute.cpu_cores == 0.5
    text = '{"format": "compute_profiles/1", "stages": {"promote_release": {"cpu_cores": 3}}}'
    world.deployment = replace(world.deployment, compute=read_compute(text, "compute.json"))
    assert world.operator().compute.cpu_cores == 3
