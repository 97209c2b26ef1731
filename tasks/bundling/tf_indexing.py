"""Operators that look up and scatter by index."""

# A handler is named like its operator and takes the arguments of its schema, used or not.
# ruff: noqa: D103, PLR0917

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tasks.bundling.aten_graph import Node
from tasks.bundling.tf_layers import scaled
from tasks.bundling.tf_shapes import END
from tasks.bundling.tf_values import (
    as_dtype,
    as_sizes,
    axis_of,
    rank_of,
    result_dtype,
    shape_of,
)


def embedding(_node: Node, weight: Any, indices: Any, **_ignored: Any) -> Any:
    return tf.gather(weight, indices)


def index_select(_node: Node, x: Any, dim: int, index: Any) -> Any:
    return tf.gather(x, index, axis=axis_of(dim, rank_of(x)))


def index_with(_node: Node, x: Any, indices: Any) -> Any:
    used = [place for place, index in enumerate(indices) if index is not None]
    if any(indices[place].dtype == tf.bool for place in used):
        message = "a mask as index makes a size that depends on data"
        raise NotImplementedError(message)
    if len(used) == 1:
        return tf.gather(x, indices[used[0]], axis=used[0])
    return tf.gather_nd(x, _coordinates_of(indices, used))


def _coordinates_of(indices: Any, used: list[int]) -> Any:
    if used != list(range(len(used))):
        message = f"several indices must stand at the first axes, found them at {used}"
        raise NotImplementedError(message)
    parts = [as_dtype(indices[place], tf.int64) for place in used]
    together = parts[0]
    for part in parts[1:]:
        together = together + tf.zeros_like(part)
    return tf.stack([part + tf.zeros_like(together) for part in parts], axis=-1)


def index_put(node: Node, x: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    values = as_dtype(values, result_dtype(node))
    if indices[0] is not None and indices[0].dtype == tf.bool:
        if accumulate or len(indices) != 1 or rank_of(values) != 0:
            message = "a mask as index takes one number only"
            raise NotImplementedError(message)
        mask = indices[0]
        for _ in range(rank_of(x) - rank_of(mask)):
            mask = tf.expand_dims(mask, -1)
        return tf.where(mask, values, x)
    places = _coordinates_of(indices, [p for p, item in enumerate(indices) if item is not None])
    shape = [*shape_of(places)[:-1], *shape_of(x)[len(indices) :]]
    put = tf.tensor_scatter_nd_add if accumulate else tf.tensor_scatter_nd_update
    return put(x, places, tf.broadcast_to(values, as_sizes(shape)))


def gather(_node: Node, x: Any, dim: int, index: Any, **_ignored: Any) -> Any:
    axis, rank = axis_of(dim, rank_of(x)), rank_of(x)
    if rank == 1:
        return tf.gather(x, index)
    if axis == rank - 1 and _same_sizes(x, index, axis):
        return tf.gather(x, index, axis=axis, batch_dims=axis)
    return tf.gather_nd(x, _coordinates_along(index, axis))


def _same_sizes(x: Any, index: Any, axis: int) -> bool:
    """Say whether the axes before `axis` are sure to be equal; an unknown size may be smaller."""
    pairs = zip(x.shape[1:axis], index.shape[1:axis], strict=True)
    return x.shape[0] == index.shape[0] and all(a is not None and a == b for a, b in pairs)


def _coordinates_along(index: Any, axis: int) -> Any:
    """Return [.., rank]: the place of each entry of `index`, its own value at `axis`."""
    sizes = shape_of(index)
    index = as_dtype(index, tf.int64)
    parts = []
    for place, size in enumerate(sizes):
        along = [1] * place + [-1] + [1] * (len(sizes) - place - 1)
        whole = tf.reshape(tf.range(as_dtype(size, tf.int64)), along)
        parts.append(index if place == axis else tf.broadcast_to(whole, as_sizes(sizes)))
    return tf.stack(parts, axis=-1)


def _part_under(src: Any, index: Any) -> Any:
    """Return the part of `src` that lies under `index`, which may be smaller."""
    if src.shape == index.shape and None not in src.shape.as_list()[1:]:
        return src
    return tf.slice(src, [0] * rank_of(src), tf.shape(index))


def scatter_add(node: Node, x: Any, dim: int, index: Any, src: Any) -> Any:
    places = _coordinates_along(index, axis_of(dim, rank_of(x)))
    return tf.tensor_scatter_nd_add(
        x, places, as_dtype(_part_under(src, index), result_dtype(node))
    )


def scatter(node: Node, x: Any, dim: int, index: Any, src: Any = None, value: Any = None) -> Any:
    places = _coordinates_along(index, axis_of(dim, rank_of(x)))
    if src is None:
        updates = tf.fill(as_sizes(shape_of(index)), as_dtype(value, result_dtype(node)))
    else:
        updates = as_dtype(_part_under(src, index), result_dtype(node))
    return tf.tensor_scatter_nd_update(x, places, updates)


def index_add(_node: Node, x: Any, dim: int, index: Any, source: Any, alpha: Any = 1) -> Any:
    if axis_of(dim, rank_of(x)) != 0:
        message = "index_add is lowered along the first axis only"
        raise NotImplementedError(message)
    return tf.tensor_scatter_nd_add(x, index[:, None], scaled(source, alpha))


def slice_scatter(
    node: Node, x: Any, src: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    axis = axis_of(dim, rank_of(x))
    size = shape_of(x)[axis]
    places = tf.range(as_dtype(size, tf.int64))[slice(start, None if end == END else end, step)]
    order = [axis, *[place for place in range(rank_of(x)) if place != axis]]
    back = [order.index(place) for place in range(rank_of(x))]
    put = tf.tensor_scatter_nd_update(
        tf.transpose(x, order),
        places[:, None],
        tf.transpose(as_dtype(src, result_dtype(node)), order),
    )
    return tf.transpose(put, back)
