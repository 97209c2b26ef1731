"""Every case of ci/ renders to objects that Kubernetes 1.29 and the newest accept."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import kubernetes_validate
import pytest
import yaml

from tests.unit.helm.rendered import (
    CASES,
    CHART,
    EVERYTHING,
    NAMESPACE,
    ONE_NODE,
    ROOT,
    SMALLEST,
    StrictLoader,
    case_values,
    containers,
    named,
    objects,
    objects_of,
    pods,
    rendered,
    with_values,
)

OF_THE_OPERATOR = {"ServiceMonitor", "PrometheusRule"}  # no schemas of Kubernetes


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"helm_{name}", ROOT / f"helm/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kubernetes", ("1.29", kubernetes_validate.latest_version()))
@pytest.mark.parametrize("case", CASES)
def test_a_case_is_what_kubernetes_accepts(case: str, kubernetes: str) -> None:
    checked = [one for one in objects(case) if one["kind"] not in OF_THE_OPERATOR]
    assert checked
    for one in checked:
        kubernetes_validate.validate(one, kubernetes, strict=True)


def test_the_schemas_refuse_what_is_misspelt() -> None:
    router = json.loads(json.dumps(named(objects(SMALLEST), "Deployment", "headrace-router")))
    router["spec"]["template"]["spec"]["container"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="container"):
        kubernetes_validate.validate(router, "1.29", strict=True)


def test_helm_lint_strict_has_nothing_to_say() -> None:
    assert list(script("lint").complaints(CHART)) == []


def test_helm_lint_strict_speaks_of_a_chart_that_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "headrace"
    (folder / "ci").mkdir(parents=True)
    (folder / "templates").mkdir()
    (folder / "ci/01-a-values.yaml").write_text("{}\n")
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: headrace\nversion: 0.1.0\n")
    (folder / "templates/a.yaml").write_text("kind: ConfigMap\nmetadata: {name: NOT_A_NAME}\n")
    found = "\n".join(script("lint").complaints(folder))
    assert "01-a-values.yaml" in found
    assert "NOT_A_NAME" in found


def test_the_readme_says_what_the_values_say() -> None:
    made = script("readme").readme((CHART / "values.yaml").read_text())
    assert (CHART / "README.md").read_text() == made, "run `python helm/readme.py`"


def test_a_text_goes_to_the_key_right_below_it() -> None:
    found = list(
        script("readme").explained("a:\n  # -- Of b.\n  b: 1\n  c: 2\n# -- Of d.\nd: {}\n")
    )
    assert [(one.key, one.text) for one in found] == [("a.b", "Of b."), ("d", "Of d.")]


def test_every_value_is_explained() -> None:
    told = {one.key for one in script("readme").explained((CHART / "values.yaml").read_text())}

    def leaves(prefix: str, inner: object) -> list[str]:
        if prefix in told or not isinstance(inner, dict):
            return [prefix]
        return [leaf for key, value in inner.items() for leaf in leaves(f"{prefix}.{key}", value)]

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    every = [leaf for key, value in values.items() for leaf in leaves(key, value)]
    assert [leaf for leaf in every if leaf not in told] == []


@pytest.mark.parametrize("case", CASES)
def test_no_case_renders_a_credential(case: str) -> None:
    found = objects(case)
    assert [one for one in found if one["kind"] == "Secret"] == []
    for _, pod in pods(found):
        for container in containers(pod):
            for entry in container.get("env", []):
                assert not re.search(r"KEY|SECRET|PASSWORD|TOKEN", entry["name"]), entry


def test_credentials_come_by_reference_to_those_that_need_them_only() -> None:
    found = dict(pods(objects(EVERYTHING)))
    named_secrets = {
        name: sorted(
            ref["secretRef"]["name"] for one in containers(pod) for ref in one.get("envFrom", [])
        )
        for name, pod in found.items()
    }
    assert {name: refs for name, refs in named_secrets.items() if refs} == {
        "CronJob/headrace-reaper": ["headrace-reaper"],
        "Deployment/headrace-mlflow": ["headrace-mlflow-database"],
    }  # the case has a role of the cloud for the store
    one_node = dict(pods(objects(ONE_NODE)))
    (base,) = containers(one_node["stages"])
    assert base["envFrom"] == [{"secretRef": {"name": "headrace-store"}}]
    for container in containers(one_node["Deployment/headrace-router"]):
        assert "envFrom" not in container


@pytest.mark.parametrize("case", CASES)
def test_no_two_objects_share_kind_and_name(case: str) -> None:
    names = [
        (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"])
        for one in objects(case)
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("case", CASES)
def test_what_an_object_selects_is_there(case: str) -> None:
    """Services, budgets and policies by label; autoscalers by name."""
    found = objects(case)
    labels = [pod["metadata"].get("labels", {}) for name, pod in pods(found) if name != "stages"]
    for one in found:
        if one["kind"] in {"Service", "PodDisruptionBudget"}:
            chosen = one["spec"]["selector"]
            chosen = chosen.get("matchLabels", chosen)
            assert any(chosen.items() <= pod.items() for pod in labels), one["metadata"]["name"]
        if one["kind"] == "HorizontalPodAutoscaler":
            target = named(found, "Deployment", one["spec"]["scaleTargetRef"]["name"])
            assert "replicas" not in target["spec"]  # an upgrade must not scale it back
            for container in target["spec"]["template"]["spec"]["containers"]:
                assert container["resources"]["requests"]["cpu"]


def test_without_an_autoscaler_the_values_say_how_many() -> None:
    found = objects(EVERYTHING)
    assert named(found, "Deployment", "headrace-search-blue")["spec"]["replicas"] == 4
    kinds = {one["metadata"]["name"] for one in found if one["kind"] == "HorizontalPodAutoscaler"}
    assert kinds == {
        "headrace-router",
        *(f"headrace-recommender-{colour}" for colour in ("blue", "green", "violet")),
    }


def test_an_upgrade_takes_no_pod_away_before_another_is_ready() -> None:
    for one in objects(EVERYTHING):
        alone = {"headrace-mlflow", "headrace-shadow"}  # two would write one file
        if one["kind"] == "Deployment" and one["metadata"]["name"] not in alone:
            assert one["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_state_outlives_the_release() -> None:
    found = objects(ONE_NODE)
    for kind, name in (
        ("PersistentVolume", f"headrace-state-{NAMESPACE}"),
        ("PersistentVolumeClaim", "headrace-state"),
        ("ConfigMap", "headrace-rollout-recommender"),
    ):
        one = named(found, kind, name)
        assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    # Data of the chart would be written over the record by an upgrade, and by a rollback too.
    assert "data" not in named(found, "ConfigMap", "headrace-rollout-recommender")


def test_a_claim_that_is_there_is_not_made() -> None:
    assert not [one for one in objects(SMALLEST) if one["kind"].startswith("PersistentVolume")]
    router = dict(pods(objects(SMALLEST)))["Deployment/headrace-router"]
    claims = [
        one["persistentVolumeClaim"]["claimName"]
        for one in router["spec"]["volumes"]
        if "persistentVolumeClaim" in one
    ]
    assert claims == ["headrace-state-of-the-team"]


@pytest.mark.parametrize(
    ("said", "kinds"),
    (
        pytest.param(
            "always", {"ServiceMonitor", "PrometheusRule"}, id="whatever the cluster knows"
        ),
        pytest.param("auto", set(), id="this Helm knows no kind of the operator"),
        pytest.param("never", set(), id="never"),
    ),
)
def test_monitors_are_rendered_where_the_cluster_knows_them(said: str, kinds: set[str]) -> None:
    values = with_values(
        SMALLEST,
        monitoring={"serviceMonitor": said, "prometheusRule": said, "dashboard": said},
    )
    found = objects_of(values)
    assert {one["kind"] for one in found} & OF_THE_OPERATOR == kinds
    dashboards = [one for one in found if one["metadata"]["name"] == "headrace-dashboard"]
    assert len(dashboards) == (1 if said == "always" else 0)


def test_a_cluster_that_knows_the_kinds_gets_monitors_unasked(tmp_path: Path) -> None:
    """With an API that every cluster knows in the place of the operator's."""
    folder = shutil.copytree(CHART, tmp_path / "headrace")
    helpers = folder / "templates/_helpers.tpl"
    text = helpers.read_text()
    asked = '(printf "monitoring.coreos.com/v1/%s" .kind)'
    assert text.count(asked) == 1
    helpers.write_text(text.replace(asked, '"apps/v1"'))
    found = objects_of(case_values(SMALLEST), folder)
    assert {one["kind"] for one in found} >= OF_THE_OPERATOR
    named(found, "ConfigMap", "headrace-dashboard")


