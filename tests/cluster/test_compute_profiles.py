"""Compute profiles before a real scheduler, on node pools that are pretended.

How a whole stage waits, is refused or is preempted on a GPU: the GPU cells of the fault matrix.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from headrace_airflow.compute_profiles import (
    COMPUTE_PROFILES,
    ProfileName,
    StageCompute,
    pod_fields,
)
from headrace_airflow.node_fit import why_never
from kubernetes import client, config

from tests.cluster.gpu_pool import real_node
from tests.cluster.kubernetes_world import prepare_namespace
from tests.cluster.pretended_nodes import NODE_CORES, POOLS, PretendedNodes, node_name

NAMESPACE = "headrace-pools"


@pytest.fixture(scope="module")
def made_nodes(cluster: None) -> Iterator[PretendedNodes]:
    config.load_kube_config(os.environ["KUBECONFIG"])
    prepare_namespace(client.CoreV1Api(), NAMESPACE)
    nodes = PretendedNodes(NAMESPACE)
    nodes.close()  # of a run that was cut off
    try:
        nodes.open()
        yield nodes
    finally:
        nodes.close()


@pytest.fixture
def nodes(made_nodes: PretendedNodes) -> PretendedNodes:
    made_nodes.remove_pods()
    made_nodes.heartbeat()
    return made_nodes


@pytest.mark.parametrize("profile", POOLS)
def test_a_gpu_stage_lands_on_its_own_pool(nodes: PretendedNodes, profile: ProfileName) -> None:
    assert nodes.node_of(nodes.place(profile)) == node_name(profile)


@pytest.mark.parametrize("profile", POOLS)
def test_it_takes_no_free_gpu_of_another_pool_while_its_own_is_closed(
    nodes: PretendedNodes, profile: ProfileName
) -> None:
    nodes.cordon(profile, True)
    try:
        pod = nodes.place(profile)
        assert "didn't match" in nodes.why_waiting(pod)
    finally:
        nodes.cordon(profile, False)
    assert nodes.node_of(pod) == node_name(profile)


def test_a_cpu_stage_stays_off_the_gpu_pools_even_when_only_they_have_room(
    nodes: PretendedNodes,
) -> None:
    real = nodes.core.read_node(real_node(nodes.core))
    cores = int(real.status.allocatable["cpu"])
    assert cores < NODE_CORES, "the real node has room for the pod that must not find any"
    waiting = nodes.why_waiting(nodes.place(ProfileName.CPU, cores + 1))
    assert "3 node(s) had taint {nvidia.com/gpu: present}" in waiting
    assert "Insufficient cpu" in waiting
    assert nodes.node_of(nodes.place(ProfileName.CPU, 0.1)) == real.metadata.name


def test_a_stage_waits_while_the_gpu_is_taken_and_goes_on_when_it_is_free(
    nodes: PretendedNodes,
) -> None:
    first = nodes.place(ProfileName.GPU_TRAIN, 1)
    nodes.node_of(first)
    second = nodes.place(ProfileName.GPU_TRAIN, 1)
    assert "Insufficient nvidia.com/gpu" in nodes.why_waiting(second)
    nodes.remove(first)
    assert nodes.node_of(second) == node_name(ProfileName.GPU_TRAIN)


@pytest.mark.parametrize(
    ("profile", "cpu_cores", "refused"),
    (
        pytest.param(
            ProfileName.GPU_TRAIN, NODE_CORES, False, id="a GPU stage as large as its node fits"
        ),
        pytest.param(
            ProfileName.GPU_TRAIN, NODE_CORES + 1, True, id="a larger GPU stage is refused"
        ),
        pytest.param(ProfileName.CPU, 0.1, False, id="a small CPU stage fits"),
        pytest.param(
            ProfileName.CPU, NODE_CORES, True, id="a CPU stage that only GPU nodes hold is refused"
        ),
    ),
)
def test_what_is_refused_before_a_pod_is_made_is_what_the_scheduler_has_no_node_for(
    nodes: PretendedNodes, profile: ProfileName, cpu_cores: float, refused: bool
) -> None:
    chosen = COMPUTE_PROFILES[profile]
    fields = pod_fields(StageCompute(profile=chosen, cpu_cores=cpu_cores, memory_gib=0.125))
    refusal = why_never(fields, chosen, nodes.facts())
    assert (refusal is not None) is refused, refusal
    pod = nodes.place(profile, cpu_cores)
    if refused:
        assert "nodes are available" in nodes.why_waiting(pod)
    else:
        assert nodes.node_of(pod)
