"""Who can do what, as `kubectl auth can-i` would answer: a table over the rendered roles."""

from __future__ import annotations

import pytest
import yaml

from tests.unit.helm.rendered import (
    CASES,
    CHART,
    EVERYTHING,
    NAMESPACE,
    SMALLEST,
    named,
    objects,
    objects_of,
    pods,
    with_values,
)
from tests.unit.helm.rights import Ask, can, rules_for

RECORD = "headrace-rollout-recommender"
LAUNCHERS = tuple(("airflow", f"airflow-{name}") for name in ("scheduler", "worker", "triggerer"))
ROUTER, ROLLOUT = (NAMESPACE, "headrace-router"), (NAMESPACE, "headrace-rollout")
STAGE, SERVING = (NAMESPACE, "headrace-stage"), (NAMESPACE, "headrace-serving")
REAPER, MLFLOW = (NAMESPACE, "headrace-reaper"), (NAMESPACE, "headrace-mlflow")
SHADOW = (NAMESPACE, "headrace-shadow")
TEST, STRANGER = (NAMESPACE, "headrace-test"), (NAMESPACE, "default")
EVERYBODY = (*LAUNCHERS, ROUTER, ROLLOUT, STAGE, SERVING, REAPER, MLFLOW, SHADOW, TEST, STRANGER)

# what: who may; everybody else of EVERYBODY may not
TABLE: dict[Ask, tuple[tuple[str, str], ...]] = {
    Ask(verb="create", resource="pods"): LAUNCHERS,
    Ask(verb="get", resource="pods", name="a"): (*LAUNCHERS, REAPER),
    Ask(verb="list", resource="pods"): (*LAUNCHERS, REAPER),
    Ask(verb="delete", resource="pods", name="a"): (*LAUNCHERS, REAPER),
    Ask(verb="watch", resource="pods"): (),
    Ask(verb="patch", resource="pods", name="a"): (),
    Ask(verb="deletecollection", resource="pods"): (),
    Ask(verb="create", resource="pods/exec", name="a"): (),
    Ask(verb="create", resource="pods/eviction", name="a"): (),
    Ask(verb="get", resource="pods/log", name="a"): LAUNCHERS,
    Ask(verb="create", resource="services"): LAUNCHERS,  # of groups of pods
    Ask(verb="delete", resource="services", name="headrace-router"): (),
    Ask(verb="update", resource="services", name="headrace-router"): (),
    Ask(verb="get", resource="configmaps", name=RECORD): (*LAUNCHERS, ROUTER, ROLLOUT),
    Ask(verb="update", resource="configmaps", name=RECORD): (*LAUNCHERS, ROUTER, ROLLOUT),
    Ask(verb="watch", resource="configmaps", name=RECORD): (ROUTER, SHADOW),
    Ask(verb="list", resource="configmaps", name=RECORD): (ROUTER, SHADOW),
    Ask(verb="list", resource="configmaps"): (),
    Ask(verb="create", resource="configmaps"): (),
    Ask(verb="delete", resource="configmaps", name=RECORD): (),
    Ask(verb="update", resource="configmaps", name="headrace-pod-template"): (),
    Ask(verb="get", resource="secrets", name="headrace-store"): (),
    Ask(verb="list", resource="secrets"): (),
    Ask(verb="create", resource="serviceaccounts/token", name="headrace-router"): (),
    Ask(verb="update", resource="deployments", group="apps", name="headrace-router"): (),
    Ask(verb="patch", resource="deployments/scale", group="apps", name="headrace-router"): (),
    Ask(verb="create", resource="jobs", group="batch"): (),
    Ask(verb="create", resource="rolebindings", group="rbac.authorization.k8s.io"): (),
    Ask(verb="delete", resource="networkpolicies", group="networking.k8s.io", name="a"): (),
    Ask(verb="list", resource="nodes", namespace=""): LAUNCHERS,
    Ask(verb="get", resource="nodes", namespace="", name="a"): (),
    Ask(verb="list", resource="pods", namespace=""): (),
    Ask(verb="create", resource="pods", namespace="airflow"): (),
    Ask(verb="get", resource="configmaps", namespace="kube-system", name=RECORD): (),
}


@pytest.mark.parametrize(
    "ask", TABLE, ids=lambda ask: f"{ask.verb} {ask.resource} {ask.name} {ask.namespace}"
)
def test_only_those_of_the_table_can(ask: Ask) -> None:
    found = objects(EVERYTHING)
    assert {who for who in EVERYBODY if can(found, who, ask)} == set(TABLE[ask])


def test_no_rule_says_more_than_the_table() -> None:
    """Every right that is granted stands in the table with those who have it."""
    found = objects(EVERYTHING)
    asked = {(ask.verb, ask.resource, ask.group) for ask, who in TABLE.items() if who}
    for who in EVERYBODY:
        for place in (NAMESPACE, ""):
            for rule in rules_for(found, who, place):
                granted = {
                    (verb, resource, group)
                    for verb in rule["verbs"]
                    for resource in rule["resources"]
                    for group in rule["apiGroups"]
                }
                assert granted <= asked, who


@pytest.mark.parametrize("case", CASES)
def test_no_rule_has_a_star(case: str) -> None:
    for role in objects(case):
        if role["kind"] in {"Role", "ClusterRole"}:
            for rule in role["rules"]:
                assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]


@pytest.mark.parametrize("case", CASES)
def test_every_pod_has_an_account_that_is_made_here(case: str) -> None:
    found = objects(case)
    made = {one["metadata"]["name"] for one in found if one["kind"] == "ServiceAccount"}
    for name, pod in pods(found):
        assert pod["spec"]["serviceAccountName"] in made, name
    assert not any(
        one["automountServiceAccountToken"] for one in found if one["kind"] == "ServiceAccount"
    )


def test_the_records_of_other_models_are_made_and_may_be_changed() -> None:
    found = objects(EVERYTHING)
    named(found, "ConfigMap", "headrace-rollout-search")
    ask = Ask(verb="update", resource="configmaps", name="headrace-rollout-search")
    assert can(found, ROUTER, ask)
    assert not can(objects(SMALLEST), ROUTER, ask)  # that release has no such model


def test_airflow_may_be_kept_from_the_nodes() -> None:
    found = objects_of(with_values(SMALLEST, airflow__mayListNodes=False))
    assert {one["kind"] for one in found}.isdisjoint({"ClusterRole", "ClusterRoleBinding"})


def test_airflow_in_the_releases_namespace_is_bound_there() -> None:
    who = (NAMESPACE, "airflow-worker")
    ask = Ask(verb="create", resource="pods")
    assert can(objects(SMALLEST), who, ask)
    assert not can(objects(EVERYTHING), who, ask)


def test_the_defaults_name_the_accounts_that_run_tasks() -> None:
    accounts = yaml.safe_load((CHART / "values.yaml").read_text())["airflow"]["serviceAccounts"]
    assert accounts == [name for _, name in LAUNCHERS]