@pytest.mark.skipif(shutil.which("helm") is None, reason="expected helm on PATH, found none")
@pytest.mark.parametrize("case", CASES)
def test_the_program_helm_renders_the_same(case: str) -> None:
    """Helm 3 beside the library's Helm 4, told of an operator and of Kubernetes 1.29."""
    kinds = [f"--api-versions=monitoring.coreos.com/v1/{kind}" for kind in OF_THE_OPERATOR]
    told = subprocess.run(
        [
            "helm",
            "template",
            "reco",
            str(CHART),
            "--namespace",
            NAMESPACE,
            "--kube-version=1.29",
            "--values",
            str(CHART / "ci" / case),
            *kinds,
        ],
        capture_output=True,
        check=True,
        text=True,
    )
    by_program = {
        (one["kind"], one["metadata"]["name"]): one
        for one in yaml.load_all(told.stdout, StrictLoader)
        if one is not None
    }
    monitored = case_values(case).get("monitoring", {}).get("serviceMonitor") != "never"
    assert (("ServiceMonitor", "headrace-keeper") in by_program) == monitored
    for one in objects(case):
        assert by_program[one["kind"], one["metadata"]["name"]] == one


def test_alerts_and_dashboard_are_the_files_of_the_chart() -> None:
    found = objects(EVERYTHING)
    rule = named(found, "PrometheusRule", "headrace-rollout")
    alerts = yaml.safe_load((CHART / "monitoring/rollout_alerts.yaml").read_text())
    assert rule["spec"] == alerts
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    board = named(found, "ConfigMap", "headrace-dashboard")
    text = (CHART / "monitoring/rollout_dashboard.json").read_text()
    assert json.loads(board["data"]["headrace-rollout.json"]) == json.loads(text)


