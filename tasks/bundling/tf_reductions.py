"""Operators that reduce, order or accumulate along axes."""

# A handler is named like its operator and takes the arguments of its schema, used or not.
# ruff: noqa: ARG001, D103

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tasks.bundling.aten_graph import Node
from tasks.bundling.tf_indexing import gather
from tasks.bundling.tf_values import (
    Handler,
    as_dtype,
    axes_of,
    axis_of,
    rank_of,
    result_dtype,
    swapped,
)


def reduction(function: Callable[..., Any], *, to_result: bool = True) -> Handler:
    """Return a lowering over some axes, or over all, in the dtype of the result."""

    def handler(node: Node, x: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
        x = as_dtype(x, result_dtype(node)) if to_result else x
        return function(x, axis=axes_of(dim, rank_of(x)), keepdims=keepdim)

    return handler


def any_along(x: Any, axis: list[int], *, keepdims: bool) -> Any:
    return tf.reduce_any(as_dtype(x, tf.bool), axis, keepdims)


def all_along(x: Any, axis: list[int], *, keepdims: bool) -> Any:
    return tf.reduce_all(as_dtype(x, tf.bool), axis, keepdims)


def var(_node: Node, x: Any, dim: Any = None, correction: Any = 1, keepdim: bool = False) -> Any:
    axes = axes_of(dim, rank_of(x))
    squares = tf.math.squared_difference(x, tf.reduce_mean(x, axes, keepdims=True))
    count = math.prod(x.shape[axis] for axis in axes)
    return tf.reduce_sum(squares, axes, keepdims=keepdim) / (
        count - (1 if correction is None else correction)
    )


def argmax(node: Node, x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    function = tf.argmax if "argmax" in node.op else tf.argmin
    if dim is None:
        return function(tf.reshape(x, [-1]), 0, output_type=tf.int64)
    found = function(x, axis_of(dim, rank_of(x)), output_type=tf.int64)
    return tf.expand_dims(found, axis_of(dim, rank_of(x))) if keepdim else found


def max_along(node: Node, x: Any, dim: int, keepdim: bool = False) -> Any:
    axis, largest = axis_of(dim, rank_of(x)), node.op == "aten.max.dim"
    value = (tf.reduce_max if largest else tf.reduce_min)(x, axis, keepdims=keepdim)
    place = (tf.argmax if largest else tf.argmin)(x, axis, output_type=tf.int64)
    return value, tf.expand_dims(place, axis) if keepdim else place


def cumsum(node: Node, x: Any, dim: int, **_ignored: Any) -> Any:
    return tf.cumsum(as_dtype(x, result_dtype(node)), axis_of(dim, rank_of(x)))


def softmax(_node: Node, x: Any, dim: int, **_ignored: Any) -> Any:
    return tf.nn.softmax(x, axis=axis_of(dim, rank_of(x)))


def log_softmax(_node: Node, x: Any, dim: int, **_ignored: Any) -> Any:
    return tf.nn.log_softmax(x, axis=axis_of(dim, rank_of(x)))


def topk(node: Node, x: Any, k: Any, dim: int = -1, largest: bool = True, **_: Any) -> Any:
    rank, axis = rank_of(x), axis_of(dim, rank_of(x))
    order = swapped(rank, axis, rank - 1)
    turned = x if axis == rank - 1 else tf.transpose(x, order)
    values, places = tf.math.top_k(turned if largest else -turned, as_dtype(k, tf.int32))
    values, places = values if largest else -values, as_dtype(places, tf.int64)
    if axis == rank - 1:
        return values, places
    return tf.transpose(values, order), tf.transpose(places, order)


def sort_along(node: Node, x: Any, dim: int = -1, descending: bool = False, **_ignored: Any) -> Any:
    axis, direction = axis_of(dim, rank_of(x)), "DESCENDING" if descending else "ASCENDING"
    places = tf.argsort(x, axis, direction, stable=True)
    return gather(node, x, axis, as_dtype(places, tf.int64)), as_dtype(places, tf.int64)
