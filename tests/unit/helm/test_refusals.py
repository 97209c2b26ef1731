"""What the chart refuses, each beside the nearest that it accepts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest
import yaml

from tests.unit.helm.rendered import CHART, EVERYTHING, ONE_NODE, SMALLEST, rendered, with_values

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
BUDGET_OFF = {"router__podDisruptionBudget": {"enabled": False}}
ONE_CPU = {"requests": {"memory": "2Gi"}, "limits": {"memory": "2Gi"}}
DIGEST = "sha256:" + "0" * 64

# case, refused, accepted, words of the sentence
IMPOSSIBLE = (
    pytest.param(
        SMALLEST,
        {"models": {"recommender": None}},
        {"models": {"recommender": {}}},
        "models: expected at least one model, found none",
        id="no model",
    ),
    pytest.param(
        SMALLEST,
        {"models__router": {}},
        {"models__routers": {}},
        "models.router: expected another name",
        id="a model named like the router's folder",
    ),
    pytest.param(
        SMALLEST,
        {"state": {}},
        {"state": {"existingClaim": "a"}},
        "state: expected exactly one of existingClaim, storageClass and hostPath, found none",
        id="no state volume",
    ),
    pytest.param(
        ONE_NODE,
        {"state__storageClass": "nfs"},
        {"state": {"storageClass": "nfs"}},
        "found state.storageClass and state.hostPath",
        id="two state volumes",
    ),
    pytest.param(
        SMALLEST,
        {"store__url": "my-bucket/headrace"},
        {"store__url": "s3://my-bucket/headrace"},
        "store.url: expected a URL such as s3://bucket/headrace, found",
        id="a store that is no URL",
    ),
    pytest.param(
        SMALLEST,
        {"store__url": "s3://key:word@bucket"},
        {"store__url": "s3://bucket"},
        "store.url: expected no credentials in it, found an @",
        id="credentials in the store's URL",
    ),
    pytest.param(
        SMALLEST,
        {"store__url": "file:///srv/store"},
        {"store__url": "file:///srv/headrace/state/store"},
        "store.url: expected a file:// URL below state.mountPath (file:///srv/headrace/state/...)",
        id="a store on each pod's own disk",
    ),
    pytest.param(
        SMALLEST,
        {"store": {"url": "gs://bucket", "endpoint": "http://a.example"}},
        {"store": {"url": "s3://bucket", "endpoint": "http://a.example"}},
        "store.endpoint: expected none beside store.url",
        id="an endpoint of a store that has none",
    ),
    pytest.param(
        SMALLEST,
        {"images__stages": "registry.example/headrace:1.4"},
        {"images__stages": "registry.example/{image}:1.4"},
        "images.stages: expected a name with {image} in it",
        id="one image for all stages",
    ),
    pytest.param(
        SMALLEST,
        {"images__stages": "registry.example/{image}:latest"},
        {"images__stages": "registry.example/{image}:{tag}"},
        "a pod must run the code that Airflow has",
        id="stages of the tag latest",
    ),
    pytest.param(
        SMALLEST,
        {"images__stages": "registry.example:5000/{image}"},
        {"images__stages": f"registry.example:5000/{{image}}@{DIGEST}"},
        "images.stages: expected the tag {tag}, or a tag or digest other than latest",
        id="stages of no tag",
    ),
    pytest.param(
        SMALLEST,
        {"images__rollout__repository": ""},
        {"images__rollout__repository": "a"},
        "images.rollout.repository: expected the name of an image, found none",
        id="no image of the router",
    ),
    pytest.param(
        SMALLEST,
        {"images__rollout__tag": "latest"},
        {"images__rollout": {"repository": "a", "tag": "latest", "digest": DIGEST}},
        "images.rollout: expected a tag other than latest, or a digest",
        id="a tag that moves",
    ),
    pytest.param(
        SMALLEST,
        {"images__airflow": {}},
        {"images__airflow": {}, "reaper": {"enabled": False}},
        "images.airflow.repository: expected the name of an image",
        id="a reaper without an image",
    ),
    pytest.param(
        SMALLEST,
        {"airflow__url": ""},
        {"airflow__url": "", "reaper": {"enabled": False}},
        "airflow.url: expected the URL of Airflow's API server beside reaper.enabled",
        id="a reaper that asks nobody",
    ),
    pytest.param(
        SMALLEST,
        {"router": {"autoscaling": {"enabled": True, "minReplicas": 9}}},
        {"router": {"autoscaling": {"enabled": True, "minReplicas": 8}}},
        "router.autoscaling: expected minReplicas <= maxReplicas, found 9 and 8",
        id="fewest over most, of the router",
    ),
    pytest.param(
        SMALLEST,
        {"models__recommender": {"autoscaling": {"enabled": True, "maxReplicas": 1}}},
        {"models__recommender": {"autoscaling": {"enabled": False, "maxReplicas": 1}}},
        "models.recommender.autoscaling: expected minReplicas <= maxReplicas, found 2 and 1",
        id="fewest over most, of a model",
    ),
    pytest.param(
        SMALLEST,
        {"shadow": {"enabled": True}},
        {
            "shadow": {"enabled": True},
            "images__shadow": {"repository": "registry.example/tensorflow", "tag": "1.4"},
        },
        "images.shadow.repository: expected the name of an image, found none",
        id="a comparator of no image",
    ),
    pytest.param(
        SMALLEST,
        {"serving": {"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}}}},
        {"serving": {"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": "2"}}}},
        "models.recommender.autoscaling: expected resources.requests.cpu beside it, found none",
        id="a share of no request",
    ),
    pytest.param(
        SMALLEST,
        {"router": {"replicas": 1}},
        {"router": {"replicas": 1}, **BUDGET_OFF},
        "router.podDisruptionBudget: expected at least 2 pods beside it, found 1",
        id="a budget of the only router",
    ),
    pytest.param(
        EVERYTHING,
        {"mlflow__url": "https://mlflow.example"},
        {"mlflow": {"url": "https://mlflow.example"}},
        "mlflow: expected either mlflow.enabled (a server of this chart) or mlflow.url",
        id="two MLflows",
    ),
    pytest.param(
        SMALLEST,
        {"mlflow": {"artifactsUrl": "s3://a/b"}},
        {"mlflow": {"artifactsUrl": "s3://a/b", "enabled": True}},
        "mlflow.artifactsUrl: expected none without mlflow.enabled",
        id="plots of a server that is not ours",
    ),
    pytest.param(
        SMALLEST,
        {"mlflow": {"url": "https://me:word@mlflow.example"}},
        {"mlflow": {"url": "https://mlflow.example"}},
        "mlflow.url: expected no credentials in it",
        id="credentials in MLflow's URL",
    ),
    pytest.param(
        SMALLEST,
        {"networkPolicies": {"clients": []}},
        {"networkPolicies": {"clients": [], "enabled": False}},
        "networkPolicies.clients: expected at least one peer, found none; nobody could ask",
        id="a router that nobody may ask",
    ),
    pytest.param(
        SMALLEST,
        {"extraEnv": [{"name": "AWS_SECRET_ACCESS_KEY", "value": "a"}]},
        {"extraEnv": [{"name": "OMP_NUM_THREADS", "value": "1"}]},
        "extraEnv: expected no credentials, found AWS_SECRET_ACCESS_KEY",
        id="a credential among the variables",
    ),
)


@pytest.mark.parametrize(("case", "refused", "accepted", "words"), IMPOSSIBLE)
def test_an_impossible_combination_is_refused_with_a_sentence(
    case: str, refused: dict[str, Any], accepted: dict[str, Any], words: str
) -> None:
    with pytest.raises(helm_python.HelmRenderError) as told:
        rendered(with_values(case, **refused))
    assert words in str(told.value)
    assert rendered(with_values(case, **accepted))


# values at a path, the nearest that is accepted, words of the schema's message
WRONG_VALUES = (
    pytest.param({"stor": {}}, {"store__region": "a"}, "'stor' not allowed", id="top level"),
    pytest.param(
        {"store__urll": "s3://a"}, {"store__url": "s3://a"}, "'urll' not allowed", id="one down"
    ),
    pytest.param(
        {"models__recommender": {"replica": 3}},
        {"models__recommender": {"replicas": 3}},
        "'replica' not allowed",
        id="in a model",
    ),
    pytest.param(
        {"models__Search": {}}, {"models__search": {}}, "'Search' not allowed", id="a model's name"
    ),
    pytest.param({"models__a-": {}}, {"models__a-b": {}}, "'a-' not allowed", id="no name of DNS"),
    pytest.param(
        {"router": {"replicas": "2"}}, {"router": {"replicas": 2}}, "/router/replicas", id="a text"
    ),
    pytest.param(
        {"router": {"replicas": 0}}, {"router": {"replicas": 2}}, "/router/replicas", id="no router"
    ),
    pytest.param(
        {"serving": {"args": ["--port=1"]}},
        {"serving": {"args": ["--grpc_max_threads=1"]}},
        "/serving/args/0",
        id="a flag that the chart sets",
    ),
    pytest.param(
        {"monitoring": {"serviceMonitor": True}},
        {"monitoring": {"serviceMonitor": "always"}},
        "/monitoring/serviceMonitor",
        id="another word",
    ),
    pytest.param(
        {"shadow": {"percent": 101}},
        {"shadow": {"percent": 0.5}},
        "/shadow/percent",
        id="a share of more than all",
    ),
    pytest.param(
        {"quota": {"hard": {"pods": 5}}},
        {"quota": {"hard": {"pods": "5"}}},
        "/quota/hard/pods",
        id="a quantity",
    ),
    pytest.param(
        {"networkPolicies": {"clients": [{}]}},
        {"networkPolicies": {"clients": [{"podSelector": {}}]}},
        "/networkPolicies/clients/0",
        id="a peer that is empty",
    ),
    pytest.param(
        {"networkPolicies": {"clients": [{"podSelektor": {}}]}},
        {"networkPolicies": {"clients": [{"namespaceSelector": {}}]}},
        "'podSelektor' not allowed",
        id="in a peer",
    ),
    pytest.param(
        {"images__rollout__digest": "sha256:1"},
        {"images__rollout__digest": DIGEST},
        "/images/rollout/digest",
        id="a digest",
    ),
    pytest.param(
        {"state": {"hostPath": "srv"}},
        {"state": {"hostPath": "/srv"}},
        "/state/hostPath",
        id="a path",
    ),
    pytest.param(
        {"airflow__url": "https://me:word@airflow.example"},
        {"airflow__url": "https://airflow.example"},
        "/airflow/url",
        id="credentials in Airflow's URL",
    ),
    pytest.param(
        {"extraEnv": [{"name": "A", "value": "b", "valueFrom": {}}]},
        {"extraEnv": [{"name": "A", "value": "b"}]},
        "'valueFrom' not allowed",
        id="in a variable",
    ),
)


@pytest.mark.parametrize(("refused", "accepted", "words"), WRONG_VALUES)
def test_a_value_that_the_schema_does_not_know_is_refused_by_its_place(
    refused: dict[str, Any], accepted: dict[str, Any], words: str
) -> None:
    with pytest.raises(helm_python.HelmValuesError) as told:
        rendered(with_values(SMALLEST, **refused))
    assert words in str(told.value)
    assert rendered(with_values(SMALLEST, **accepted))


def objects_in(schema: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield where, schema
        for key, value in schema.items():
            yield from objects_in(value, f"{where}/{key}")
    if isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from objects_in(value, f"{where}/{index}")


def test_no_object_of_the_schema_takes_keys_that_it_does_not_know() -> None:
    found = dict(objects_in(SCHEMA))
    assert len(found) > 30
    for where, schema in found.items():
        # Maps of texts (labels, quantities) take any key, but no other values.
        limits = schema.get("additionalProperties", True)
        of_texts = isinstance(limits, dict) and (limits.get("type") == "string" or "$ref" in limits)
        assert limits is False or of_texts, where


def test_the_schema_knows_every_default() -> None:
    def check(schema: dict[str, Any], value: Any, where: str) -> None:
        if "$ref" in schema:
            schema = SCHEMA["definitions"][schema["$ref"].rsplit("/", 1)[1]]
        if not isinstance(value, dict) or "properties" not in schema:
            return
        assert set(value) == set(schema["properties"]), where
        for key, inner in value.items():
            check(schema["properties"][key], inner, f"{where}.{key}")

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    resources = SCHEMA["definitions"]["resources"]["properties"]
    assert set(resources) == {"requests", "limits"}
    check(SCHEMA, values, "values")


def test_the_smallest_case_says_only_what_has_no_default() -> None:
    """Whatever of it is left out is refused, so the case is the smallest."""
    values = with_values(SMALLEST)
    for folder, key in (("images", "stages"), ("images", "rollout"), ("images", "airflow"),
                        ("state", "existingClaim"), ("store", "url"), ("airflow", "url")):  # fmt: skip
        less = {**values, folder: {k: v for k, v in values[folder].items() if k != key}}
        with pytest.raises(helm_python.HelmRenderError, match=rf"{folder}(\.{key})?.*: expected"):
            rendered(less)
