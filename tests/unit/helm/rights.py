"""`kubectl auth can-i` over rendered objects: who is bound to which rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.unit.helm.rendered import NAMESPACE, Object


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One question; `name` empty: of any object, as `list` and `create` ask it."""

    verb: str
    resource: str
    name: str = ""
    group: str = ""
    namespace: str = NAMESPACE  # empty: a resource of the cluster, or all namespaces


def _binds(binding: Object, account: tuple[str, str]) -> bool:
    return any(
        (one["kind"], one.get("namespace"), one["name"]) == ("ServiceAccount", *account)
        for one in binding["subjects"]
    )


def rules_for(found: list[Object], account: tuple[str, str], namespace: str) -> Iterator[Object]:
    """Yield the rules that hold for an account (namespace, name) in a namespace."""
    for binding in found:
        if binding["kind"] not in {"RoleBinding", "ClusterRoleBinding"}:
            continue
        # As Helm does: an object without a namespace lies in the release's own.
        local = binding["kind"] == "RoleBinding"
        if local and binding["metadata"].get("namespace", NAMESPACE) != namespace:
            continue
        if _binds(binding, account):
            ref = binding["roleRef"]
            for role in found:
                if (role["kind"], role["metadata"]["name"]) == (ref["kind"], ref["name"]):
                    yield from role["rules"]


def _says(rule: Object, ask: Ask) -> bool:
    def covers(field: str, wanted: str) -> bool:
        return wanted in rule.get(field, []) or "*" in rule.get(field, [])

    names = rule.get("resourceNames")
    return (
        covers("apiGroups", ask.group)
        and covers("resources", ask.resource)
        and covers("verbs", ask.verb)
        and (names is None or ask.name in names)
    )


def can(found: list[Object], account: tuple[str, str], ask: Ask) -> bool:
    """Say whether an account may do it."""
    return any(_says(rule, ask) for rule in rules_for(found, account, ask.namespace))
