"""What lowerings share: dtypes as torch promotes them, sizes that may be symbolic, axes.

Symbolic sizes are int64 scalars.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import tensorflow as tf

from tasks.bundling.aten_graph import Node

Handler = Callable[..., Any]

DTYPES = MappingProxyType(
    {
        "bool": tf.bool,
        "uint8": tf.uint8,
        "int8": tf.int8,
        "int16": tf.int16,
        "uint16": tf.uint16,
        "int32": tf.int32,
        "int64": tf.int64,
        "bfloat16": tf.bfloat16,
        "float16": tf.float16,
        "float32": tf.float32,
        "float64": tf.float64,
    }
)


def result_dtype(node: Node) -> tf.DType:
    """Return the dtype that torch recorded for the node's result."""
    if node.kind is None:
        message = "no dtype is recorded for it"
        raise ValueError(message)
    return DTYPES[node.kind.dtype]


def as_dtype(value: Any, dtype: tf.DType) -> Any:
    """Return a tensor or number in `dtype`."""
    if isinstance(value, bool | int | float):
        return tf.constant(_python_value(value, dtype), dtype)
    return value if value.dtype == dtype else tf.cast(value, dtype)


def _python_value(value: float, dtype: tf.DType) -> float | int | bool:
    if dtype == tf.bool:
        return bool(value)
    return int(value) if dtype.is_integer else float(value)


def promoted(node: Node, *values: Any) -> list[Any]:
    """Return the operands in the dtype that torch promotes them to."""
    dtype = DTYPES[node.compute] if node.compute else result_dtype(node)
    return [as_dtype(value, dtype) for value in values]


def as_sizes(sizes: Sequence[Any]) -> Any:
    """Return sizes as a list where all are numbers, else as an int64 vector."""
    if all(isinstance(size, int) for size in sizes):
        return list(sizes)
    return tf.stack([as_dtype(size, tf.int64) for size in sizes])


def reshape_sizes(sizes: Sequence[Any]) -> Any:
    """Let TensorFlow infer the one symbolic size: no operator is needed to compute it."""
    symbolic = [place for place, size in enumerate(sizes) if not isinstance(size, int)]
    if len(symbolic) == 1 and -1 not in (size for size in sizes if isinstance(size, int)):
        return [-1 if place == symbolic[0] else size for place, size in enumerate(sizes)]
    return as_sizes(sizes)


def rank_of(x: Any) -> int:
    """Return the number of axes, which must be known."""
    rank = x.shape.rank
    if rank is None:
        message = "the rank of its tensor is unknown"
        raise ValueError(message)
    return int(rank)


def axis_of(dim: int, rank: int) -> int:
    """Return a non-negative axis."""
    return dim % rank if rank else 0


def axes_of(dim: Any, rank: int) -> list[int]:
    """Return non-negative axes; all of them where none are named."""
    if dim is None or dim == []:
        return list(range(rank))
    dims = [dim] if isinstance(dim, int) else dim
    return [axis_of(item, rank) for item in dims]


def shape_of(x: Any) -> list[Any]:
    """Return each size: a number where it is known, else an int64 scalar."""
    static = x.shape.as_list()
    if None not in static:
        return list(static)
    dynamic = tf.shape(x, out_type=tf.int64)
    return [dynamic[place] if size is None else size for place, size in enumerate(static)]


def swapped(rank: int, first: int, second: int) -> list[int]:
    """Return the order of `rank` axes with two of them exchanged."""
    order = list(range(rank))
    order[first], order[second] = order[second], order[first]
    return order
