from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from headrace_airflow.compute_profiles import (
    COMPUTE_PROFILES,
    PodFields,
    ProfileName,
    StageCompute,
    pod_fields,
)
from headrace_airflow.node_fit import NodeFacts, quantity, why_never

from tasks.contracts.errors import BadRequestError

GPU_TRAIN = COMPUTE_PROFILES[ProfileName.GPU_TRAIN]
GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


def asked() -> PodFields:
    return pod_fields(StageCompute(profile=GPU_TRAIN, cpu_cores=4, memory_gib=16))


def node(**changed: Any) -> NodeFacts:
    fields: dict[str, Any] = {
        "labels": {"headrace/pool": "gpu-train"},
        "taints": [GPU_TAINT],
        "allocatable": {"cpu": "7910m", "memory": "30Gi", "nvidia.com/gpu": "1", "pods": "110"},
    } | changed
    return NodeFacts.from_api(
        {
            "metadata": {"name": "n1", "labels": fields["labels"]},
            "spec": {"taints": fields["taints"]},
            "status": {"allocatable": fields["allocatable"]},
        }
    )


def test_a_pod_waits_for_a_node_that_could_hold_it() -> None:
    assert why_never(asked(), GPU_TRAIN, [node(labels={}), node()]) is None


@pytest.mark.parametrize(
    ("changed", "reason"),
    (
        pytest.param({"labels": {}}, "1 without the label headrace/pool=gpu-train", id="label"),
        pytest.param(
            {"taints": [{"key": "team", "value": "ads", "effect": "NoSchedule"}]},
            "1 with the taint team=ads:NoSchedule",
            id="a taint that is not tolerated",
        ),
        pytest.param(
            {"taints": [GPU_TAINT | {"effect": "NoExecute"}]},
            "1 with the taint nvidia.com/gpu=present:NoExecute",
            id="the tolerated taint with another effect",
        ),
        pytest.param(
            {"allocatable": {"cpu": "8", "memory": "30Gi"}},
            "1 with less nvidia.com/gpu than 1",
            id="no GPU",
        ),
        pytest.param(
            {"allocatable": {"cpu": "3999m", "memory": "30Gi", "nvidia.com/gpu": "1"}},
            "1 with less cpu than 4",
            id="a little less CPU",
        ),
    ),
)
def test_a_pod_that_no_node_can_ever_hold_is_told_why(changed: dict[str, Any], reason: str) -> None:
    sentence = why_never(asked(), GPU_TRAIN, [node(**changed)])
    assert sentence is not None
    assert reason in sentence
    assert "choose another profile" in sentence


@pytest.mark.parametrize(
    "taint",
    (
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"},
        {"key": "team", "value": "ads", "effect": "PreferNoSchedule"},
    ),
)
def test_what_comes_off_again_or_only_asks_is_no_reason(taint: dict[str, str]) -> None:
    assert why_never(asked(), GPU_TRAIN, [node(taints=[GPU_TAINT, taint])]) is None


def test_equal_reasons_are_counted_and_an_empty_cluster_is_named() -> None:
    sentence = why_never(asked(), GPU_TRAIN, [node(labels={}), node(labels={}), node(taints=[])])
    assert sentence is None
    sentence = why_never(asked(), GPU_TRAIN, [node(labels={}), node(labels={})])
    assert "of 2 nodes 2 without the label" in str(sentence)
    assert "there is no node at all" in str(why_never(asked(), GPU_TRAIN, []))


def test_a_pool_that_scales_from_zero_may_still_come() -> None:
    assert why_never(asked(), replace(GPU_TRAIN, scales_from_zero=True), []) is None


@pytest.mark.parametrize(
    ("text", "value"),
    (("500m", 0.5), ("2", 2), ("8Gi", 8 * 2**30), ("1e3", 1000), ("1.5G", 1.5e9), ("3Ki", 3072)),
)
def test_quantities_are_read_as_the_api_means_them(text: str, value: float) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize("text", ("", "two", "2 Gi", "2Gb", "-1"))
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError, match=re.escape(repr(text))):
        quantity(text)


@pytest.mark.parametrize(
    ("gpus", "nodes", "room"),
    (
        pytest.param("1", 2, None, id="two nodes with a GPU each hold both"),
        pytest.param("2", 1, None, id="one node with two GPUs holds both"),
        pytest.param("1", 1, "1 on the 1 nodes", id="one node with one GPU never holds both"),
    ),
)
def test_a_group_needs_room_for_all_its_pods_at_once(
    gpus: str, nodes: int, room: str | None
) -> None:
    allocatable = {"cpu": "9", "memory": "33Gi", "nvidia.com/gpu": gpus}
    pool = [node(allocatable=allocatable)] * nodes
    sentence = why_never(asked(), GPU_TRAIN, [*pool, node(labels={})], pods=2)
    if room is None:
        assert sentence is None
    else:
        assert f"expected room for 2 pods at once, found room for {room}" in str(sentence)
