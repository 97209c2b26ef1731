"""Can any node ever hold this pod? Tells waiting for room from waiting for ever. Pure, no client."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace_airflow.compute_profiles import ComputeProfile, PodFields
from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json

_REPELLING = ("NoSchedule", "NoExecute")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(?:e([0-9]+)|([A-Za-z]*))")
_UNITS = {
    "": 1.0,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}


def quantity(text: str) -> float:
    """Return what the API means by 500m, 2, 8Gi or 1e3."""
    match = _QUANTITY.fullmatch(text)
    if match is None or (match[3] or "") not in _UNITS:
        message = f"quantity: expected a number with a unit such as 500m or 8Gi, found {text!r:.60}"
        raise BadRequestError(message)
    return float(match[1]) * (10.0 ** int(match[2]) if match[2] else _UNITS[match[3] or ""])


@dataclass(frozen=True, kw_only=True)
class Taint:
    """What keeps pods off a node unless they tolerate it."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """What of a node decides whether an empty one could hold a pod."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    allocatable: Mapping[str, float]

    @classmethod
    def from_api(cls, node: Mapping[str, Json]) -> NodeFacts:
        """Read a Node object (camelCase); a cordoned node counts: cordons come off again."""
        metadata, spec, status = (_object(node, name) for name in ("metadata", "spec", "status"))
        taints = spec.get("taints")
        return cls(
            name=str(metadata.get("name")),
            labels={key: str(value) for key, value in _object(metadata, "labels").items()},
            taints=tuple(
                Taint(
                    key=str(item.get("key")),
                    value=str(item.get("value") or ""),
                    effect=str(item.get("effect")),
                )
                for item in (taints if isinstance(taints, list) else [])
                if isinstance(item, dict) and not _comes_off(item)
            ),
            allocatable={
                key: quantity(str(value)) for key, value in _object(status, "allocatable").items()
            },
        )


def why_never(
    fields: PodFields, profile: ComputeProfile, nodes: Sequence[NodeFacts], pods: int = 1
) -> str | None:
    """Return why no node can ever hold the pod, or None where one could if it were empty.

    Of a group, all pods must find room at once.
    """
    if profile.scales_from_zero:
        return None
    reasons = [_why_not(fields, node) for node in nodes]
    holding = [node for node, reason in zip(nodes, reasons, strict=True) if reason is None]
    if holding:
        room = sum(_room(fields, node) for node in holding)
        return None if room >= pods else _too_few(profile, pods, room, len(holding))
    counted = Counter(str(reason) for reason in reasons)
    listed = "; ".join(f"{count} {reason}" for reason, count in counted.most_common(5))
    found = f"of {len(nodes)} nodes {listed}" if nodes else "there is no node at all"
    return (
        f"compute profile {profile.name}: expected a node that can hold the pod when empty, "
        f"found none: {found}; make such a node pool, or choose another profile"
    )


def _room(fields: PodFields, node: NodeFacts) -> int:
    """Return how many such pods the node holds when empty."""
    asked = {name: quantity(text) for name, text in fields.resources["requests"].items()}
    return min(int(node.allocatable[name] / one) for name, one in asked.items() if one)


def _too_few(profile: ComputeProfile, pods: int, room: int, nodes: int) -> str:
    return (
        f"compute profile {profile.name}: expected room for {pods} pods at once, found room for "
        f"{room} on the {nodes} nodes that can hold one when empty; ask for fewer ranks, or "
        "enlarge the node pool"
    )


def _why_not(fields: PodFields, node: NodeFacts) -> str | None:
    for key, value in fields.node_selector.items():
        if node.labels.get(key) != value:
            return f"without the label {key}={value}"
    for taint in node.taints:
        if taint.effect in _REPELLING and not _tolerated(taint, fields.tolerations):
            return f"with the taint {taint.key}={taint.value}:{taint.effect}"
    for name, asked in fields.resources["requests"].items():
        if quantity(asked) > node.allocatable.get(name, 0.0):
            return f"with less {name} than {asked}"
    return None


def _tolerated(taint: Taint, tolerations: Sequence[Mapping[str, Json]]) -> bool:
    return any(
        toleration.get("key") == taint.key
        and toleration.get("effect") == taint.effect
        and (toleration.get("operator") == "Exists" or toleration.get("value") == taint.value)
        for toleration in tolerations
    )


def _comes_off(taint: Mapping[str, Json]) -> bool:
    """Say whether the cluster itself takes the taint off again (cordon, pressure, not ready)."""
    return str(taint.get("key")).startswith("node.kubernetes.io/")


def _object(record: Mapping[str, Json], name: str) -> dict[str, Json]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}
