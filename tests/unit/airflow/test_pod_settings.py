from __future__ import annotations

from pathlib import Path

import pytest
from headrace_airflow.deployment import read_deployment
from headrace_airflow.pod_settings import read_pod_settings, with_tag

from tasks.contracts.errors import BadRequestError
from tasks.contracts.image_tags import image_tag
from tasks.contracts.stages import Stage

GOOD = {"HEADRACE_NAMESPACE": "reco", "HEADRACE_IMAGES": "r.example:5000/headrace-{image}:1.4"}


def test_the_settings_name_the_images() -> None:
    found = read_pod_settings(GOOD)
    assert found.image("torch") == "r.example:5000/headrace-torch:1.4"
    assert (found.namespace, found.deferrable, found.template) == ("reco", True, None)


@pytest.mark.parametrize(
    ("images", "name"),
    (
        ("r.example:5000/reco/{image}:{tag}", "r.example:5000/reco/torch-cuda:"),
        ("r.example/headrace:{image}-{tag}", "r.example/headrace:torch-cuda-"),
    ),
)
def test_a_tag_is_the_digest_by_which_make_images_names_what_it_builds(
    images: str, name: str
) -> None:
    found = read_pod_settings({**GOOD, "HEADRACE_IMAGES": images})
    tagged = with_tag(found.image("torch-cuda"), Stage.TRAIN_MODEL)
    assert tagged == name + image_tag("torch")  # built from the code of `torch`, with CUDA's wheels
    assert with_tag(found.image("data"), Stage.GATE_ARTIFACT).endswith(image_tag("data"))


def test_one_tag_for_all_stays_as_it_is() -> None:
    assert with_tag("r.example/headrace-torch:1.4", Stage.TRAIN_MODEL) == (
        "r.example/headrace-torch:1.4"
    )


def test_only_the_kubernetes_runtime_needs_them() -> None:
    common = {"HEADRACE_STORE": "s3://b/p", "HEADRACE_STATE": "/s"}
    assert read_deployment({**common, "HEADRACE_RUNTIME": "local"}).pods is None
    with pytest.raises(BadRequestError, match="HEADRACE_NAMESPACE: expected"):
        read_deployment({**common, "HEADRACE_RUNTIME": "kubernetes"})
    found = read_deployment({**common, **GOOD, "HEADRACE_RUNTIME": "kubernetes"})
    assert found.pods == read_pod_settings(GOOD)


@pytest.mark.parametrize(
    ("name", "value"),
    (
        pytest.param("HEADRACE_IMAGES", "r/headrace:1.4", id="one image for all"),
        pytest.param("HEADRACE_IMAGES", "r/headrace-{image}", id="no tag"),
        pytest.param("HEADRACE_IMAGES", "r:5000/headrace-{image}", id="a port is no tag"),
        pytest.param("HEADRACE_IMAGES", "r/headrace-{image}:latest", id="latest"),
        pytest.param("HEADRACE_IMAGES", "r/headrace-{image}:{version}", id="a word of its own"),
        pytest.param("HEADRACE_IMAGES", "r/headrace-{image}@{tag}", id="a tag where a digest is"),
        pytest.param("HEADRACE_IMAGES", "r-{tag}/{image}:1.4", id="a tag in the registry's name"),
        pytest.param("HEADRACE_POLL_SECONDS", "0", id="no pause between two looks"),
        pytest.param("HEADRACE_QUEUE_SECONDS", "soon", id="a wait that is no number"),
        pytest.param("HEADRACE_DEFERRABLE", "perhaps", id="neither true nor false"),
        pytest.param("HEADRACE_POD_TEMPLATE", "/nonexistent/pod.yaml", id="a template not there"),
    ),
)
def test_a_wrong_setting_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(BadRequestError, match=f"{name}: expected"):
        read_pod_settings({**GOOD, name: value})


def test_a_template_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "pod.yaml"
    path.write_text("")
    assert read_pod_settings({**GOOD, "HEADRACE_POD_TEMPLATE": str(path)}).template == path
