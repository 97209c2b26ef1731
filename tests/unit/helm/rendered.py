"""The chart's objects as Helm renders them, by Helm's own library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "helm/headrace"
CASES = tuple(sorted(path.name for path in (CHART / "ci").glob("*-values.yaml")))
SMALLEST, ONE_NODE, EVERYTHING = CASES[0], CASES[1], CASES[2]
NAMESPACE = "shop"

Object = dict[str, Any]
Values = dict[str, Any]


class StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in one map, as Kubernetes does."""


def _map(loader: StrictLoader, node: yaml.MappingNode) -> Object:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    assert not twice, f"{node.start_mark}: expected each key once, found {twice} twice"
    return loader.construct_mapping(node, deep=True)


StrictLoader.add_constructor("tag:yaml.org,2002:map", _map)


def case_values(case: str) -> Values:
    """Return the values of one file of `ci/`."""
    return yaml.safe_load((CHART / "ci" / case).read_text())


def with_values(case: str, **paths: Any) -> Values:
    """Return a case's values with others at paths such as `store__url`; None removes the key."""
    values = case_values(case)
    for path, value in paths.items():
        *folders, name = path.split("__")
        inner = values
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = value
    return values


def rendered(values: Values, folder: Path = CHART, **options: Any) -> dict[str, str]:
    """Return what Helm renders, by template; refusals are HelmErrors."""
    with helm_python.Chart.load(folder) as chart:
        return chart.render(values, name="reco", namespace=NAMESPACE, **options)


def objects_of(values: Values, folder: Path = CHART) -> list[Object]:
    """Return all objects, hooks of `helm test` included."""
    return [
        one
        for name, text in sorted(rendered(values, folder).items())
        if name.endswith(".yaml")
        for one in yaml.load_all(text, StrictLoader)
        if one is not None
    ]


@cache
def _objects(case: str) -> tuple[Object, ...]:
    return tuple(objects_of(case_values(case)))


def objects(case: str) -> list[Object]:
    """Return the objects of one file of `ci/`."""
    return list(_objects(case))


def named(found: list[Object], kind: str, name: str) -> Object:
    """Return the one object of this kind and name."""
    (one,) = [it for it in found if it["kind"] == kind and it["metadata"]["name"] == name]
    return one


def template_of(one: Object) -> Object | None:
    """Return the pod (metadata and spec) that an object makes, if any."""
    if one["kind"] == "Pod":
        return one
    if one["kind"] == "CronJob":
        return one["spec"]["jobTemplate"]["spec"]["template"]
    if one["kind"] in {"Deployment", "StatefulSet", "DaemonSet", "Job"}:
        return one["spec"]["template"]
    return None


def stage_pod(found: list[Object]) -> Object:
    """Return the template of the stages' pods, which lies in a ConfigMap for Airflow."""
    return yaml.load(
        named(found, "ConfigMap", "headrace-pod-template")["data"]["pod.yaml"], StrictLoader
    )


def pods(found: list[Object]) -> Iterator[tuple[str, Object]]:
    """Yield every pod that the chart makes or describes, with a name for messages."""
    for one in found:
        template = template_of(one)
        if template is not None:
            yield f"{one['kind']}/{one['metadata']['name']}", template
    yield "stages", stage_pod(found)


def containers(pod: Mapping[str, Any]) -> Iterator[Object]:
    """Yield a pod's containers, those of its start included."""
    yield from pod["spec"].get("initContainers", [])
    yield from pod["spec"]["containers"]
