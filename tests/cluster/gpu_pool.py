"""The matrix's one GPU: pretended on the real node, taken and freed by the cells, one at a time."""

from __future__ import annotations

import threading
from typing import Any

from headrace_airflow.compute_profiles import GPU
from kubernetes.client.exceptions import ApiException

from tests.cluster.airflow_parts import patiently

PRETENDED = "headrace/pretended"  # label of nodes that have no kubelet
POOL = {"headrace/pool": "matrix"}
# A deployment with one GPU node, where spot work gives way to training; a pool of it might grow.
COMPUTE = {
    "format": "compute_profiles/1",
    "profiles": {
        "gpu-train": {"node_selector": POOL},
        "spot-gpu": {"node_selector": POOL},
        "gpu-serve": {"node_selector": POOL, "scales_from_zero": True},
    },
}
_HOLDER = "gpu-holder"
_PATHS = tuple(f"/status/{kind}/{GPU.replace('/', '~1')}" for kind in ("capacity", "allocatable"))


def real_node(core: Any) -> str:
    """Return the name of the one node with a kubelet."""
    (node,) = core.list_node(label_selector=f"!{PRETENDED}").items
    return str(node.metadata.name)


class GpuPool:
    """One GPU on the real node; `turn` lets one cell have it."""

    def __init__(self, core: Any, namespace: str) -> None:
        self.core, self.namespace = core, namespace
        self.turn = threading.Lock()

    def open(self) -> None:
        self._patch([{"op": "add", "path": path, "value": "1"} for path in _PATHS], POOL)

    def close(self) -> None:
        self._patch([{"op": "remove", "path": path} for path in _PATHS], dict.fromkeys(POOL))

    def _patch(self, status: list[dict[str, str]], labels: dict[str, Any]) -> None:
        node = real_node(self.core)
        self.core.patch_node(node, {"metadata": {"labels": labels}})
        self.core.patch_node_status(node, status)

    def take(self) -> None:
        """Take the GPU with a pod that nobody can push off."""
        base = {
            "name": "base",
            "image": "localhost/k8skit/busybox:1",
            "command": ["sleep", "600"],
            "resources": {"requests": {"cpu": "10m", GPU: "1"}, "limits": {GPU: "1"}},
        }
        spec = {
            "priorityClassName": "headrace-serve",
            "nodeSelector": POOL,
            "terminationGracePeriodSeconds": 1,
            "containers": [base],
        }
        pod = {"metadata": {"name": _HOLDER}, "spec": spec}
        self.core.create_namespaced_pod(self.namespace, pod)
        patiently(self._holds, 60, "the GPU for its holder")

    def _holds(self) -> bool:
        pod = self.core.read_namespaced_pod(_HOLDER, self.namespace)
        return pod.spec.node_name is not None

    def free(self) -> None:
        try:
            self.core.delete_namespaced_pod(_HOLDER, self.namespace, grace_period_seconds=0)
        except ApiException as error:
            if error.status != 404:
                raise