def test_a_monitor_finds_the_keepers_port() -> None:
    found = objects(EVERYTHING)
    monitor = named(found, "ServiceMonitor", "headrace-keeper")["spec"]
    chosen = [
        one
        for one in found
        if one["kind"] == "Service"
        and monitor["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items()
    ]
    assert [one["metadata"]["name"] for one in chosen] == ["headrace-keeper"]
    ports = {port["name"]: port["targetPort"] for port in chosen[0]["spec"]["ports"]}
    assert monitor["endpoints"][0]["port"] in ports
    router = named(found, "Deployment", "headrace-router")["spec"]["template"]["spec"]
    offered = {port["name"] for one in router["containers"] for port in one.get("ports", [])}
    assert set(ports.values()) <= offered
    # Without a jobLabel the job is the Service's name, and the alert on a dead keeper asks for it.
    assert "jobLabel" not in monitor
    alerts = (CHART / "monitoring/rollout_alerts.yaml").read_text()
    assert re.findall(r'job="([^"]+)"', alerts) == [chosen[0]["metadata"]["name"]]


def test_notes_say_the_next_step_and_what_to_know() -> None:
    first = rendered(case_values(ONE_NODE), is_install=True)["headrace/templates/NOTES.txt"]
    assert "helm test reco --namespace shop" in first
    assert "DAG release_recommender, Trigger" in first
    assert "recommender has one pod a slot" in first
    assert "belong to user 10001" in first
    later = rendered(case_values(SMALLEST), is_upgrade=True, is_install=False)
    assert "DAG release_recommender" not in later["headrace/templates/NOTES.txt"]
    assert "Warning" not in later["headrace/templates/NOTES.txt"]


@pytest.mark.parametrize("case", CASES)
def test_every_file_that_a_runbook_or_note_names_is_there(case: str) -> None:
    notes = rendered(case_values(case))["headrace/templates/NOTES.txt"]
    for name in re.findall(r"(?:docs|helm)/[\w./-]+\.(?:md|yaml)", notes):
        assert (ROOT / name).is_file(), name


def test_what_the_runbook_names_is_there() -> None:
    text = (ROOT / "docs/runbooks/platform.md").read_text()
    for name in re.findall(r"(?:helm|tests)/[\w./-]+\.(?:yaml|py|md)", text):
        assert (ROOT / name).is_file(), name
    found = objects(EVERYTHING)
    for name in ("headrace-rollout-recommender", "headrace-airflow", "headrace-pod-template"):
        named(found, "ConfigMap", name)
