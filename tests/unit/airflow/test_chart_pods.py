"""Stages' pods as the operator makes them by what our chart tells Airflow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import kubernetes_validate
import pytest
from headrace_airflow.deployment import read_deployment
from headrace_airflow.pod_roles import POD_ROLES, PodRole

from tasks.contracts.stages import Stage
from tests.unit.airflow.pod_world import World
from tests.unit.helm.flows import End, passes
from tests.unit.helm.rendered import NAMESPACE, ONE_NODE, Object, named, objects
from tests.unit.helm.rights import Ask, can
from tests.unit.helm.test_pod_security import RULES

ROLLOUT_STAGES = {
    Stage.REQUEST_RELEASE,
    Stage.STAGE_BUNDLE,
    Stage.SHIFT_TRAFFIC,
    Stage.JUDGE_STEP,
    Stage.PROMOTE_RELEASE,
    Stage.ROLL_BACK_RELEASE,
    Stage.HOTFIX_STABLE,
    Stage.MIRROR_RELEASE,
}
# The rest of the rules is about pods of the chart itself.
OF_OTHERS = {"has a token only if it asks Kubernetes", "bounds what it writes on the node"}
RECORD = Ask(verb="update", resource="configmaps", name="headrace-rollout-recommender")


def made(world: World, stage: Stage, tmp_path: Path) -> Object:
    """Return the pod that the operator makes for a stage, with the chart's template."""
    found = objects(ONE_NODE)
    template = tmp_path / "pod.yaml"
    template.write_text(named(found, "ConfigMap", "headrace-pod-template")["data"]["pod.yaml"])
    told = named(found, "ConfigMap", "headrace-airflow")["data"]
    told = {**told, "HEADRACE_POD_TEMPLATE": str(template), "HEADRACE_IMAGES": "r/{image}:1"}
    read = read_deployment(told)
    assert read.pods is not None
    pods = replace(read.pods, queue_seconds=60, start_seconds=60, poll_seconds=0.05)
    world.deployment = replace(read, pods=pods, store_url=world.deployment.store_url)
    world.stage = stage
    world.ends(0, world.sealed())
    world.operator().execute(world.context)
    return world.fake.created[0]


@pytest.mark.parametrize("stage", (Stage.SHIFT_TRAFFIC, Stage.BUILD_FEATURES))
def test_a_stages_pod_keeps_to_restricted_security(
    world: World, stage: Stage, tmp_path: Path
) -> None:
    pod = made(world, stage, tmp_path)
    asked = {key: value for key, value in pod.items() if key != "status"}
    kubernetes_validate.validate(asked, "1.29", strict=True)
    broken = [rule for rule in RULES.keys() - OF_OTHERS if not RULES[rule](pod)]
    assert broken == []
    (base,) = pod["spec"]["containers"]
    assert base["envFrom"] == [{"secretRef": {"name": "headrace-store"}}]
    names = [entry["name"] for entry in base["env"]]
    assert len(names) == len(set(names))  # Airflow and the template say nothing twice
    assert ("HEADRACE_ROLLOUT_STATE" in names) == (POD_ROLES[stage] is PodRole.ROLLOUT)
    assert {"name": "state", "mountPath": "/srv/headrace/state"} in base["volumeMounts"]


@pytest.mark.parametrize("stage", (Stage.STAGE_BUNDLE, Stage.HOTFIX_STABLE))
def test_a_rollout_stage_has_the_rights_and_ways_that_it_needs(
    world: World, stage: Stage, tmp_path: Path
) -> None:
    pod = made(world, stage, tmp_path)
    assert pod["spec"]["automountServiceAccountToken"] is True
    found = objects(ONE_NODE)
    assert can(found, (NAMESPACE, pod["spec"]["serviceAccountName"]), RECORD)
    source = End(namespace=NAMESPACE, labels=pod["metadata"]["labels"])
    slot = named(found, "Deployment", "headrace-recommender-blue")["spec"]["template"]
    target = End(namespace=NAMESPACE, labels=slot["metadata"]["labels"])
    assert passes(found, source, target, 8501)
    assert passes(found, source, End(), 6443)


def test_another_stage_has_neither(world: World, tmp_path: Path) -> None:
    pod = made(world, Stage.BUILD_FEATURES, tmp_path)
    assert pod["spec"]["automountServiceAccountToken"] is False
    found = objects(ONE_NODE)
    assert not can(found, (NAMESPACE, pod["spec"]["serviceAccountName"]), RECORD)
    source = End(namespace=NAMESPACE, labels=pod["metadata"]["labels"])
    slot = named(found, "Deployment", "headrace-recommender-blue")["spec"]["template"]
    target = End(namespace=NAMESPACE, labels=slot["metadata"]["labels"])
    assert not passes(found, source, target, 8501)
    assert not passes(found, source, End(), 6443)
    assert passes(found, source, End(address="10.244.0.1"), 5555)  # the store


def test_without_an_account_for_them_rollout_stages_get_no_token(world: World) -> None:
    world.stage = Stage.STAGE_BUNDLE
    world.ends(0, world.sealed())
    world.operator().execute(world.context)
    pod = world.fake.created[0]
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["metadata"]["labels"]["headrace/role"] == "rollout"


def test_who_looks_at_the_rollout_is_a_short_list() -> None:
    assert {stage for stage, role in POD_ROLES.items() if role is PodRole.ROLLOUT} == ROLLOUT_STAGES
    assert POD_ROLES.keys() == set(Stage)
