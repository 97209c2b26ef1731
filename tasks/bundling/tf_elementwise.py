"""Operators that work on each element: arithmetic, comparisons, activations, casts."""

# A handler is named like its operator and takes the arguments of its schema, used or not.
# ruff: noqa: D103

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tasks.bundling.aten_graph import Node
from tasks.bundling.tf_values import Handler, as_dtype, as_sizes, promoted, result_dtype, shape_of


def unary(function: Callable[[Any], Any]) -> Handler:
    """Return a lowering of one operand in the dtype of the result."""

    def handler(node: Node, x: Any) -> Any:
        return function(as_dtype(x, result_dtype(node)))

    return handler


def binary(function: Callable[[Any, Any], Any]) -> Handler:
    """Return a lowering of two operands in the dtype that torch promotes them to."""

    def handler(node: Node, x: Any, other: Any) -> Any:
        return function(*promoted(node, x, other))

    return handler


def logical(function: Callable[[Any, Any], Any]) -> Handler:
    """Return a lowering on truth values."""

    def handler(_node: Node, x: Any, other: Any) -> Any:
        return function(as_dtype(x, tf.bool), as_dtype(other, tf.bool))

    return handler


def bitwise(on_bool: Callable[..., Any], on_bits: Callable[..., Any]) -> Handler:
    """Return a lowering on truth values, or on the bits of integers."""

    def handler(node: Node, x: Any, other: Any) -> Any:
        dtype = result_dtype(node)
        return (on_bool if dtype == tf.bool else on_bits)(
            as_dtype(x, dtype), as_dtype(other, dtype)
        )

    return handler


def bitwise_not(node: Node, x: Any) -> Any:
    return tf.logical_not(x) if result_dtype(node) == tf.bool else tf.bitwise.invert(x)


def add(node: Node, x: Any, other: Any, alpha: Any = 1) -> Any:
    left, right = promoted(node, x, other)
    if left.dtype == tf.bool:
        return tf.logical_or(left, right)
    return left + (right if alpha == 1 else right * as_dtype(alpha, right.dtype))


def sub(node: Node, x: Any, other: Any, alpha: Any = 1) -> Any:
    left, right = promoted(node, x, other)
    return left - (right if alpha == 1 else right * as_dtype(alpha, right.dtype))


def rsub(node: Node, x: Any, other: Any, alpha: Any = 1) -> Any:
    return sub(node, other, x, alpha)


def div(node: Node, x: Any, other: Any, rounding_mode: str | None = None) -> Any:
    left, right = promoted(node, x, other)
    if rounding_mode == "floor":
        return tf.math.floordiv(left, right)
    if rounding_mode == "trunc":
        integral = left.dtype.is_integer
        return tf.truncatediv(left, right) if integral else truncated(left / right)
    return left / right


def truncated(x: Any) -> Any:
    return tf.sign(x) * tf.floor(tf.abs(x))


def power(node: Node, x: Any, exponent: Any) -> Any:
    simple = {2: tf.square, 0.5: tf.sqrt, -0.5: tf.math.rsqrt, -1: tf.math.reciprocal}
    if isinstance(exponent, int | float) and exponent in simple:
        return simple[exponent](as_dtype(x, result_dtype(node)))
    return tf.pow(*promoted(node, x, exponent))


def clamp(node: Node, x: Any, min: Any = None, max: Any = None) -> Any:  # noqa: A002 (schema)
    (result,) = promoted(node, x)
    if min is not None:
        result = tf.maximum(result, as_dtype(min, result.dtype))
    return result if max is None else tf.minimum(result, as_dtype(max, result.dtype))


def clamp_min(node: Node, x: Any, min: Any) -> Any:  # noqa: A002 (schema)
    return clamp(node, x, min=min)


def clamp_max(node: Node, x: Any, max: Any) -> Any:  # noqa: A002 (schema)
    return clamp(node, x, max=max)


def where(node: Node, condition: Any, x: Any, other: Any) -> Any:
    return tf.where(condition, *[as_dtype(value, result_dtype(node)) for value in (x, other)])


def masked_fill(node: Node, x: Any, mask: Any, value: Any) -> Any:
    return tf.where(mask, as_dtype(value, result_dtype(node)), x)


def isnan(_node: Node, x: Any) -> Any:
    return tf.math.is_nan(x)


def isinf(_node: Node, x: Any) -> Any:
    return tf.math.is_inf(x)


def gelu(_node: Node, x: Any, approximate: str = "none") -> Any:
    return tf.nn.gelu(x, approximate=approximate == "tanh")


def silu(_node: Node, x: Any) -> Any:
    return x * tf.sigmoid(x)  # tf.nn.silu adds a custom gradient, whose name changes every run


def leaky_relu(_node: Node, x: Any, negative_slope: float = 0.01) -> Any:
    return tf.nn.leaky_relu(x, alpha=negative_slope)


def elu(_node: Node, x: Any, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Any:
    return scale * tf.where(x > 0, x, alpha * tf.math.expm1(tf.minimum(x, 0) * input_scale))


def hardtanh(node: Node, x: Any, min_val: float = -1, max_val: float = 1) -> Any:
    return clamp(node, x, min=min_val, max=max_val)


def to_copy(node: Node, x: Any, **_ignored: Any) -> Any:
    if x.dtype.is_floating and result_dtype(node).is_integer:
        return tf.cast(truncated(x), result_dtype(node))
    return as_dtype(x, result_dtype(node))


def copy(node: Node, x: Any, src: Any, **_ignored: Any) -> Any:
    return tf.broadcast_to(as_dtype(src, result_dtype(node)), as_sizes(shape_of(x)))
