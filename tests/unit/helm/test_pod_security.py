"""Kubernetes' restricted pod security and this project's own rules, as a table over every pod.

The test cluster has no pod security admission, so nothing enforces them there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.helm.rendered import CASES, EVERYTHING, Object, containers, objects, pods

Rule = Callable[[Object], bool]
RESTRICTED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"} | {
    "persistentVolumeClaim",
    "projected",
    "secret",
}
ASK_KUBERNETES = {"headrace-router", "headrace-reaper", "headrace-shadow"}


def _each(pod: Object, good: Callable[[Object], Any]) -> bool:
    return all(bool(good(one)) for one in containers(pod))


def _security(container: Object) -> Object:
    return container.get("securityContext", {})


def _volumes(pod: Object) -> Iterator[str]:
    for volume in pod["spec"].get("volumes", []):
        yield from volume.keys() - {"name"}


# The Pod Security Standard `restricted`, as of Kubernetes 1.29, rule by rule; then our own.
RULES: dict[str, Rule] = {
    "shares no network of the node": lambda pod: not pod["spec"].get("hostNetwork"),
    "shares no processes of the node": lambda pod: not pod["spec"].get("hostPID"),
    "shares no memory of the node": lambda pod: not pod["spec"].get("hostIPC"),
    "is not privileged": lambda pod: _each(pod, lambda one: not _security(one).get("privileged")),
    "may not become privileged": lambda pod: _each(
        pod, lambda one: _security(one).get("allowPrivilegeEscalation") is False
    ),
    "has no capabilities": lambda pod: _each(
        pod, lambda one: _security(one).get("capabilities") == {"drop": ["ALL"]}
    ),
    "mounts only harmless volumes": lambda pod: set(_volumes(pod)) <= RESTRICTED_VOLUMES,
    "takes no port of the node": lambda pod: _each(
        pod, lambda one: not any("hostPort" in port for port in one.get("ports", []))
    ),
    "runs as nobody special": lambda pod: (
        pod["spec"]["securityContext"].get("runAsNonRoot") is True
        and pod["spec"]["securityContext"].get("runAsUser", 0) > 0
        and _each(pod, lambda one: _security(one).get("runAsUser", 1) > 0)
    ),
    "has the runtime's seccomp profile": lambda pod: (
        pod["spec"]["securityContext"].get("seccompProfile") == {"type": "RuntimeDefault"}
    ),
    "sets no sysctls": lambda pod: not pod["spec"]["securityContext"].get("sysctls"),
    "has a read-only root": lambda pod: _each(
        pod, lambda one: _security(one).get("readOnlyRootFilesystem") is True
    ),
    "has a service account of its role": lambda pod: pod["spec"]["serviceAccountName"].startswith(
        "headrace-"
    ),
    "has a token only if it asks Kubernetes": lambda pod: (
        pod["spec"]["automountServiceAccountToken"]
        is (pod["spec"]["serviceAccountName"] in ASK_KUBERNETES)
    ),
    "is told of no Service by variables": lambda pod: pod["spec"]["enableServiceLinks"] is False,
    "names an image that does not move": lambda pod: _each(
        pod, lambda one: not one["image"].endswith(":latest")
    ),
    "limits its memory, and asks for what it needs": lambda pod: _each(
        pod,
        lambda one: (
            one["image"] == "set-by-airflow"  # Airflow sets both by the node pool
            or (one["resources"]["limits"]["memory"] and one["resources"]["requests"]["cpu"])
        ),
    ),
    "bounds what it writes on the node": lambda pod: all(
        "sizeLimit" in volume["emptyDir"]
        for volume in pod["spec"].get("volumes", [])
        if "emptyDir" in volume
    ),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", CASES)
def test_every_pod_keeps_the_rule(case: str, rule: str) -> None:
    found = list(pods(objects(case)))
    assert len(found) >= 4
    assert [name for name, pod in found if not RULES[rule](pod)] == []


def _set(pod: Object, path: str, value: Any) -> None:
    *folders, name = path.split("/")
    inner: Any = pod["spec"]
    for folder in folders:
        inner = inner[int(folder)] if folder.isdigit() else inner.setdefault(folder, {})
    inner[name] = value


BREAKS: dict[str, tuple[str, Any]] = {
    "shares no network of the node": ("hostNetwork", True),
    "shares no processes of the node": ("hostPID", True),
    "shares no memory of the node": ("hostIPC", True),
    "is not privileged": ("containers/0/securityContext/privileged", True),
    "may not become privileged": ("containers/0/securityContext/allowPrivilegeEscalation", True),
    "has no capabilities": ("containers/1/securityContext/capabilities", {"drop": []}),
    "mounts only harmless volumes": ("volumes", [{"name": "a", "hostPath": {"path": "/"}}]),
    "takes no port of the node": ("containers/0/ports", [{"containerPort": 1, "hostPort": 1}]),
    "runs as nobody special": ("containers/1/securityContext/runAsUser", 0),
    "has the runtime's seccomp profile": ("securityContext/seccompProfile/type", "Unconfined"),
    "sets no sysctls": ("securityContext/sysctls", [{"name": "a", "value": "b"}]),
    "has a read-only root": ("containers/0/securityContext/readOnlyRootFilesystem", False),
    "has a service account of its role": ("serviceAccountName", "default"),
    "has a token only if it asks Kubernetes": ("serviceAccountName", "headrace-serving"),
    "is told of no Service by variables": ("enableServiceLinks", True),
    "names an image that does not move": ("containers/0/image", "a:latest"),
    "limits its memory, and asks for what it needs": ("containers/0/resources/limits/memory", ""),
    "bounds what it writes on the node": ("volumes", [{"name": "a", "emptyDir": {}}]),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_pod_that_breaks_the_rule_is_seen(rule: str) -> None:
    pod = copy.deepcopy(dict(pods(objects(EVERYTHING)))["Deployment/headrace-router"])
    assert RULES[rule](pod)
    _set(pod, *BREAKS[rule])
    assert not RULES[rule](pod)
