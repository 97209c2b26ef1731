from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from headrace_airflow.compute_profiles import (
    COMPUTE_PROFILES,
    PRIORITIES,
    STEERING,
    ComputeProfile,
    ProfileName,
    StageCompute,
    Toleration,
    cpu_quantity,
    memory_quantity,
    pod_fields,
    priority_class_objects,
)
from headrace_airflow.pod_profiles import POD_PROFILES

from tasks.contracts.errors import BadRequestError
from tasks.contracts.stages import Stage


def profile(**changed: Any) -> ComputeProfile:
    fields: dict[str, Any] = {
        "name": ProfileName.GPU_TRAIN,
        "gpus": 1,
        "priority_class": "train",
        "queue": "gpu",
        "largest_cpu_cores": 8,
        "largest_memory_gib": 32,
    }
    return ComputeProfile(**(fields | changed))


def test_every_name_has_one_profile_and_its_priority_class_exists() -> None:
    assert [item.name for item in COMPUTE_PROFILES.values()] == list(ProfileName)
    pools = {item.priority_class for item in COMPUTE_PROFILES.values()}
    assert pools | {STEERING} == set(PRIORITIES)


def test_serving_pushes_training_off_and_training_pushes_spot_off_never_the_other_way() -> None:
    value = {name: PRIORITIES[item.priority_class] for name, item in COMPUTE_PROFILES.items()}
    assert value[ProfileName.GPU_SERVE] > value[ProfileName.GPU_TRAIN] > value[ProfileName.SPOT_GPU]
    policies = {item["metadata"]["name"]: item["preemptionPolicy"] for item in _classes()}
    assert policies == {
        "headrace-spot": "Never",
        "headrace-batch": "PreemptLowerPriority",
        "headrace-train": "PreemptLowerPriority",
        "headrace-steer": "PreemptLowerPriority",
        "headrace-serve": "PreemptLowerPriority",
    }


def test_what_steers_a_rollout_waits_behind_no_training_and_pushes_nothing_off_that_serves() -> (
    None
):
    place = POD_PROFILES[Stage.ROLL_BACK_RELEASE]
    fields = pod_fields(place.compute(COMPUTE_PROFILES))
    assert fields.priority_class == STEERING
    assert fields.labels == {"headrace/profile": "cpu"}  # behind no queue either
    assert PRIORITIES["headrace-train"] < PRIORITIES[STEERING] < PRIORITIES["headrace-serve"]
    steering = {stage for stage, one in POD_PROFILES.items() if one.priority_class == STEERING}
    assert steering == {
        Stage.SHIFT_TRAFFIC,
        Stage.JUDGE_STEP,
        Stage.PROMOTE_RELEASE,
        Stage.ROLL_BACK_RELEASE,
        Stage.HOTFIX_STABLE,
    }


def test_a_priority_class_that_the_api_would_refuse_is_refused() -> None:
    with pytest.raises(BadRequestError, match="expected a DNS label as priority_class"):
        StageCompute(profile=profile(), cpu_cores=2, memory_gib=2, priority_class="Steer")


def _classes() -> list[Any]:
    return list(priority_class_objects())


def test_only_the_spot_profile_may_be_taken_away() -> None:
    assert [name for name, item in COMPUTE_PROFILES.items() if item.spot] == [ProfileName.SPOT_GPU]


def test_a_gpu_pod_asks_for_its_pool_its_taint_its_gpu_and_its_queue() -> None:
    fields = pod_fields(
        StageCompute(profile=COMPUTE_PROFILES[ProfileName.GPU_TRAIN], cpu_cores=2.5, memory_gib=8)
    )
    assert fields.node_selector == {"headrace/pool": "gpu-train"}
    assert fields.tolerations == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    amounts = {"cpu": "2500m", "memory": "8Gi", "nvidia.com/gpu": "1"}
    assert fields.resources == {"requests": amounts, "limits": amounts}
    assert fields.priority_class == "headrace-train"
    assert fields.labels == {
        "kueue.x-k8s.io/queue-name": "headrace-gpu-train",
        "headrace/profile": "gpu-train",
    }


def test_a_cpu_pod_asks_for_no_gpu_and_stands_on_no_taint() -> None:
    fields = pod_fields(
        StageCompute(profile=COMPUTE_PROFILES[ProfileName.CPU], cpu_cores=0.5, memory_gib=0.5)
    )
    assert (fields.node_selector, fields.tolerations) == ({}, [])
    assert fields.resources["limits"] == {"cpu": "500m", "memory": "512Mi"}


