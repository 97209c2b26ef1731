from __future__ import annotations

import copy
import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from headrace_airflow.compute_choice import (
    DEFAULT_COMPUTE,
    asked_of,
    compute_schema,
    read_compute,
)
from headrace_airflow.compute_profiles import COMPUTE_PROFILES, ProfileName, Toleration
from headrace_airflow.deployment import read_deployment
from headrace_airflow.pod_profiles import POD_PROFILES, PodProfile, image_name

from tasks.contracts.errors import BadRequestError
from tasks.contracts.stages import Stage

ENVIRONMENT = {
    "HEADRACE_RUNTIME": "kubernetes",
    "HEADRACE_STORE": "file:///srv/store",
    "HEADRACE_STATE": "/srv/state",
    "HEADRACE_NAMESPACE": "reco",
    "HEADRACE_IMAGES": "r.example/headrace-{image}:1.4",
}


def written(**parts: Any) -> str:
    return json.dumps({"format": "compute_profiles/1", **parts})


def test_every_stage_fits_into_its_pool_as_the_code_has_it() -> None:
    for stage in Stage:
        compute = DEFAULT_COMPUTE.compute_for(stage)
        assert compute.profile.name is POD_PROFILES[stage].profile


def test_a_deployment_redefines_a_pool_and_leaves_the_others() -> None:
    gpu = {
        "node_selector": {"cloud.google.com/gke-accelerator": "nvidia-l4"},
        "tolerations": [{"key": "team", "value": "reco", "effect": "NoExecute"}],
        "gpus": 2,
        "priority_class": "batch",
        "queue": "team-reco",
        "largest_cpu_cores": 47,
        "largest_memory_gib": 180,
        "scales_from_zero": True,
    }
    table = read_compute(written(profiles={"gpu-train": gpu}), "file")
    found = table.profiles[ProfileName.GPU_TRAIN]
    assert found.node_selector == (("cloud.google.com/gke-accelerator", "nvidia-l4"),)
    assert found.tolerations == (Toleration(key="team", value="reco", effect="NoExecute"),)
    assert (found.gpus, found.priority_class, found.queue) == (2, "batch", "team-reco")
    assert (found.largest_cpu_cores, found.largest_memory_gib) == (47, 180)
    assert found.scales_from_zero
    others = set(ProfileName) - {ProfileName.GPU_TRAIN}
    assert all(table.profiles[name] == COMPUTE_PROFILES[name] for name in others)


def test_a_deployment_places_a_stage() -> None:
    place = {"profile": "gpu-train", "cpu_cores": 8, "memory_gib": 32}
    table = read_compute(written(stages={"train_model": place}), "file")
    found = table.compute_for(Stage.TRAIN_MODEL)
    assert (found.profile.name, found.cpu_cores, found.memory_gib) == (ProfileName.GPU_TRAIN, 8, 32)
    assert table.stages[Stage.TRAIN_MODEL].longest_run == timedelta(hours=12)


def test_a_deployment_names_its_own_class_for_what_steers() -> None:
    place = {"priority_class": "urgent"}
    table = read_compute(written(stages={"roll_back_release": place}), "file")
    assert table.compute_for(Stage.ROLL_BACK_RELEASE).priority_class == "urgent"
    assert table.compute_for(Stage.HOTFIX_STABLE).priority_class == "headrace-steer"


def test_a_deployment_lets_training_run_in_several_ranks() -> None:
    table = read_compute(written(stages={"train_model": {"ranks": 2}}), "file")
    assert table.stages[Stage.TRAIN_MODEL].ranks == 2
    others = set(Stage) - {Stage.TRAIN_MODEL}
    assert {table.stages[stage].ranks for stage in others} == {1}


