"""Values for Airflow's own chart: keys that it has, and what our chart, image and code agree on.

Its chart is not rendered here. `airflow_chart_keys.json` keeps names and types of its schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from airflow.configuration import retrieve_configuration_description

from tests.unit.helm.rendered import EVERYTHING, ROOT, Values, named, objects
from tests.unit.helm.test_rendered_objects import script

KNOWN = json.loads((Path(__file__).parent / "airflow_chart_keys.json").read_text())
ANY_KEYS = " of any keys"
TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "object": dict,
    "array": list,
    "null": type(None),
    "any": object,
}
FORMS = ("airflow-values.yaml", "airflow-values-local-executor.yaml")


def values_of(form: str) -> Values:
    return yaml.safe_load((ROOT / "helm" / form).read_text())


def merged(under: Any, over: Any) -> Any:
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return {**under, **{key: merged(under.get(key), value) for key, value in over.items()}}


def problems(values: Values, path: str = "") -> Iterator[str]:
    """Yield the keys that the chart has not, and values of another type."""
    for key, value in values.items():
        where = f"{path}.{key}".removeprefix(".")
        types = KNOWN["keys"].get(where)
        if types is None:
            yield f"{where}: the chart {KNOWN['chart']} has no such key"
            continue
        names = types.removesuffix(ANY_KEYS).split("|")
        right = any(isinstance(value, TYPES[name]) for name in names)
        if not right or (isinstance(value, bool) and "boolean" not in names):
            yield f"{where}: expected {types}, found {value!r}"
        elif isinstance(value, dict) and not types.endswith(ANY_KEYS):
            yield from problems(value, where)


@pytest.mark.parametrize("form", FORMS)
def test_every_key_is_one_of_the_official_chart(form: str) -> None:
    assert list(problems(values_of(form))) == []


@pytest.mark.parametrize(
    ("values", "words"),
    (
        pytest.param({"webserver": {}}, "webserver: the chart", id="a key of Airflow 2"),
        pytest.param({"scheduler": {"replica": 2}}, "scheduler.replica: the chart", id="misspelt"),
        pytest.param({"uid": "10001"}, "uid: expected integer", id="another type"),
        pytest.param({"uid": True}, "uid: expected integer", id="true is no number"),
        pytest.param({"extraEnvFrom": []}, "extraEnvFrom: expected null|string", id="a list"),
        pytest.param(
            {"scheduler": {"logGroomerSidecar": {"enable": False}}},
            "scheduler.logGroomerSidecar.enable: the chart",
            id="misspelt in a definition that parts share",
        ),
    ),
)
def test_a_key_that_the_chart_has_not_is_seen(values: Values, words: str) -> None:
    (problem,) = problems(values)
    assert problem.startswith(words)


def as_a_pod(values: Values) -> dict[str, Any]:
    """Return a pod of all that the chart hands on to Kubernetes as it is: what it opens no keys of."""
    security = values["securityContexts"]
    server = values["apiServer"]
    parts = {"api-server": server, "task": values["workers"]["kubernetes"]}
    parts |= {name: values[name] for name in ("scheduler", "triggerer", "dagProcessor")}
    containers = [
        {
            "name": name.lower(),
            "image": "registry.example/headrace/airflow:1",
            "resources": part["resources"],
            "securityContext": security["containers"],
            "envFrom": yaml.safe_load(values["extraEnvFrom"]),
            "volumeMounts": [*values["volumeMounts"], *part.get("extraVolumeMounts", [])],
        }
        for name, part in parts.items()
    ]
    spec = {
        "securityContext": security["pod"],
        "volumes": [*values["volumes"], *server["extraVolumes"]],
        "initContainers": server["extraInitContainers"],
        "containers": containers,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "all"}, "spec": spec}


@pytest.mark.parametrize("kubernetes", ("1.29", kubernetes_validate.latest_version()))
@pytest.mark.parametrize("form", FORMS)
def test_what_the_chart_hands_on_is_what_kubernetes_accepts(form: str, kubernetes: str) -> None:
    values = merged(values_of(FORMS[0]), values_of(form))
    kubernetes_validate.validate(as_a_pod(values), kubernetes, strict=True)


@pytest.mark.parametrize(
    ("over", "word"),
    (
        pytest.param({"securityContexts": {"pod": {"runAsNonRot": True}}}, "runAsNonRot", id="pod"),
        pytest.param({"scheduler": {"resources": {"request": {}}}}, "request", id="resources"),
        pytest.param(
            {"volumeMounts": [{"name": "a", "mountpath": "/a"}]}, "mountpath", id="a list"
        ),
    ),
)
def test_a_key_that_kubernetes_has_not_is_seen(over: Values, word: str) -> None:
    values = merged(values_of(FORMS[0]), over)
    with pytest.raises(kubernetes_validate.ValidationError, match=word):
        kubernetes_validate.validate(as_a_pod(values), "1.29", strict=True)


@pytest.mark.parametrize("form", FORMS)
def test_every_key_is_explained(form: str) -> None:
    text = (ROOT / "helm" / form).read_text()
    told = {one.key for one in script("readme").explained(text)}

    def unexplained(values: Any, path: str) -> Iterator[str]:
        if path in told:
            return
        if not isinstance(values, dict):
            yield path
            return
        for key, value in values.items():
            yield from unexplained(value, f"{path}.{key}".removeprefix("."))

    assert list(unexplained(values_of(form), "")) == []


@pytest.mark.parametrize("form", FORMS)
def test_every_option_of_airflow_is_one(form: str) -> None:
    known = retrieve_configuration_description(include_providers=True)
    for section, options in values_of(form).get("config", {}).items():
        assert set(options) <= set(known[section]["options"]), section


def test_airflow_is_told_by_the_config_maps_of_our_chart() -> None:
    found = objects(EVERYTHING)
    values = values_of(FORMS[0])
    sources = yaml.safe_load(values["extraEnvFrom"])
    (told,) = [one["configMapRef"]["name"] for one in sources if "configMapRef" in one]
    variables = named(found, "ConfigMap", told)["data"]
    (volume,) = values["volumes"]
    (mount,) = values["volumeMounts"]
    assert volume["name"] == mount["name"]
    (file,) = named(found, "ConfigMap", volume["configMap"]["name"])["data"]
    assert variables["HEADRACE_POD_TEMPLATE"] == f"{mount['mountPath']}/{file}"


def test_the_image_has_what_the_values_say() -> None:
    values = values_of(FORMS[0])
    dockerfile = (ROOT / "images/airflow/Dockerfile").read_text()
    (bundle,) = values["dagProcessor"]["dagBundleConfigList"]
    core = values["config"]["core"]
    assert bundle["kwargs"]["path"] == core["dags_folder"]
    assert f"COPY dags {core['dags_folder']}\n" in dockerfile
    assert f"AIRFLOW__CORE__PLUGINS_FOLDER={core['plugins_folder']}\n" in dockerfile
    assert f"USER {values['uid']}:{values['gid']}\n" in dockerfile
    lock = (ROOT / "requirements/airflow.lock").read_text()
    assert f"apache-airflow=={values['airflowVersion']}\n" in lock
    assert re.search(r"^psycopg2-binary==", lock, re.MULTILINE)  # of the metadata database


def test_parts_that_our_image_has_no_program_for_are_off() -> None:
    values = values_of(FORMS[0])
    for part in ("scheduler", "triggerer", "dagProcessor"):
        assert values[part]["logGroomerSidecar"] == {"enabled": False}
    for part in ("redis", "postgresql", "statsd", "createUserJob"):
        assert values[part] == {"enabled": False}


def test_no_credential_stands_in_the_values() -> None:
    for form in FORMS:
        text = (ROOT / "helm" / form).read_text()
        values = values_of(form)
        assert not re.search(r"://[^\s:/]+:[^\s@A-Z]+@", text)
        assert {"fernetKey", "jwtSecret", "apiSecretKey", "extraSecrets"}.isdisjoint(values)
        assert "metadataConnection" not in values.get("data", {})


@pytest.mark.parametrize("form", FORMS)
def test_airflows_pods_keep_to_restricted_security(form: str) -> None:
    values = merged(values_of(FORMS[0]), values_of(form))
    pod, container = (values["securityContexts"][name] for name in ("pod", "containers"))
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] == values["uid"]
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    for one in values["apiServer"]["extraInitContainers"]:
        assert one["image"] == f"{values['defaultAirflowRepository']}:{values['defaultAirflowTag']}"
        assert container.items() <= one["securityContext"].items()


def test_the_two_forms_differ_in_what_runs_tasks_only() -> None:
    kubernetes, local = values_of(FORMS[0]), merged(values_of(FORMS[0]), values_of(FORMS[1]))
    assert (kubernetes["executor"], local["executor"]) == ("KubernetesExecutor", "LocalExecutor")
    assert (kubernetes["allowPodLaunching"], local["allowPodLaunching"]) == (True, False)
    changed = {key for key in kubernetes if kubernetes[key] != local[key]}
    assert changed == {"executor", "allowPodLaunching", "scheduler", "config"}
    # Two schedulers would both run tasks, and a budget of one pod holds up every drain.
    assert local["scheduler"]["replicas"] == 1
    assert local["scheduler"]["podDisruptionBudget"] == {"enabled": False}
