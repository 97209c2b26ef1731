"""torch module -> `graph.json` + `weights.safetensors`: torch.export, decomposed to core ATen.

Five composite operators stay whole. At batch 1 the server pays per operator, and linear, matmul,
layer_norm and scaled_dot_product_attention are fewer there than their parts; gru would become one
copy of its step for each step.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node as FxNode

from tasks.bundling.aten_graph import (
    GRAPH_FILE,
    WEIGHTS_FILE,
    Argument,
    AtenGraph,
    Dtype,
    Node,
    Ref,
    TensorKind,
)
from tasks.bundling.simplify import simplify
from tasks.contracts.errors import BadRequestError

KEPT_WHOLE = (
    torch.ops.aten.gru.input,
    torch.ops.aten.layer_norm.default,
    torch.ops.aten.linear.default,
    torch.ops.aten.matmul.default,
    torch.ops.aten.scaled_dot_product_attention.default,
)
_SYMBOLIC: Mapping[object, str] = MappingProxyType(
    {
        operator.add: "sym.add",
        operator.sub: "sym.sub",
        operator.mul: "sym.mul",
        operator.floordiv: "sym.floordiv",
        operator.mod: "sym.mod",
        operator.neg: "sym.neg",
        torch.sym_max: "sym.max",
        torch.sym_min: "sym.min",
        operator.getitem: "getitem",
    }
)
# Arguments about where and how memory lies: nothing that a graph computes depends on them.
_PLACEMENT = frozenset({"device", "layout", "memory_format", "non_blocking", "pin_memory"})
_SYMBOLIC_ARGUMENTS = ("self", "other")


@dataclass(frozen=True, kw_only=True)
class Export:
    """A graph and its weights, each tensor once however many names the module has for it."""

    graph: AtenGraph
    weights: Mapping[str, torch.Tensor]

    def save(self, folder: Path) -> None:
        """Write `graph.json` and `weights.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / GRAPH_FILE).write_text(self.graph.to_text(), encoding="utf-8")
        save_file(dict(self.weights), folder / WEIGHTS_FILE)


def export_module(
    module: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    *,
    keep_composites: bool = True,
) -> Export:
    """Export `module(*inputs)`; axes 0 and 1 of every input of rank 2 are dynamic."""
    batch, length = Dim("batch", min=1, max=1 << 20), Dim("length", min=1, max=1 << 12)
    shapes = tuple(
        {0: batch, 1: length} if tensor.ndim == 2 else {0: batch} for tensor in inputs.values()
    )
    with torch.no_grad():
        program = torch.export.export(
            module.eval(), tuple(inputs.values()), dynamic_shapes=_by_arity(module, shapes)
        )
        program = program.run_decompositions(_decompositions(keep_composites=keep_composites))
    reader = _Reader(program=program, input_names=tuple(inputs))
    graph = simplify(reader.graph(outputs))
    weights = {name: reader.weights[name].detach().contiguous() for name in sorted(graph.weights)}
    return Export(graph=graph, weights={name: tensor.clone() for name, tensor in weights.items()})


def _by_arity(module: torch.nn.Module, shapes: tuple[Any, ...]) -> Any:
    """Return the shapes in the form torch.export wants: nested when forward takes *inputs."""
    code = cast("Any", module.forward).__code__
    takes_varargs = bool(code.co_flags & 0x04)
    return (shapes,) if takes_varargs else shapes


def _decompositions(*, keep_composites: bool) -> dict[Any, Callable[..., Any]]:
    table: Any = torch.export.default_decompositions()
    for op in KEPT_WHOLE if keep_composites else ():
        table.pop(op, None)
    return cast("dict[Any, Callable[..., Any]]", table)


@dataclass(kw_only=True)
class _Reader:
    """Reads one exported program; fills `weights` on the way."""

    program: ExportedProgram
    input_names: tuple[str, ...]
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # fx name -> name in the record

    def graph(self, outputs: Sequence[str]) -> AtenGraph:
        """Return the whole record."""
        inputs = self._read_inputs()
        fx_nodes = list(self.program.graph.nodes)
        nodes = tuple(self._node(node) for node in fx_nodes if node.op == "call_function")
        returned = cast("tuple[FxNode, ...]", fx_nodes[-1].args[0])
        if len(returned) != len(outputs):
            message = (
                f"export: expected outputs {list(outputs)}, the module returns {len(returned)}"
            )
            raise BadRequestError(message)
        return AtenGraph(
            inputs=inputs,
            weights={name: _kind(tensor) for name, tensor in self.weights.items()},
            nodes=nodes,
            outputs={
                name: self.names.get(node.name, node.name)
                for name, node in zip(outputs, returned, strict=True)
            },
        )

    def _read_inputs(self) -> dict[str, TensorKind]:
        kinds: dict[str, TensorKind] = {}
        free_names = iter(self.input_names)
        values = {node.name: node.meta.get("val") for node in self.program.graph.nodes}
        first_names: dict[tuple[Any, ...], str] = {}
        for spec in self.program.graph_signature.input_specs:
            fx_name = str(cast("Any", spec.arg).name)
            if spec.kind is InputKind.USER_INPUT:
                self.names[fx_name] = next(free_names)
                kinds[self.names[fx_name]] = _kind(cast("torch.Tensor", values[fx_name]))
                continue
            tensor = self._tensor(str(spec.target))
            place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
            key = place if tensor.numel() else (str(spec.target),)
            self.names[fx_name] = first_names.setdefault(key, str(spec.target))
            self.weights[self.names[fx_name]] = tensor
        return kinds

    def _tensor(self, target: str) -> torch.Tensor:
        found = self.program.state_dict.get(target, self.program.constants.get(target))
        if not isinstance(found, torch.Tensor):
            message = f"export: expected a tensor for {target}, found {type(found).__name__}"
            raise BadRequestError(message)
        return found

    def _node(self, node: FxNode) -> Node:
        op = _SYMBOLIC.get(node.target) or str(node.target)
        value = node.meta.get("val")
        bound = _bound(node)
        compute = None
        if isinstance(value, torch.Tensor) and value.dtype is torch.bool:
            compute = _promoted(bound)
        return Node(
            name=node.name,
            op=op,
            arguments={name: self._argument(item, node) for name, item in bound.items()},
            kind=_kind(value) if isinstance(value, torch.Tensor) else None,
            compute=compute,
        )

    def _argument(self, value: object, node: FxNode) -> Argument:
        if isinstance(value, FxNode):
            return Ref(self.names.get(value.name, value.name))
        if isinstance(value, torch.dtype):
            return Dtype(_dtype_name(value))
        if isinstance(value, list | tuple):
            return tuple(self._argument(item, node) for item in value)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        message = (
            f"export: node {node.name} ({node.target}): expected numbers, tensors or dtypes as "
            f"arguments, found {type(value).__name__}; write the module without it"
        )
        raise BadRequestError(message)


def _bound(node: FxNode) -> dict[str, Any]:
    """Return every argument by its name in the operator's schema, defaults included."""
    target = cast("Any", node.target)
    if node.target in _SYMBOLIC:
        return dict(zip(_SYMBOLIC_ARGUMENTS, node.args, strict=False))
    if not hasattr(target, "_schema"):
        message = f"export: node {node.name}: expected an ATen operator, found {node.target}"
        raise BadRequestError(message)
    bound: dict[str, Any] = {}
    for place, argument in enumerate(target._schema.arguments):  # noqa: SLF001 (no public way)
        if argument.name in _PLACEMENT:
            continue
        if place < len(node.args):
            bound[argument.name] = node.args[place]
        else:
            bound[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return bound


def _promoted(bound: Mapping[str, Any]) -> str | None:
    """Return the dtype to which the two operands of a comparison are promoted."""
    operands = [bound[name] for name in _SYMBOLIC_ARGUMENTS if name in bound]
    values = [item.meta["val"] if isinstance(item, FxNode) else item for item in operands]
    values = [0 if isinstance(item, torch.SymInt) else item for item in values]
    if len(values) != 2:
        return None
    return _dtype_name(torch.result_type(*values))


def _kind(tensor: torch.Tensor) -> TensorKind:
    shape = tuple(size if isinstance(size, int) else str(size) for size in tensor.shape)
    return TensorKind(dtype=_dtype_name(tensor.dtype), shape=shape)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