@pytest.mark.parametrize(
    ("parts", "sentence"),
    (
        pytest.param(
            {"profiles": {"gpu": {}}},
            "expected one of ['cpu', 'gpu-train', 'gpu-serve', 'spot-gpu'], found 'gpu'",
            id="a pool that does not exist",
        ),
        pytest.param({"stages": {"train": {}}}, "found 'train'", id="a stage that does not exist"),
        pytest.param({"profile": {}}, "found ['profile'] too", id="a misspelt part"),
        pytest.param(
            {"profiles": {"cpu": {"nodeSelector": {}}}},
            "cpu: expected fields",
            id="a misspelt field",
        ),
        pytest.param(
            {"profiles": {"cpu": {"gpus": 1}}}, "expected no GPU", id="a CPU pool with GPUs"
        ),
        pytest.param(
            {"profiles": {"gpu-train": {"gpus": True}}}, "a whole number", id="true for a number"
        ),
        pytest.param(
            {"profiles": {"gpu-train": {"tolerations": [{"value": "x"}]}}},
            "a taint's key",
            id="a toleration without a key",
        ),
        pytest.param(
            {"stages": {"ingest_events": {"profile": "gpu-train"}}},
            "expected one of ['cpu'], found 'gpu-train'",
            id="a stage without CUDA on a GPU pool",
        ),
        pytest.param(
            {"stages": {"train_model": {"cpu_cores": 16}}},
            "compute of train_model: compute profile cpu: expected 0.1 to 15 CPU cores",
            id="a stage that its pool cannot hold",
        ),
        pytest.param(
            {"profiles": {"cpu": {"largest_cpu_cores": 2}}},
            "compute of train_model: compute profile cpu: expected 0.1 to 2 CPU cores "
            "(its largest node), found 4",
            id="a pool too small for a stage of the code's table",
        ),
        pytest.param(
            {"stages": {"compress_model": {"ranks": 2}}},
            "compress_model: expected ranks=1, or 2 to 64 for ['train_model'], found ranks=2",
            id="ranks of a stage that shares nothing",
        ),
        pytest.param(
            {"stages": {"train_model": {"ranks": 65}}}, "found ranks=65", id="too many ranks"
        ),
        pytest.param({"stages": {"train_model": {"ranks": 0}}}, "found ranks=0", id="no rank"),
        pytest.param(
            {"stages": {"train_model": {"ranks": 1.5}}}, "a whole number", id="half a rank"
        ),
        pytest.param({"format": "compute_profiles/2"}, "newer Headrace", id="a later format"),
    ),
)
def test_a_deployments_file_is_refused_with_a_sentence(parts: Any, sentence: str) -> None:
    with pytest.raises(BadRequestError, match=re.escape(sentence)):
        read_compute(written(**parts), "file")


def test_the_file_is_named_by_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "compute.json"
    file.write_text(written(stages={"train_model": {"cpu_cores": 7}}))
    found = read_deployment(ENVIRONMENT | {"HEADRACE_COMPUTE": str(file)})
    assert found.compute.compute_for(Stage.TRAIN_MODEL).cpu_cores == 7
    assert read_deployment(ENVIRONMENT).compute == DEFAULT_COMPUTE


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadRequestError, match=r"HEADRACE_COMPUTE: expected a readable file"):
        read_deployment(ENVIRONMENT | {"HEADRACE_COMPUTE": str(tmp_path / "none.json")})


def test_a_trigger_chooses_among_the_pools_that_the_stage_may_use() -> None:
    params = {"compute": {"train_model": {"profile": "spot-gpu", "memory_gib": 20}}}
    asked = asked_of(params, Stage.TRAIN_MODEL)
    found = DEFAULT_COMPUTE.compute_for(Stage.TRAIN_MODEL, asked)
    assert (found.profile.name, found.cpu_cores, found.memory_gib) == (ProfileName.SPOT_GPU, 4, 20)


@pytest.mark.parametrize("params", ({}, {"compute": None}, {"compute": {"bundle_model": {}}}))
def test_a_trigger_that_says_nothing_of_a_stage_changes_nothing(params: dict[str, Any]) -> None:
    asked = asked_of(params, Stage.TRAIN_MODEL)
    assert DEFAULT_COMPUTE.compute_for(Stage.TRAIN_MODEL, asked) == DEFAULT_COMPUTE.compute_for(
        Stage.TRAIN_MODEL
    )


