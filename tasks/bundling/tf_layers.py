"""Matrix products, normalisation, attention, convolution."""

# A handler is named like its operator and takes the arguments of its schema, used or not.
# ruff: noqa: ARG001, D103, PLR0917

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from tasks.bundling.aten_graph import Node
from tasks.bundling.tf_shapes import triangle
from tasks.bundling.tf_values import as_dtype, rank_of


def mm(_node: Node, x: Any, mat2: Any) -> Any:
    return tf.linalg.matmul(x, mat2)


def matmul(_node: Node, x: Any, other: Any) -> Any:
    left = x[None, :] if rank_of(x) == 1 else x
    right = other[:, None] if rank_of(other) == 1 else other
    product = tf.linalg.matmul(left, right)
    product = tf.squeeze(product, [-1]) if rank_of(other) == 1 else product
    return tf.squeeze(product, [-2 if rank_of(other) > 1 else -1]) if rank_of(x) == 1 else product


def mv(_node: Node, x: Any, vec: Any) -> Any:
    return tf.linalg.matvec(x, vec)


def addmm(_node: Node, x: Any, mat1: Any, mat2: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    return scaled(x, beta) + scaled(tf.linalg.matmul(mat1, mat2), alpha)


def baddbmm(_node: Node, x: Any, batch1: Any, batch2: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    return scaled(x, beta) + scaled(tf.linalg.matmul(batch1, batch2), alpha)


def scaled(x: Any, factor: float) -> Any:
    return x if factor == 1 else x * as_dtype(factor, x.dtype)


def linear(_node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    product = tf.linalg.matmul(x, weight, transpose_b=True)
    return product if bias is None else tf.nn.bias_add(product, bias)


def native_layer_norm(
    _node: Node, x: Any, normalized_shape: Any, weight: Any, bias: Any, eps: float
) -> Any:
    axes = list(range(rank_of(x) - len(normalized_shape), rank_of(x)))
    mean = tf.reduce_mean(x, axes, keepdims=True)
    away = x - mean
    scale = tf.math.rsqrt(tf.reduce_mean(tf.square(away), axes, keepdims=True) + eps)
    result = away * (scale if weight is None else scale * weight)
    return (result if bias is None else result + bias), mean, scale


def layer_norm(
    node: Node,
    x: Any,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    **_ignored: Any,
) -> Any:
    return native_layer_norm(node, x, normalized_shape, weight, bias, eps)[0]


def attention(
    node: Node,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if enable_gqa or dropout_p:
        message = "grouped queries and dropout are not lowered"
        raise NotImplementedError(message)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    logits = tf.linalg.matmul(query * factor, key, transpose_b=True)
    if is_causal:
        attn_mask = triangle(Node(name="", op="tril", arguments={}), tf.ones_like(logits, tf.bool))
    if attn_mask is None:
        return tf.linalg.matmul(tf.nn.softmax(logits), value)
    allowed, logits = _masked(logits, attn_mask)
    # A query that may look at nothing answers zero, as torch's does.
    weights = tf.where(allowed, tf.nn.softmax(logits), as_dtype(0, logits.dtype))
    return tf.linalg.matmul(weights, value)


def _masked(logits: Any, mask: Any) -> tuple[Any, Any]:
    lowest = as_dtype(logits.dtype.min, logits.dtype)
    if mask.dtype == tf.bool:
        return mask, tf.where(mask, logits, lowest)
    return mask > lowest, tf.maximum(logits + mask, lowest)


def batch_norm(
    _node: Node,
    x: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    momentum: float,
    eps: float,
) -> Any:
    del momentum
    scale = tf.math.rsqrt(running_var + eps) * (1.0 if weight is None else weight)
    shift = (0.0 if bias is None else bias) - running_mean * scale
    per_channel = [-1] + [1] * (rank_of(x) - 2)
    return (
        x * tf.reshape(scale, per_channel) + tf.reshape(shift, per_channel),
        running_mean,
        running_var,
    )


def convolution(
    _node: Node,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Any:
    if transposed or any(output_padding) or groups != 1 or rank_of(x) != 4:
        message = "only plain 2-D convolutions are lowered"
        raise NotImplementedError(message)
    pads = [[0, 0], *[[size, size] for size in padding], [0, 0]]
    found = tf.nn.conv2d(
        tf.transpose(x, [0, 2, 3, 1]),
        tf.transpose(weight, [2, 3, 1, 0]),
        strides=stride,
        padding=pads,
        dilations=dilation,
    )
    found = found if bias is None else tf.nn.bias_add(found, bias)
    return tf.transpose(found, [0, 3, 1, 2])


def pool(
    node: Node, x: Any, kernel_size: Any, stride: Any = (), padding: Any = (0,), **_ignored: Any
) -> Any:
    if any(padding):
        message = "pooling with padding is not lowered"
        raise NotImplementedError(message)
    function = tf.nn.max_pool2d if "max" in node.op else tf.nn.avg_pool2d
    found = function(tf.transpose(x, [0, 2, 3, 1]), kernel_size, stride or kernel_size, "VALID")
    result = tf.transpose(found, [0, 3, 1, 2])
    return (result, None) if "max" in node.op else result
