"""Recurrent layers: a loop over the steps, so that a graph holds one step and each weight once."""

# A handler is named like its operator and takes the arguments of its schema, used or not.
# ruff: noqa: ARG001, PLR0917

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tasks.bundling.aten_graph import Node

_GATES = 3  # reset, update, new


def gru(
    _node: Node,
    x: Any,
    hx: Any,
    params: Any,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Any, Any]:
    """Return the last layer's state after every step and every layer's state after the last."""
    if bidirectional or train or not has_biases:
        message = "only GRUs in one direction, with biases and not in training are lowered"
        raise NotImplementedError(message)
    steps = tf.transpose(x, [1, 0, 2]) if batch_first else x
    last = []
    for layer in range(num_layers):
        weights = params[4 * layer : 4 * (layer + 1)]
        steps, state = _layer(steps, hx[layer], *weights)
        last.append(state)
    return (tf.transpose(steps, [1, 0, 2]) if batch_first else steps), tf.stack(last)


def _layer(
    x: Any, state: Any, input_weight: Any, state_weight: Any, input_bias: Any, state_bias: Any
) -> tuple[Any, Any]:
    """Return the states [S, B, H] after each step of x [S, B, D], and the last one [B, H].

    What the inputs add to the gates is one product for all steps, outside the loop.
    """
    gates = tf.nn.bias_add(tf.linalg.matmul(x, input_weight, transpose_b=True), input_bias)
    steps = tf.shape(x)[0]

    def step(place: Any, before: Any, states: Any) -> tuple[Any, Any, Any]:
        product = tf.linalg.matmul(before, state_weight, transpose_b=True)
        after = _step(gates[place], tf.nn.bias_add(product, state_bias), before)
        return place + 1, after, states.write(place, after)

    states = tf.TensorArray(x.dtype, steps, element_shape=state.shape)
    begin = (tf.zeros([], tf.int32), state, states)
    _, last, states = tf.while_loop(
        lambda place, *_: place < steps, step, begin, maximum_iterations=steps, name="steps"
    )
    return states.stack(), last


def _step(of_input: Any, of_state: Any, before: Any) -> Any:
    """Return the next state [B, H]; the gates' parts are [B, 3 H]."""
    reset_in, update_in, new_in = tf.split(of_input, _GATES, axis=1)
    reset_state, update_state, new_state = tf.split(of_state, _GATES, axis=1)
    new = tf.tanh(new_in + tf.sigmoid(reset_in + reset_state) * new_state)
    return new + tf.sigmoid(update_in + update_state) * (before - new)