@pytest.mark.parametrize(
    ("stage", "asked", "sentence"),
    (
        pytest.param(
            Stage.TRAIN_MODEL,
            {"profile": "gpu-serve"},
            "compute of train_model: PodProfile: expected one of ['cpu', 'gpu-train', 'spot-gpu'], "
            "found 'gpu-serve'",
            id="training where users are served",
        ),
        pytest.param(
            Stage.TRAIN_MODEL,
            {"profile": "h100"},
            "expected one of ['cpu', 'gpu-train', 'gpu-serve', 'spot-gpu'], found 'h100'",
            id="a pool that does not exist",
        ),
        pytest.param(
            Stage.TRAIN_MODEL, {"cpu_cores": 400}, "found 400", id="more than any node has"
        ),
        pytest.param(
            Stage.COMPRESS_MODEL,
            {"profile": "gpu-serve", "cpu_cores": 8},
            "compute profile gpu-serve: expected 0.1 to 7 CPU cores (its largest node), found 8",
            id="what another pool could hold, but not this one",
        ),
        pytest.param(
            Stage.TRAIN_MODEL,
            {"priority_class": "system-node-critical"},
            "found ['priority_class'] too",
            id="a priority of one's own",
        ),
        pytest.param(Stage.TRAIN_MODEL, {"gpus": 8}, "found ['gpus'] too", id="more GPUs"),
        pytest.param(Stage.TRAIN_MODEL, {"ranks": 2}, "found ['ranks'] too", id="more ranks"),
        pytest.param(Stage.INGEST_EVENTS, {"profile": "gpu-train"}, "['cpu']", id="no CUDA"),
    ),
)
def test_a_trigger_cannot_ask_beyond_its_limits(
    stage: Stage, asked: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadRequestError, match=re.escape(sentence)):
        DEFAULT_COMPUTE.compute_for(stage, asked)


@pytest.mark.parametrize("compute", ("gpu-train", {"train_model": "gpu-train"}, ["gpu-train"]))
def test_a_wish_that_is_no_object_is_refused(compute: Any) -> None:
    with pytest.raises(BadRequestError, match="compute of train_model: expected an object"):
        asked_of({"compute": compute}, Stage.TRAIN_MODEL)


@pytest.mark.parametrize(
    ("wish", "taken"),
    (
        (None, True),
        ({}, True),
        ({"train_model": {"profile": "gpu-train", "cpu_cores": 15, "memory_gib": 56}}, True),
        ({"train_model": {"profile": "gpu-serve"}}, False),
        ({"train_model": {"cpu_cores": 15.5}}, False),
        ({"train_model": {"cpu_cores": 0}}, False),
        ({"train_model": {"gpus": 2}}, False),
        ({"ingest_events": {"profile": "gpu-train"}}, False),
        ({"no_stage": {}}, False),
        ("gpu-train", False),
    ),
)
def test_the_form_takes_only_what_the_table_takes(wish: Any, taken: bool) -> None:
    valid = jsonschema.Draft202012Validator(compute_schema(DEFAULT_COMPUTE)).is_valid(wish)
    assert valid is taken


def test_a_stage_cannot_be_placed_where_it_may_not_run() -> None:
    with pytest.raises(BadRequestError, match=r"expected one of \['cpu'\], found 'gpu-train'"):
        PodProfile(
            cpu_cores=1,
            memory_gib=1,
            longest_run=timedelta(minutes=1),
            profile=ProfileName.GPU_TRAIN,
        )


def test_a_gpu_profile_takes_the_cuda_variant_of_the_image() -> None:
    cpu, gpu = COMPUTE_PROFILES[ProfileName.CPU], COMPUTE_PROFILES[ProfileName.GPU_TRAIN]
    assert image_name(Stage.TRAIN_MODEL, cpu) == "torch"
    assert image_name(Stage.TRAIN_MODEL, gpu) == "torch-cuda"
    with pytest.raises(BadRequestError, match="ingest_events on gpu-train: .*found 'data'"):
        image_name(Stage.INGEST_EVENTS, gpu)


def test_every_pool_that_a_stage_may_use_has_an_image_for_it() -> None:
    for stage, place in POD_PROFILES.items():
        for name in place.may_use:
            assert image_name(stage, COMPUTE_PROFILES[name])


def test_airflow_can_copy_the_table() -> None:
    assert copy.deepcopy(DEFAULT_COMPUTE) == DEFAULT_COMPUTE
