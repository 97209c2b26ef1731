"""Node pools without kubelets: the real scheduler binds pods to them, and nothing runs there.

Each has the taint of GPU nodes, so that nobody else's pods are ever sent to them.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from headrace_airflow.compute_profiles import (
    COMPUTE_PROFILES,
    GPU,
    ComputeProfile,
    ProfileName,
    StageCompute,
    pod_fields,
)
from headrace_airflow.node_fit import NodeFacts
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from tests.cluster.airflow_parts import patiently
from tests.cluster.gpu_pool import PRETENDED

POOLS = (ProfileName.GPU_TRAIN, ProfileName.GPU_SERVE, ProfileName.SPOT_GPU)
NODE_CORES = 8
_SIZE = {"cpu": str(NODE_CORES), "memory": "32Gi", "pods": "20", GPU: "1"}


class PretendedNodes:
    """A node with one GPU for each GPU profile, labelled and tainted as the profile says."""

    def __init__(self, namespace: str) -> None:
        self.core = client.CoreV1Api()
        self.namespace = namespace

    def open(self) -> None:
        for name in POOLS:
            self._create(COMPUTE_PROFILES[name])
        self.heartbeat()

    def close(self) -> None:
        self.remove_pods()
        for name in POOLS:
            with suppress(ApiException):
                self.core.delete_node(node_name(name))

    def _create(self, profile: ComputeProfile) -> None:
        taints = [
            {"key": one.key, "value": one.value or "present", "effect": one.effect}
            for one in profile.tolerations
        ]
        labels = {**dict(profile.node_selector), PRETENDED: "true"}
        name = node_name(profile.name)
        self.core.create_node(
            {"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}}
        )

    def heartbeat(self) -> None:
        """Say for every node that it is ready, as its kubelet would; it lasts 40 s."""
        now = datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "reason": "Pretended", "message": "as told"}
        ready |= {"lastHeartbeatTime": now, "lastTransitionTime": now}
        status = {"capacity": _SIZE, "allocatable": _SIZE, "conditions": [ready]}
        for name in POOLS:
            self.core.patch_node_status(node_name(name), {"status": status})
        patiently(self._all_ready, 30, "pretended nodes without the taint of one that is not ready")

    def _all_ready(self) -> bool:
        nodes = self.core.list_node(label_selector=PRETENDED).items
        taints = [one.key for node in nodes for one in node.spec.taints or ()]
        return not any(key.startswith("node.kubernetes.io/") for key in taints)

    def facts(self) -> Sequence[NodeFacts]:
        """Return all nodes, the real one too, as the operator sees them."""
        answer = self.core.list_node()
        plain = self.core.api_client.sanitize_for_serialization(answer)
        return [NodeFacts.from_api(node) for node in plain["items"]]

    def cordon(self, name: ProfileName, cordoned: bool) -> None:
        self.core.patch_node(node_name(name), {"spec": {"unschedulable": cordoned}})

    def place(self, profile: ProfileName, cpu_cores: float = 4) -> str:
        """Create a pod as a stage of that profile is one; return its name."""
        compute = StageCompute(
            profile=COMPUTE_PROFILES[profile], cpu_cores=cpu_cores, memory_gib=0.125
        )
        name = f"{profile.value}-{uuid.uuid4().hex[:8]}"
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "base", "image": "localhost/k8skit/pause:1"}],
            },
        }
        self.core.create_namespaced_pod(self.namespace, pod_fields(compute).merged_into(pod))
        return name

    def node_of(self, pod: str) -> str:
        """Return the node that the scheduler chose, once it has."""
        return str(patiently(lambda: self._read(pod).spec.node_name, 20, f"a node for {pod}"))

    def why_waiting(self, pod: str) -> str:
        """Return what the scheduler says of a pod that it has no node for."""
        return str(patiently(lambda: self._verdict(pod), 20, f"a verdict on {pod}"))

    def _verdict(self, pod: str) -> str | None:
        found = self._read(pod)
        assert found.spec.node_name is None, f"{pod} has node {found.spec.node_name}"
        for one in found.status.conditions or ():
            if one.type == "PodScheduled" and one.reason == "Unschedulable":
                return str(one.message)
        return None

    def _read(self, pod: str) -> Any:
        return self.core.read_namespaced_pod(pod, self.namespace)

    def remove(self, pod: str) -> None:
        self.core.delete_namespaced_pod(pod, self.namespace, grace_period_seconds=0)

    def remove_pods(self) -> None:
        self.core.delete_collection_namespaced_pod(self.namespace, grace_period_seconds=0)
        patiently(
            lambda: not self.core.list_namespaced_pod(self.namespace).items, 60, "the pods' end"
        )


def node_name(profile: ProfileName) -> str:
    return f"pretended-{profile.value}"
