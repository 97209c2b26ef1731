"""The neutral record of an exported network (`aten_graph/1`): neither torch nor TensorFlow.

`graph.json` holds inputs, nodes in execution order and outputs; `weights.safetensors` beside it
holds every parameter and constant under the name that the nodes use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, canonical_json, check_format, parse_object

GRAPH_FILE = "graph.json"
WEIGHTS_FILE = "weights.safetensors"

Array: TypeAlias = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of an input, a weight or an earlier node, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Dtype:
    """A dtype given as an argument, by its torch name without `torch.`."""

    name: str


Argument: TypeAlias = "bool | int | float | str | Ref | Dtype | tuple[Argument, ...] | None"
Size: TypeAlias = "int | str"  # a number, or an expression of symbols such as `s0*4`


@dataclass(frozen=True, kw_only=True)
class TensorKind:
    """Dtype by its torch name, and the size of every axis."""

    dtype: str
    shape: tuple[Size, ...]


@dataclass(frozen=True, kw_only=True)
class Node:
    """One call: `op` is a torch overload such as `aten.add.Tensor`, or `sym.add`, or `getitem`.

    `kind` is None where the result is a number or a tuple. `compute` is the dtype both operands
    are promoted to before a comparison, whose own result is bool.
    """

    name: str
    op: str
    arguments: Mapping[str, Argument]
    kind: TensorKind | None = None
    compute: str | None = None


@dataclass(frozen=True, kw_only=True)
class AtenGraph:
    """A network: inputs and weights by name, nodes in execution order, outputs by name."""

    inputs: Mapping[str, TensorKind]
    weights: Mapping[str, TensorKind]
    nodes: tuple[Node, ...]
    outputs: Mapping[str, str]  # output name -> name of a node, input or weight

    def __post_init__(self) -> None:
        """Refuse nodes that use what nobody has made before them."""
        known = {*self.inputs, *self.weights}
        for node in self.nodes:
            missing = sorted({ref.name for ref in references(node.arguments)} - known)
            if missing or node.name in known:
                message = (
                    f"aten_graph: node {node.name} ({node.op}): expected a new name and inputs "
                    f"made before it, found missing {missing}"
                )
                raise BadRequestError(message)
            known.add(node.name)
        missing = sorted(set(self.outputs.values()) - known)
        if missing:
            message = f"aten_graph: expected outputs that some node makes, found {missing}"
            raise BadRequestError(message)

    def to_text(self) -> str:
        """Return `graph.json` as text: one node a line."""
        head = {
            "format": "aten_graph/1",
            "inputs": {name: _kind_json(kind) for name, kind in self.inputs.items()},
            "weights": {name: _kind_json(kind) for name, kind in self.weights.items()},
            "outputs": dict(self.outputs),
        }
        nodes = ",\n".join(canonical_json(_node_json(node)) for node in self.nodes)
        return f'{canonical_json(head)[:-1]},"nodes":[\n{nodes}\n]}}\n'

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> AtenGraph:
        """Read `graph.json`; errors name `where`."""
        record = parse_object(text, where)
        check_format(record, "aten_graph", 1, where)
        try:
            return cls(
                inputs=_kinds(record["inputs"]),
                weights=_kinds(record["weights"]),
                nodes=tuple(_node(item) for item in cast("list[Json]", record["nodes"])),
                outputs={key: str(name) for key, name in _object(record["outputs"]).items()},
            )
        except (KeyError, TypeError, ValueError) as error:
            message = f"{where}: expected a complete aten_graph/1, found a bad field: {error!r}"
            raise BadRequestError(message) from error


def references(value: object) -> Iterator[Ref]:
    """Yield every reference within an argument, a tuple or a mapping of arguments."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from references(item)


def with_references(value: Argument, names: Mapping[str, str]) -> Argument:
    """Return the argument with references renamed by `names`."""
    if isinstance(value, Ref):
        return Ref(names.get(value.name, value.name))
    if isinstance(value, tuple):
        return tuple(with_references(item, names) for item in value)
    return value


def read_graph(folder: Path) -> tuple[AtenGraph, dict[str, Array]]:
    """Return the graph and its weights (name -> array) and check one against the other."""
    graph = AtenGraph.parse((folder / GRAPH_FILE).read_bytes(), f"{folder.name}/{GRAPH_FILE}")
    weights = cast("dict[str, Array]", load_file(folder / WEIGHTS_FILE))
    expected = {name: (kind.dtype, kind.shape) for name, kind in graph.weights.items()}
    found = {name: (str(array.dtype), array.shape) for name, array in weights.items()}
    if expected != found:
        differing = sorted(
            name for name in {*expected, *found} if expected.get(name) != found.get(name)
        )
        message = (
            f"{folder.name}/{WEIGHTS_FILE}: expected the weights that {GRAPH_FILE} lists, "
            f"found other names, dtypes or shapes for {differing[:5]}"
        )
        raise BadRequestError(message)
    return graph, weights


def _argument_json(value: Argument) -> Json:
    if isinstance(value, Ref):
        return {"node": value.name}
    if isinstance(value, Dtype):
        return {"dtype": value.name}
    if isinstance(value, tuple):
        return [_argument_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def _argument(value: Json) -> Argument:
    if isinstance(value, list):
        return tuple(_argument(item) for item in value)
    if isinstance(value, dict):
        ((key, text),) = value.items()
        if key == "node":
            return Ref(str(text))
        if key == "dtype":
            return Dtype(str(text))
        if key == "float":
            return float(str(text))
        message = f"expected node, dtype or float, found {key!r}"
        raise ValueError(message)
    return value


def _kind_json(kind: TensorKind) -> Json:
    return {"dtype": kind.dtype, "shape": list(kind.shape)}


def _object(value: Json) -> dict[str, Json]:
    if not isinstance(value, dict):
        message = f"expected an object, found {value!r:.80}"
        raise TypeError(message)
    return value


def _kind(value: Json) -> TensorKind:
    record = _object(value)
    shape = cast("list[Size]", record["shape"])
    return TensorKind(dtype=str(record["dtype"]), shape=tuple(shape))


def _kinds(value: Json) -> dict[str, TensorKind]:
    return {name: _kind(item) for name, item in _object(value).items()}


def _node_json(node: Node) -> Json:
    record: dict[str, Json] = {
        "name": node.name,
        "op": node.op,
        "arguments": {name: _argument_json(value) for name, value in node.arguments.items()},
    }
    if node.kind is not None:
        record["kind"] = _kind_json(node.kind)
    if node.compute is not None:
        record["compute"] = node.compute
    return record


def _node(value: Json) -> Node:
    record = _object(value)
    compute = record.get("compute")
    return Node(
        name=str(record["name"]),
        op=str(record["op"]),
        arguments={key: _argument(item) for key, item in _object(record["arguments"]).items()},
        kind=_kind(record["kind"]) if "kind" in record else None,
        compute=None if compute is None else str(compute),
    )