@pytest.mark.parametrize(
    ("cores", "limit", "threads"),
    (
        pytest.param(0.5, None, "1", id="half a core still has one thread"),
        pytest.param(2.5, None, "2", id="no thread for half a core"),
        pytest.param(2, 4, "4", id="the limit counts, not the request"),
    ),
)
def test_threads_follow_the_cpu_limit(cores: float, limit: float | None, threads: str) -> None:
    compute = StageCompute(profile=profile(), cpu_cores=cores, cpu_limit_cores=limit, memory_gib=1)
    found = pod_fields(compute).environment
    assert found["OMP_NUM_THREADS"] == found["OPENBLAS_NUM_THREADS"] == threads
    assert found["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize(
    ("amounts", "sentence"),
    (
        pytest.param(
            {"cpu_cores": 9},
            "compute profile gpu-train: expected 0.1 to 8 CPU cores (its largest node), found 9",
            id="more cores than the largest node has",
        ),
        pytest.param(
            {"memory_gib": 33},
            "expected 0.125 to 32 GiB of memory (its largest node), found 33",
            id="more memory than the largest node has",
        ),
        pytest.param({"cpu_cores": 0}, "found 0", id="no cores"),
        pytest.param({"cpu_cores": float("nan")}, "found nan", id="cores that are no number"),
        pytest.param(
            {"cpu_limit_cores": 1},
            "expected a CPU limit of at least the 2 cores asked for, found 1",
            id="a limit below the request",
        ),
    ),
)
def test_amounts_that_no_node_can_hold_are_refused(
    amounts: dict[str, float], sentence: str
) -> None:
    StageCompute(profile=profile(), cpu_cores=8, memory_gib=32)  # the largest node itself fits
    with pytest.raises(BadRequestError, match=re.escape(sentence)):
        StageCompute(**({"profile": profile(), "cpu_cores": 2, "memory_gib": 2} | amounts))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    (
        pytest.param({"gpus": 0}, "expected at least one GPU, found 0", id="a GPU pool without"),
        pytest.param(
            {"name": ProfileName.CPU}, "compute profile cpu: expected no GPU", id="a CPU pool with"
        ),
        pytest.param({"gpus": 17}, "expected 0 <= gpus <= 16", id="more GPUs than any node has"),
        pytest.param(
            {"priority_class": "Train"}, "expected a DNS label as priority_class", id="capitals"
        ),
        pytest.param({"queue": ""}, "expected a DNS label as queue", id="no queue"),
        pytest.param(
            {"node_selector": (("pool", "gpu train"),)},
            "expected a label's value for pool, found 'gpu train'",
            id="a label's value with a blank",
        ),
        pytest.param(
            {"node_selector": (("/pool", "gpu"),)}, "expected a label's key", id="an empty prefix"
        ),
    ),
)
def test_a_profile_that_the_api_would_refuse_is_refused(
    changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadRequestError, match=sentence):
        profile(**changed)


@pytest.mark.parametrize(
    "wrong", ({"key": ""}, {"key": "a", "value": "b c"}, {"key": "a", "effect": "Never"})
)
def test_a_toleration_that_the_api_would_refuse_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(BadRequestError, match="toleration"):
        Toleration(**wrong)


def test_a_toleration_of_one_value_does_not_tolerate_others() -> None:
    assert Toleration(key="spot", value="true", effect="NoExecute").fields == {
        "key": "spot",
        "operator": "Equal",
        "value": "true",
        "effect": "NoExecute",
    }


@pytest.mark.parametrize(("cores", "text"), ((0.1, "100m"), (1.5, "1500m"), (2.0, "2"), (16, "16")))
def test_cores_are_written_as_the_api_reads_them(cores: float, text: str) -> None:
    assert cpu_quantity(cores) == text


@pytest.mark.parametrize(("gib", "text"), ((0.125, "128Mi"), (1, "1Gi"), (1.5, "1536Mi")))
def test_memory_is_written_as_the_api_reads_it(gib: float, text: str) -> None:
    assert memory_quantity(gib) == text


def test_the_profile_decides_over_the_pods_own_resources_and_leaves_the_rest() -> None:
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "labels": {"app": "a"}},
        "spec": {
            "tolerations": [{"key": "own", "operator": "Exists"}],
            "containers": [
                {
                    "name": "base",
                    "image": "i:1",
                    "resources": {"limits": {"cpu": "64"}},
                    "env": [
                        {"name": "OMP_NUM_THREADS", "value": "64"},
                        {"name": "HEADRACE_STORE", "value": "s3://b"},
                    ],
                },
                {"name": "other", "image": "o:1"},
            ],
        },
    }
    before = copy.deepcopy(pod)
    fields = pod_fields(StageCompute(profile=profile(), cpu_cores=2, memory_gib=4))
    merged: Any = fields.merged_into(pod)
    assert pod == before
    assert merged["metadata"] == {"name": "p", "labels": {"app": "a", **fields.labels}}
    base, other = merged["spec"]["containers"]
    assert base["resources"]["limits"] == {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}
    environment = {item["name"]: item["value"] for item in base["env"]}
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["HEADRACE_STORE"] == "s3://b"
    assert len(base["env"]) == len(environment)
    assert other == {"name": "other", "image": "o:1"}
    assert merged["spec"]["tolerations"] == [{"key": "own", "operator": "Exists"}]
    assert merged["spec"]["priorityClassName"] == "train"
