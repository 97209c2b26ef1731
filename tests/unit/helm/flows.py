"""Who reaches whom, by the NetworkPolicies that are rendered: an evaluator of their rules.

As the API says it: a pod that no policy selects in a direction is open in it; else one rule of one
policy must let the flow through. A flow passes where both its ends let it. An address block counts
for pods too, since network plugins differ in that.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.unit.helm.rendered import NAMESPACE, Object


@dataclass(frozen=True, kw_only=True)
class End:
    """One end of a flow: a pod, or an address outside the cluster (no namespace)."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = "10.0.0.1"

    @property
    def namespace_labels(self) -> Mapping[str, str]:
        """Return the label that every namespace has since Kubernetes 1.21."""
        return {"kubernetes.io/metadata.name": self.namespace}


def _expression_matches(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values", [])
    return {
        "In": value in values,
        "NotIn": value is None or value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }[expression["operator"]]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Say whether a label selector selects these labels; an empty one selects all."""
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        _expression_matches(one, labels) for one in selector.get("matchExpressions", [])
    )


def _peer_matches(peer: Mapping[str, Any], end: End, namespace: str) -> bool:
    if "ipBlock" in peer:
        address = ipaddress.ip_address(end.address)
        inside = address in ipaddress.ip_network(peer["ipBlock"]["cidr"])
        return inside and not any(
            address in ipaddress.ip_network(one) for one in peer["ipBlock"].get("except", [])
        )
    if not end.namespace:
        return False
    if "namespaceSelector" in peer:
        there = selects(peer["namespaceSelector"], end.namespace_labels)
    else:
        there = end.namespace == namespace
    return there and selects(peer.get("podSelector", {}), end.labels)


def _policies(found: list[Object], end: End, direction: str) -> Iterator[Object]:
    for one in found:
        if one["kind"] != "NetworkPolicy" or direction not in one["spec"]["policyTypes"]:
            continue
        if one["metadata"].get("namespace", NAMESPACE) == end.namespace and selects(
            one["spec"]["podSelector"], end.labels
        ):
            yield one


def _lets(rule: Object, peers: str, other: End, port: int, protocol: str, namespace: str) -> bool:
    ports = rule.get("ports")
    right_port = not ports or {"protocol": protocol, "port": port} in ports
    right_peer = not rule.get(peers) or any(
        _peer_matches(peer, other, namespace) for peer in rule[peers]
    )
    return right_port and right_peer


def _open(found: list[Object], end: End, other: End, port: int, protocol: str, way: str) -> bool:
    direction, peers = ("Egress", "to") if way == "egress" else ("Ingress", "from")
    holding = list(_policies(found, end, direction))
    return not holding or any(
        _lets(rule, peers, other, port, protocol, end.namespace)
        for policy in holding
        for rule in policy["spec"].get(way, [])
    )


def passes(found: list[Object], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Say whether a connection from source to a port of target is let through at both ends."""
    leaves = not source.namespace or _open(found, source, target, port, protocol, "egress")
    enters = not target.namespace or _open(found, target, source, port, protocol, "ingress")
    return leaves and enters
