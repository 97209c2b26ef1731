"""Operators that make tensors, change their shape, or compute with sizes."""

# A handler is named like its operator and takes the arguments of its schema, used or not.
# ruff: noqa: D103

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tasks.bundling.aten_graph import Node
from tasks.bundling.tf_values import (
    Handler,
    as_dtype,
    as_sizes,
    axes_of,
    axis_of,
    rank_of,
    reshape_sizes,
    result_dtype,
    shape_of,
    swapped,
)

END = (1 << 63) - 1  # torch's "to the end" in a slice


def arange(node: Node, end: Any = None, start: Any = 0, step: Any = 1, **_ignored: Any) -> Any:
    dtype = result_dtype(node)
    return tf.range(*[as_dtype(value, dtype) for value in (start, end, step)])


def full(node: Node, size: Any, fill_value: Any, **_ignored: Any) -> Any:
    return tf.fill(as_sizes(size), as_dtype(fill_value, result_dtype(node)))


def full_like(node: Node, x: Any, fill_value: Any, **_ignored: Any) -> Any:
    return tf.fill(as_sizes(shape_of(x)), as_dtype(fill_value, result_dtype(node)))


def zeros(node: Node, size: Any, **_ignored: Any) -> Any:
    return full(node, size, 0)


def ones(node: Node, size: Any, **_ignored: Any) -> Any:
    return full(node, size, 1)


def zeros_like(node: Node, x: Any, **_ignored: Any) -> Any:
    return tf.zeros_like(x, dtype=result_dtype(node))


def ones_like(node: Node, x: Any, **_ignored: Any) -> Any:
    return tf.ones_like(x, dtype=result_dtype(node))


def scalar_tensor(node: Node, s: Any, **_ignored: Any) -> Any:
    return as_dtype(s, result_dtype(node))


def view(_node: Node, x: Any, size: Any = None, shape: Any = None) -> Any:
    return tf.reshape(x, reshape_sizes(shape if size is None else size))


def expand(_node: Node, x: Any, size: Any, **_ignored: Any) -> Any:
    new = len(size) - rank_of(x)
    own = [1] * new + (shape_of(x) if -1 in [s for s in size if isinstance(s, int)] else [])
    sizes = [
        own[place] if isinstance(item, int) and item == -1 else item
        for place, item in enumerate(size)
    ]
    return tf.broadcast_to(x, as_sizes(sizes))


def permute(_node: Node, x: Any, dims: Any) -> Any:
    return tf.transpose(x, [axis_of(dim, rank_of(x)) for dim in dims])


def transpose(_node: Node, x: Any, dim0: int, dim1: int) -> Any:
    rank = rank_of(x)
    return tf.transpose(x, swapped(rank, axis_of(dim0, rank), axis_of(dim1, rank)))


def transpose_matrix(_node: Node, x: Any) -> Any:
    return tf.transpose(x)


def unsqueeze(_node: Node, x: Any, dim: int) -> Any:
    return tf.expand_dims(x, axis_of(dim, rank_of(x) + 1))


def squeeze(_node: Node, x: Any, dim: Any = None) -> Any:
    axes = [axis for axis in axes_of(dim, rank_of(x)) if x.shape[axis] == 1]
    return tf.squeeze(x, axes) if axes else x


def cat(node: Node, tensors: Any, dim: int = 0) -> Any:
    return tf.concat(
        [as_dtype(item, result_dtype(node)) for item in tensors], axis_of(dim, rank_of(tensors[0]))
    )


def stack(node: Node, tensors: Any, dim: int = 0) -> Any:
    items = [as_dtype(item, result_dtype(node)) for item in tensors]
    return tf.stack(items, axis_of(dim, rank_of(items[0]) + 1))


def slice_along(
    _node: Node, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    stop = None if isinstance(end, int) and end >= END else end
    index = [slice(None)] * axis_of(dim, rank_of(x)) + [slice(start, stop, step)]
    return x[tuple(index)]


def select(_node: Node, x: Any, dim: int, index: Any) -> Any:
    return x[(*[slice(None)] * axis_of(dim, rank_of(x)), index)]


def split_with_sizes(_node: Node, x: Any, split_sizes: Any, dim: int = 0) -> Any:
    return tf.split(x, split_sizes, axis_of(dim, rank_of(x)))


def unbind(_node: Node, x: Any, dim: int = 0) -> Any:
    return tf.unstack(x, axis=axis_of(dim, rank_of(x)))


def getitem(_node: Node, x: Any, other: int) -> Any:
    return x[other]


def flip(_node: Node, x: Any, dims: Any) -> Any:
    return tf.reverse(x, axes_of(dims, rank_of(x)))


def repeat(_node: Node, x: Any, repeats: Any) -> Any:
    new = len(repeats) - rank_of(x)
    return tf.tile(
        tf.reshape(x, as_sizes([1] * new + shape_of(x))) if new else x, as_sizes(repeats)
    )


def pad_edges(node: Node, x: Any, pad: Any, value: Any = 0) -> Any:
    pairs = list(zip(pad[::2], pad[1::2], strict=True))[::-1]
    paddings = [(0, 0)] * (rank_of(x) - len(pairs)) + pairs
    rows = tf.stack([as_sizes(pair) for pair in paddings])
    return tf.pad(x, rows, constant_values=as_dtype(value, result_dtype(node)))


def triangle(node: Node, x: Any, diagonal: int = 0) -> Any:
    rows, columns = shape_of(x)[-2:]
    away = tf.range(as_dtype(columns, tf.int64)) - tf.range(as_dtype(rows, tf.int64))[:, None]
    kept = away <= diagonal if "tril" in node.op else away >= diagonal
    return tf.where(kept, x, as_dtype(0, x.dtype))


def on_sizes(function: Callable[..., Any]) -> Handler:
    """Return a lowering of arithmetic on sizes."""

    def handler(_node: Node, x: Any, other: Any = None) -> Any:
        return function(x) if other is None else function(x, other)

    return handler


def larger_size(x: Any, other: Any) -> Any:
    """Return the larger of two sizes."""
    return tf.maximum(as_dtype(x, tf.int64), as_dtype(other, tf.int64))


def smaller_size(x: Any, other: Any) -> Any:
    """Return the smaller of two sizes."""
    return tf.minimum(as_dtype(x, tf.int64), as_dtype(other, tf.int64))


def sym_size(_node: Node, x: Any, dim: int) -> Any:
    known = x.shape[dim]
    return tf.shape(x, out_type=tf.int64)[dim] if known is None else known
