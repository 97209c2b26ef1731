"""Shorten an exported graph without changing what it computes: fewer nodes, fewer dispatches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from tasks.bundling.aten_graph import (
    Argument,
    AtenGraph,
    Node,
    Ref,
    TensorKind,
    references,
    with_references,
)

# Copies within a graph that nobody writes to.
_ALWAYS_IDENTITY = frozenset(
    {
        "aten.alias.default",
        "aten.clone.default",
        "aten.contiguous.default",
        "aten.detach.default",
        "aten.lift_fresh_copy.default",
    }
)
# No-ops where they change neither the dtype nor any size.
_IDENTITY_IF_SAME_KIND = frozenset(
    {
        "aten._to_copy.default",
        "aten._unsafe_view.default",
        "aten.expand.default",
        "aten.reshape.default",
        "aten.to.dtype",
        "aten.view.default",
    }
)
# Checks on symbolic sizes: torch has already used them.
_ASSERTIONS = (
    "aten._assert",
    "aten.sym_constrain",
    "aten._assert_tensor_metadata",
    "sym.assert",
)
_SWAP_LAST_TWO = MappingProxyType({"aten.t.default": (), "aten.permute.default": (1, 0)})


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What the nodes so far offer to the next one."""

    kinds: Mapping[str, TensorKind | None]
    makers: Mapping[str, Node]


def simplify(graph: AtenGraph) -> AtenGraph:
    """Drop identities, assertions and repeated nodes, join transposes to products, drop the unused."""
    kinds: dict[str, TensorKind | None] = {**graph.inputs, **graph.weights}
    makers: dict[str, Node] = {}
    names: dict[str, str] = {}
    seen: dict[str, str] = {}
    known = _Known(kinds=kinds, makers=makers)
    for found in graph.nodes:
        node = _renamed(found, names)
        if node.op.startswith(_ASSERTIONS):
            continue
        same_as = _identity_of(node, known) or seen.get(_signature(node))
        if same_as is not None:
            names[node.name] = same_as
            continue
        node = _joined(node, known)
        seen[_signature(node)] = node.name
        makers[node.name] = node
        kinds[node.name] = node.kind
    outputs = {key: names.get(name, name) for key, name in graph.outputs.items()}
    return _used_only(replace(graph, nodes=tuple(makers.values()), outputs=outputs))


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    arguments = {key: with_references(value, names) for key, value in node.arguments.items()}
    return replace(node, arguments=arguments)


def _signature(node: Node) -> str:
    # repr tells 1 from 1.0 and from True, which are equal as dictionary keys.
    return repr((node.op, sorted(node.arguments.items(), key=lambda item: item[0]), node.kind))


def _identity_of(node: Node, known: _Known) -> str | None:
    """Return the name of the value that `node` merely repeats, if it does."""
    source = node.arguments.get("self", node.arguments.get("input"))
    if not isinstance(source, Ref):
        return None
    same_kind = node.kind is not None and known.kinds.get(source.name) == node.kind
    if node.op in _ALWAYS_IDENTITY or (node.op in _IDENTITY_IF_SAME_KIND and same_kind):
        return source.name
    return None


def _joined(node: Node, known: _Known) -> Node:
    join = _JOINS.get(node.op)
    return node if join is None else join(node, known)


def _untransposed(value: Argument, known: _Known) -> Ref | None:
    """Return the matrix whose transpose `value` is, where the graph transposes it."""
    maker = known.makers.get(value.name) if isinstance(value, Ref) else None
    if maker is None or maker.op not in _SWAP_LAST_TWO:
        return None
    if maker.arguments.get("dims", ()) != _SWAP_LAST_TWO[maker.op]:
        return None
    source = maker.arguments["self"]
    return source if isinstance(source, Ref) else None


def _linear(node: Node, x: Argument, weight: Ref, bias: Argument) -> Node:
    arguments = {"input": x, "weight": weight, "bias": bias}
    return replace(node, op="aten.linear.default", arguments=arguments)


def _join_product(node: Node, known: _Known) -> Node:
    right = node.arguments["mat2"] if "mat2" in node.arguments else node.arguments["other"]
    weight = _untransposed(right, known)
    if weight is None or _is_vector(node.arguments["self"], known):
        return node
    return _linear(node, node.arguments["self"], weight, None)


def _is_vector(value: Argument, known: _Known) -> bool:
    kind = known.kinds.get(value.name) if isinstance(value, Ref) else None
    return kind is None or len(kind.shape) < 2


def _join_addmm(node: Node, known: _Known) -> Node:
    weight = _untransposed(node.arguments["mat2"], known)
    bias = node.arguments["self"]
    plain = node.arguments.get("alpha", 1) == 1 and node.arguments.get("beta", 1) == 1
    if weight is None or not plain or not isinstance(bias, Ref):
        return node
    kind = known.kinds.get(bias.name)
    if kind is None or len(kind.shape) != 1:
        return node
    return _linear(node, node.arguments["mat1"], weight, bias)


_JOINS: Mapping[str, Callable[[Node, _Known], Node]] = MappingProxyType(
    {
        "aten.mm.default": _join_product,
        "aten.matmul.default": _join_product,
        "aten.addmm.default": _join_addmm,
    }
)


def _used_only(graph: AtenGraph) -> AtenGraph:
    used = set(graph.outputs.values())
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node.name in used:
            kept.append(node)
            used |= {ref.name for ref in references(node.arguments)}
    weights = {name: kind for name, kind in graph.weights.items() if name in used}
    return replace(graph, nodes=tuple(reversed(kept)), weights=weights)
