"""ATen -> TensorFlow: the one table that says what each torch operator becomes.

`lower` runs an `aten_graph/1` with TensorFlow operators, in graph mode or eagerly, with dynamic
batch and length. An operator that is not in the table is an error that names it and its node.
A handler gets the node and the operator's arguments under their schema names, except that the
first tensor (`self` or `input`) is called `x`. Symbolic sizes are int64 scalars.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import tensorflow as tf

from tasks.bundling import tf_elementwise as elementwise
from tasks.bundling import tf_indexing as indexing
from tasks.bundling import tf_layers as layers
from tasks.bundling import tf_recurrent as recurrent
from tasks.bundling import tf_reductions as reductions
from tasks.bundling import tf_shapes as shapes
from tasks.bundling.aten_graph import Argument, AtenGraph, Dtype, Node, Ref
from tasks.bundling.tf_values import DTYPES, Handler
from tasks.contracts.errors import BadRequestError

_FIRST_TENSOR = MappingProxyType({"self": "x", "input": "x"})


LOWERING: Mapping[str, Handler] = MappingProxyType(
    {
        # tf_elementwise
        "aten._to_copy.default": elementwise.to_copy,
        "aten.abs.default": elementwise.unary(tf.abs),
        "aten.add.Scalar": elementwise.add,
        "aten.add.Tensor": elementwise.add,
        "aten.alias.default": elementwise.to_copy,
        "aten.bitwise_and.Scalar": elementwise.bitwise(tf.logical_and, tf.bitwise.bitwise_and),
        "aten.bitwise_and.Tensor": elementwise.bitwise(tf.logical_and, tf.bitwise.bitwise_and),
        "aten.bitwise_not.default": elementwise.bitwise_not,
        "aten.bitwise_or.Scalar": elementwise.bitwise(tf.logical_or, tf.bitwise.bitwise_or),
        "aten.bitwise_or.Tensor": elementwise.bitwise(tf.logical_or, tf.bitwise.bitwise_or),
        "aten.bitwise_xor.Scalar": elementwise.bitwise(tf.math.logical_xor, tf.bitwise.bitwise_xor),
        "aten.bitwise_xor.Tensor": elementwise.bitwise(tf.math.logical_xor, tf.bitwise.bitwise_xor),
        "aten.ceil.default": elementwise.unary(tf.math.ceil),
        "aten.clamp.Tensor": elementwise.clamp,
        "aten.clamp.default": elementwise.clamp,
        "aten.clamp_max.default": elementwise.clamp_max,
        "aten.clamp_min.default": elementwise.clamp_min,
        "aten.clone.default": elementwise.to_copy,
        "aten.copy.default": elementwise.copy,
        "aten.cos.default": elementwise.unary(tf.cos),
        "aten.detach.default": elementwise.to_copy,
        "aten.div.Scalar": elementwise.div,
        "aten.div.Scalar_mode": elementwise.div,
        "aten.div.Tensor": elementwise.div,
        "aten.div.Tensor_mode": elementwise.div,
        "aten.elu.default": elementwise.elu,
        "aten.eq.Scalar": elementwise.binary(tf.equal),
        "aten.eq.Tensor": elementwise.binary(tf.equal),
        "aten.erf.default": elementwise.unary(tf.math.erf),
        "aten.exp.default": elementwise.unary(tf.exp),
        "aten.expm1.default": elementwise.unary(tf.math.expm1),
        "aten.floor.default": elementwise.unary(tf.floor),
        "aten.floor_divide.default": elementwise.binary(tf.math.floordiv),
        "aten.fmod.Scalar": elementwise.binary(tf.truncatemod),
        "aten.fmod.Tensor": elementwise.binary(tf.truncatemod),
        "aten.ge.Scalar": elementwise.binary(tf.greater_equal),
        "aten.ge.Tensor": elementwise.binary(tf.greater_equal),
        "aten.gelu.default": elementwise.gelu,
        "aten.gt.Scalar": elementwise.binary(tf.greater),
        "aten.gt.Tensor": elementwise.binary(tf.greater),
        "aten.hardtanh.default": elementwise.hardtanh,
        "aten.isinf.default": elementwise.isinf,
        "aten.isnan.default": elementwise.isnan,
        "aten.le.Scalar": elementwise.binary(tf.less_equal),
        "aten.le.Tensor": elementwise.binary(tf.less_equal),
        "aten.leaky_relu.default": elementwise.leaky_relu,
        "aten.lift_fresh_copy.default": elementwise.to_copy,
        "aten.log.default": elementwise.unary(tf.math.log),
        "aten.log1p.default": elementwise.unary(tf.math.log1p),
        "aten.logical_and.default": elementwise.logical(tf.logical_and),
        "aten.logical_not.default": elementwise.unary(tf.logical_not),
        "aten.logical_or.default": elementwise.logical(tf.logical_or),
        "aten.logical_xor.default": elementwise.logical(tf.math.logical_xor),
        "aten.lt.Scalar": elementwise.binary(tf.less),
        "aten.lt.Tensor": elementwise.binary(tf.less),
        "aten.masked_fill.Scalar": elementwise.masked_fill,
        "aten.masked_fill.Tensor": elementwise.masked_fill,
        "aten.maximum.default": elementwise.binary(tf.maximum),
        "aten.minimum.default": elementwise.binary(tf.minimum),
        "aten.mul.Scalar": elementwise.binary(tf.multiply),
        "aten.mul.Tensor": elementwise.binary(tf.multiply),
        "aten.ne.Scalar": elementwise.binary(tf.not_equal),
        "aten.ne.Tensor": elementwise.binary(tf.not_equal),
        "aten.neg.default": elementwise.unary(tf.negative),
        "aten.pow.Scalar": elementwise.power,
        "aten.pow.Tensor_Scalar": elementwise.power,
        "aten.pow.Tensor_Tensor": elementwise.power,
        "aten.reciprocal.default": elementwise.unary(tf.math.reciprocal),
        "aten.relu.default": elementwise.unary(tf.nn.relu),
        "aten.remainder.Scalar": elementwise.binary(tf.math.floormod),
        "aten.remainder.Tensor": elementwise.binary(tf.math.floormod),
        "aten.round.default": elementwise.unary(tf.round),
        "aten.rsqrt.default": elementwise.unary(tf.math.rsqrt),
        "aten.rsub.Scalar": elementwise.rsub,
        "aten.rsub.Tensor": elementwise.rsub,
        "aten.sigmoid.default": elementwise.unary(tf.sigmoid),
        "aten.sign.default": elementwise.unary(tf.sign),
        "aten.silu.default": elementwise.silu,
        "aten.sin.default": elementwise.unary(tf.sin),
        "aten.sqrt.default": elementwise.unary(tf.sqrt),
        "aten.square.default": elementwise.unary(tf.square),
        "aten.sub.Scalar": elementwise.sub,
        "aten.sub.Tensor": elementwise.sub,
        "aten.tanh.default": elementwise.unary(tf.tanh),
        "aten.to.dtype": elementwise.to_copy,
        "aten.trunc.default": elementwise.unary(elementwise.truncated),
        "aten.where.Scalar": elementwise.where,
        "aten.where.ScalarOther": elementwise.where,
        "aten.where.ScalarSelf": elementwise.where,
        "aten.where.self": elementwise.where,
        "prims.convert_element_type.default": elementwise.to_copy,
        # tf_shapes
        "aten._unsafe_view.default": shapes.view,
        "aten.arange.default": shapes.arange,
        "aten.arange.start": shapes.arange,
        "aten.arange.start_step": shapes.arange,
        "aten.cat.default": shapes.cat,
        "aten.constant_pad_nd.default": shapes.pad_edges,
        "aten.empty.memory_format": shapes.zeros,
        "aten.expand.default": shapes.expand,
        "aten.flip.default": shapes.flip,
        "aten.full.default": shapes.full,
        "aten.full_like.default": shapes.full_like,
        "aten.new_full.default": shapes.full,
        "aten.new_ones.default": shapes.ones,
        "aten.new_zeros.default": shapes.zeros,
        "aten.ones.default": shapes.ones,
        "aten.ones_like.default": shapes.ones_like,
        "aten.permute.default": shapes.permute,
        "aten.repeat.default": shapes.repeat,
        "aten.reshape.default": shapes.view,
        "aten.scalar_tensor.default": shapes.scalar_tensor,
        "aten.select.int": shapes.select,
        "aten.slice.Tensor": shapes.slice_along,
        "aten.split_with_sizes.default": shapes.split_with_sizes,
        "aten.squeeze.default": shapes.squeeze,
        "aten.squeeze.dim": shapes.squeeze,
        "aten.squeeze.dims": shapes.squeeze,
        "aten.stack.default": shapes.stack,
        "aten.sym_size.int": shapes.sym_size,
        "aten.t.default": shapes.transpose_matrix,
        "aten.transpose.int": shapes.transpose,
        "aten.tril.default": shapes.triangle,
        "aten.triu.default": shapes.triangle,
        "aten.unbind.int": shapes.unbind,
        "aten.unsqueeze.default": shapes.unsqueeze,
        "aten.view.default": shapes.view,
        "aten.zeros.default": shapes.zeros,
        "aten.zeros_like.default": shapes.zeros_like,
        "getitem": shapes.getitem,
        "sym.add": shapes.on_sizes(operator.add),
        "sym.floordiv": shapes.on_sizes(operator.floordiv),
        "sym.max": shapes.on_sizes(shapes.larger_size),
        "sym.min": shapes.on_sizes(shapes.smaller_size),
        "sym.mod": shapes.on_sizes(operator.mod),
        "sym.mul": shapes.on_sizes(operator.mul),
        "sym.neg": shapes.on_sizes(operator.neg),
        "sym.sub": shapes.on_sizes(operator.sub),
        # tf_reductions
        "aten._log_softmax.default": reductions.log_softmax,
        "aten._softmax.default": reductions.softmax,
        "aten.all.default": reductions.reduction(reductions.all_along, to_result=False),
        "aten.all.dim": reductions.reduction(reductions.all_along, to_result=False),
        "aten.all.dims": reductions.reduction(reductions.all_along, to_result=False),
        "aten.amax.default": reductions.reduction(tf.reduce_max),
        "aten.amin.default": reductions.reduction(tf.reduce_min),
        "aten.any.default": reductions.reduction(reductions.any_along, to_result=False),
        "aten.any.dim": reductions.reduction(reductions.any_along, to_result=False),
        "aten.any.dims": reductions.reduction(reductions.any_along, to_result=False),
        "aten.argmax.default": reductions.argmax,
        "aten.argmin.default": reductions.argmax,
        "aten.cumsum.default": reductions.cumsum,
        "aten.log_softmax.int": reductions.log_softmax,
        "aten.logsumexp.default": reductions.reduction(tf.reduce_logsumexp),
        "aten.max.default": reductions.reduction(tf.reduce_max),
        "aten.max.dim": reductions.max_along,
        "aten.mean.default": reductions.reduction(tf.reduce_mean),
        "aten.mean.dim": reductions.reduction(tf.reduce_mean),
        "aten.min.default": reductions.reduction(tf.reduce_min),
        "aten.min.dim": reductions.max_along,
        "aten.prod.default": reductions.reduction(tf.reduce_prod),
        "aten.prod.dim_int": reductions.reduction(tf.reduce_prod),
        "aten.softmax.int": reductions.softmax,
        "aten.sort.default": reductions.sort_along,
        "aten.sort.stable": reductions.sort_along,
        "aten.sum.default": reductions.reduction(tf.reduce_sum),
        "aten.sum.dim_IntList": reductions.reduction(tf.reduce_sum),
        "aten.topk.default": reductions.topk,
        "aten.var.correction": reductions.var,
        # tf_layers
        "aten._native_batch_norm_legit_no_training.default": layers.batch_norm,
        "aten.addmm.default": layers.addmm,
        "aten.avg_pool2d.default": layers.pool,
        "aten.baddbmm.default": layers.baddbmm,
        "aten.bmm.default": layers.mm,
        "aten.convolution.default": layers.convolution,
        "aten.layer_norm.default": layers.layer_norm,
        "aten.linear.default": layers.linear,
        "aten.matmul.default": layers.matmul,
        "aten.max_pool2d_with_indices.default": layers.pool,
        "aten.mm.default": layers.mm,
        "aten.mv.default": layers.mv,
        "aten.native_layer_norm.default": layers.native_layer_norm,
        "aten.scaled_dot_product_attention.default": layers.attention,
        # tf_recurrent
        "aten.gru.input": recurrent.gru,
        # tf_indexing
        "aten.embedding.default": indexing.embedding,
        "aten.gather.default": indexing.gather,
        "aten.index.Tensor": indexing.index_with,
        "aten.index_add.default": indexing.index_add,
        "aten.index_put.default": indexing.index_put,
        "aten.index_select.default": indexing.index_select,
        "aten.scatter.src": indexing.scatter,
        "aten.scatter.value": indexing.scatter,
        "aten.scatter_add.default": indexing.scatter_add,
        "aten.slice_scatter.default": indexing.slice_scatter,
    }
)


def lower(
    nodes: Iterable[Node], values: Mapping[str, Any], wanted: Iterable[str]
) -> dict[str, Any]:
    """Run `nodes` on `values` (inputs and weights by name); return the wanted values by name."""
    made = dict(values)
    for node in nodes:
        handler = LOWERING.get(node.op)
        if handler is None:
            message = (
                f"torch_to_tf: node {node.name}: expected an operator of the lowering table, "
                f"found {node.op}; add it to tasks/bundling/torch_to_tf.py with a parity test"
            )
            raise BadRequestError(message)
        arguments = {
            _FIRST_TENSOR.get(name, name): _resolved(value, made)
            for name, value in node.arguments.items()
        }
        with tf.name_scope(node.name.lstrip("_")):  # a scope may not begin with one
            made[node.name] = _with_known_sizes(_called(handler, node, arguments), node)
    return {name: made[name] for name in wanted}


def lower_graph(graph: AtenGraph, values: Mapping[str, Any]) -> dict[str, Any]:
    """Run the whole graph; return its outputs by output name."""
    made = lower(graph.nodes, values, set(graph.outputs.values()))
    return {name: made[node] for name, node in graph.outputs.items()}


def _called(handler: Handler, node: Node, arguments: Mapping[str, Any]) -> Any:
    try:
        return handler(node, **arguments)
    except (TypeError, ValueError, NotImplementedError) as error:
        message = (
            f"torch_to_tf: node {node.name} ({node.op}): expected arguments that its lowering "
            f"knows, found {sorted(arguments)}: {error}"
        )
        raise BadRequestError(message) from error


def _with_known_sizes(value: Any, node: Node) -> Any:
    """Tell TensorFlow the sizes that torch knows: its own inference loses some."""
    if node.kind is not None:
        value.set_shape([size if isinstance(size, int) else None for size in node.kind.shape])
    return value


def _resolved(value: Argument, made: Mapping[str, Any]) -> Any:
    if isinstance(value, Ref):
        return made[value.name]
    if isinstance(value, Dtype):
        return DTYPES[value.name]
    if isinstance(value, tuple):
        return [_resolved(item, made) for item in value]
    return value
