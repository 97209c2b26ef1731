"""Every flow that is needed is open, every other is closed: a table of pods against pods."""

from __future__ import annotations

from itertools import product

import pytest

from tests.unit.helm.flows import End, passes, selects
from tests.unit.helm.rendered import (
    CASES,
    EVERYTHING,
    NAMESPACE,
    ONE_NODE,
    SMALLEST,
    Object,
    objects,
    objects_of,
    pods,
    with_values,
)

BY_OPERATOR = {"app.kubernetes.io/managed-by": "headrace", "headrace/task": "0123456789abcdef"}


def _labels(name: str) -> dict[str, str]:
    return dict(pods(objects(EVERYTHING)))[name]["metadata"]["labels"]


ENDS = {
    "router": End(namespace=NAMESPACE, labels=_labels("Deployment/headrace-router")),
    "slot": End(namespace=NAMESPACE, labels=_labels("Deployment/headrace-recommender-blue")),
    "stage": End(namespace=NAMESPACE, labels={**BY_OPERATOR, "headrace/role": "stage"}),
    "rollout stage": End(namespace=NAMESPACE, labels={**BY_OPERATOR, "headrace/role": "rollout"}),
    "rank": End(
        namespace=NAMESPACE,
        labels={**BY_OPERATOR, "headrace/role": "stage", "headrace/group": "a"},
    ),
    "reaper": End(namespace=NAMESPACE, labels=_labels("CronJob/headrace-reaper")),
    "mlflow": End(namespace=NAMESPACE, labels=_labels("Deployment/headrace-mlflow")),
    "shadow": End(namespace=NAMESPACE, labels=_labels("Deployment/headrace-shadow")),
    "test": End(namespace=NAMESPACE, labels=_labels("Pod/headrace-test-router")),
    "stranger here": End(namespace=NAMESPACE, labels={"app": "stranger"}),
    "storefront": End(namespace="shop-front", labels={"app": "storefront"}),
    "prometheus": End(namespace="monitoring", labels={"app.kubernetes.io/name": "prometheus"}),
    "airflow": End(namespace="airflow", labels={"tier": "airflow", "component": "worker"}),
    "dns": End(namespace="kube-system", labels={"k8s-app": "kube-dns"}),
    "kubernetes": End(address="198.51.100.1"),
    "store": End(address="203.0.113.7"),
    "database": End(address="203.0.113.8"),
}
PORTS = (53, 443, 5000, 5432, 6443, 8080, 8500, 8501, 9102, 9901, 9911, 9913, 22)
STAGES = ("stage", "rollout stage", "rank")
VALUES = with_values(
    EVERYTHING,
    networkPolicies={
        "clients": [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop-front"}},
                "podSelector": {"matchLabels": {"app": "storefront"}},
            }
        ],
        "kubernetesApi": {"cidrs": ["198.51.100.1/32"], "ports": [6443]},
        "store": {"cidrs": ["203.0.113.7/32"], "ports": [443]},
        "database": {"cidrs": ["203.0.113.8/32"], "ports": [5432]},
    },
)

# Each needed flow, and why. What is not here is closed.
NEEDED: dict[tuple[str, str, int], str] = {
    ("storefront", "router", 8080): "users",
    ("test", "router", 8080): "helm test",
    ("prometheus", "router", 9102): "metrics of the keeper",
    ("router", "slot", 8500): "Envoy, gRPC",
    ("router", "slot", 8501): "Envoy, REST; the keeper asks whether slots answer",
    ("router", "kubernetes", 6443): "the keeper watches and changes the state record",
    ("router", "shadow", 9911): "mirrored requests, REST",
    ("router", "shadow", 9913): "mirrored requests, gRPC",
    ("shadow", "slot", 8500): "what came by gRPC is asked by gRPC",
    ("shadow", "slot", 8501): "what came by REST is asked by REST",
    ("shadow", "kubernetes", 6443): "it watches the state record",
    ("rollout stage", "slot", 8500): "stage_bundle asks the golden requests",
    ("rollout stage", "slot", 8501): "stage_bundle waits until a release is loaded",
    ("rollout stage", "kubernetes", 6443): "the state record",
    ("rollout stage", "mlflow", 5000): "mirror_release",
    ("reaper", "kubernetes", 6443): "which pods are there",
    ("reaper", "airflow", 8080): "whose task instances have ended",
    ("rank", "rank", 22): "ranks choose their ports at the start",
    ("mlflow", "database", 5432): "runs",
    ("mlflow", "store", 443): "plots",
    **{(stage, "store", 443): "artifacts, events" for stage in STAGES},
    **{
        (source, "dns", 53): "names"
        for source in (*STAGES, "router", "reaper", "mlflow", "shadow", "test")
    },
}


def expected(source: str, target: str, port: int) -> bool:
    if (source, target) == ("rank", "rank"):
        return True
    return (source, target, port) in NEEDED


@pytest.fixture(scope="module")
def strict() -> list[Object]:
    return objects_of(VALUES)


@pytest.mark.parametrize("source", [name for name in ENDS if ENDS[name].namespace == NAMESPACE])
def test_a_pod_reaches_what_it_needs_and_nothing_else(source: str, strict: list[Object]) -> None:
    for target, port in product(ENDS, PORTS):
        found = passes(strict, ENDS[source], ENDS[target], port)
        assert found == expected(source, target, port), f"{source} -> {target}:{port}: {found}"


@pytest.mark.parametrize("target", [name for name in ENDS if ENDS[name].namespace == NAMESPACE])
def test_nobody_reaches_a_pod_but_those_it_is_for(target: str, strict: list[Object]) -> None:
    outside = End(address="192.0.2.99")
    for port in PORTS:
        assert not passes(strict, outside, ENDS[target], port), f"outside -> {target}:{port}"
        for source, end in ENDS.items():
            found = passes(strict, end, ENDS[target], port)
            assert found == expected(source, target, port), f"{source} -> {target}:{port}: {found}"


def test_names_are_resolved_over_udp_too(strict: list[Object]) -> None:
    assert passes(strict, ENDS["router"], ENDS["dns"], 53, "UDP")
    assert not passes(strict, ENDS["slot"], ENDS["dns"], 53, "UDP")
    assert not passes(strict, ENDS["router"], ENDS["slot"], 8500, "UDP")


def test_a_new_pod_of_the_namespace_is_closed_until_somebody_opens_it(strict: list[Object]) -> None:
    new = End(namespace=NAMESPACE, labels={})
    for name, port in product(ENDS, PORTS):
        assert not passes(strict, new, ENDS[name], port)
        assert not passes(strict, ENDS[name], new, port)


def test_airflows_own_pods_are_left_to_its_chart() -> None:
    """In one namespace: whoever Airflow speaks to, and what speaks to it, is not ours to say."""
    found = objects(SMALLEST)
    airflow = End(namespace=NAMESPACE, labels={"tier": "airflow", "component": "api-server"})
    assert passes(found, airflow, ENDS["store"], 443)
    assert passes(found, ENDS["reaper"], airflow, 8080)
    assert not passes(found, airflow, ENDS["slot"], 8500)


def test_by_default_every_pod_of_the_cluster_may_ask_the_router_and_nobody_from_outside() -> None:
    found = objects(SMALLEST)
    assert passes(found, ENDS["storefront"], ENDS["router"], 8080)
    assert not passes(found, ENDS["storefront"], ENDS["router"], 9102)
    assert not passes(found, End(address="192.0.2.1"), ENDS["router"], 8080)


def test_an_address_block_lets_in_what_it_does_not_except() -> None:
    found = objects(EVERYTHING)
    assert passes(found, End(address="192.0.2.1"), ENDS["router"], 8080)
    assert not passes(found, End(address="192.0.2.129"), ENDS["router"], 8080)


def test_an_mlflow_that_is_elsewhere_is_reached_by_rollout_stages_only() -> None:
    found = objects_of(with_values(SMALLEST, mlflow={"url": "http://203.0.113.9:5000"}))
    mlflow = End(address="203.0.113.9")
    assert passes(found, ENDS["rollout stage"], mlflow, 5000)
    assert not passes(found, ENDS["stage"], mlflow, 5000)
    assert not passes(objects(SMALLEST), ENDS["rollout stage"], mlflow, 5000)


def test_a_store_that_is_not_aws_has_its_own_address_and_port() -> None:
    found = objects(ONE_NODE)
    assert passes(found, ENDS["stage"], End(address="10.244.0.1"), 5555)
    assert not passes(found, ENDS["stage"], End(address="10.244.0.1"), 443)
    assert not passes(found, ENDS["stage"], End(address="10.244.0.2"), 5555)


@pytest.mark.parametrize("case", CASES)
def test_every_pod_of_a_case_is_under_default_deny_unless_it_is_switched_off(case: str) -> None:
    found = objects(case)
    denied = [one for one in found if one["metadata"]["name"] == "headrace-default-deny"]
    assert len(denied) == (0 if case.startswith("05") else 1)
    for policy in denied:
        for name, pod in pods(found):
            labels = BY_OPERATOR if name == "stages" else pod["metadata"]["labels"]
            assert selects(policy["spec"]["podSelector"], labels), name


def test_the_evaluator_lets_through_what_no_policy_speaks_of() -> None:
    assert passes([], ENDS["stranger here"], ENDS["slot"], 8500)
