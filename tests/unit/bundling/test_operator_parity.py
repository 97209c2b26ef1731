"""Every lowered operator against torch, at sizes other than those it was exported with."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.bundling.aten_export import export_module
from tasks.bundling.torch_to_tf import lower_graph

Function = Callable[[Tensor, Tensor], Any]
WIDTH = 6  # of the static tables below
SIZES = [(3, 7), (1, 1), (5, 4)]  # exported at the first, checked at all


class Group(nn.Module):
    """Functions of x float32 [B, L] and n int64 [B, L] in 0..5; all their values as one tuple."""

    def __init__(self, functions: tuple[Function, ...]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, ...]:
        """Return the values of all functions, one after the other."""
        return tuple(value for function in self.functions for value in values(function, x, n))


def values(function: Function, x: Tensor, n: Tensor) -> tuple[Tensor, ...]:
    found = function(x, n)
    return found if isinstance(found, tuple) else (found,)


def inputs(batch: int, length: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch * 100 + length)
    x = torch.randn((batch, length), generator=generator)
    return x, torch.randint(0, WIDTH, (batch, length), generator=generator)


@cache
def served_group(group: str, *, keep_composites: bool) -> Callable[[Tensor, Tensor], Any]:
    """Export a group once (an export takes longer than all its checks) and return it in TF."""
    functions = GROUPS[group]
    x, n = inputs(*SIZES[0])
    names = [
        f"{name}/{place}"
        for name, function in functions.items()
        for place in range(len(values(function, x, n)))
    ]
    module = Group(tuple(functions.values()))
    export = export_module(module, {"x": x, "n": n}, names, keep_composites=keep_composites)
    weights = {name: tf.constant(value.numpy()) for name, value in export.weights.items()}
    specs = [tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([None, None], tf.int64)]

    @tf.function(input_signature=specs)
    def served(x: Any, n: Any) -> Any:
        return lower_graph(export.graph, {**weights, "x": x, "n": n})

    return lambda x, n: served(tf.constant(x.numpy()), tf.constant(n.numpy()))


def assert_parity(group: str, name: str, *, keep_composites: bool) -> None:
    served = served_group(group, keep_composites=keep_composites)
    for batch, length in SIZES:
        x, n = inputs(batch, length)
        found = served(x, n)
        for place, value in enumerate(values(GROUPS[group][name], x, n)):
            ours = found[f"{name}/{place}"]
            assert ours.dtype.name == str(value.dtype).removeprefix("torch.")
            np.testing.assert_allclose(
                ours.numpy(), value.detach().numpy(), rtol=2e-5, atol=2e-6, err_msg=f"{place}"
            )


table = torch.linspace(-2, 2, WIDTH * 4).reshape(WIDTH, 4)
pairs = torch.arange(WIDTH * 3).reshape(WIDTH, 3) % WIDTH

ELEMENTWISE: dict[str, Function] = {
    "abs, neg, sign": lambda x, n: (x.abs(), -n, torch.sign(x)),
    "exp, expm1, log, log1p": lambda x, n: (
        x.exp(),
        torch.expm1(x),
        (x.abs() + 1).log(),
        torch.log1p(x.abs()),
    ),
    "sqrt, rsqrt, reciprocal of an integer": lambda x, n: (
        (n + 1).sqrt(),
        torch.rsqrt(x.abs() + 1),
        torch.reciprocal(n + 1),
    ),
    "sin, cos, erf, tanh, sigmoid": lambda x, n: (x.sin(), x.cos(), x.erf(), x.tanh(), x.sigmoid()),
    "floor, ceil, trunc, round half to even": lambda x, n: (
        (3 * x).floor(),
        (3 * x).ceil(),
        (3 * x).trunc(),
        torch.round(n * 0.5),
    ),
    "relu, silu, leaky_relu, elu, hardtanh": lambda x, n: (
        functional.relu(x),
        functional.silu(x),
        functional.leaky_relu(x, 0.1),
        functional.elu(x, 0.7),
        functional.hardtanh(x, -0.5, 0.5),
    ),
    "gelu exact and by tanh": lambda x, n: (
        functional.gelu(x),
        functional.gelu(x, approximate="tanh"),
    ),
    "add and sub with alpha, and promotion int + float": lambda x, n: (
        torch.add(x, n, alpha=2),
        torch.sub(x, n, alpha=3),
        n + 1.5,
        2 - x,
        n + n,
    ),
    "adding truths is or": lambda x, n: ((x > 0) + (n > 2),),
    "mul by tensor, number and truth": lambda x, n: (x * n, n * 3, x * (n > 2)),
    "div of integers is real; floor and trunc rounding of negatives": lambda x, n: (
        n / 4,
        torch.div(n - 3, 2, rounding_mode="floor"),
        torch.div(n - 3, 2, rounding_mode="trunc"),
        torch.div(x, 0.3, rounding_mode="trunc"),
        (n - 3) // 2,
    ),
    "remainder and fmod of negatives": lambda x, n: (
        (n - 3) % 2,
        torch.fmod(n - 3, 2),
        torch.remainder(x, 0.7),
        torch.fmod(x, 0.7),
    ),
    "powers": lambda x, n: (
        x**2,
        x.abs() ** 0.25,
        (x.abs() + 1) ** -0.5,
        n**2,
        2**x,
        (x.abs() + 1) ** n,
    ),
    "maximum, minimum, clamp with one and two bounds": lambda x, n: (
        torch.maximum(x, -x),
        torch.minimum(n, 5 - n),
        x.clamp(-0.5, 0.5),
        n.clamp(min=2),
        x.clamp(max=0.1),
        n.clamp(min=1.5),
    ),
    "comparisons promote: an integer below 2.5": lambda x, n: (
        n < 2.5,
        n <= x,
        n == 2,
        n != 3,
        x > n,
        x >= 0.0,
    ),
    "logical and bitwise": lambda x, n: (
        torch.logical_and(n, x > 0),
        torch.logical_or(x > 0, n > 3),
        torch.logical_xor(x > 0, n > 3),
        torch.logical_not(n),
        (x > 0) & (n > 1),
        n & 3,
        n | 4,
        n ^ 1,
        ~n,
        ~(x > 0),
    ),
    "where and masked_fill": lambda x, n: (
        torch.where(x > 0, x, n),
        torch.where(n > 2, 1.0, x),
        x.masked_fill(n > 2, -1e9),
    ),
    "casts truncate towards zero": lambda x, n: (
        (3 * x).to(torch.int64),
        n.to(torch.float32),
        (n > 2).to(torch.float32),
        n.bool(),
    ),
    "isnan and isinf": lambda x, n: (torch.isnan(x / 0 * 0), torch.isinf(1.0 / n)),
}

SHAPES: dict[str, Function] = {
    "arange of a size, backwards, with a step, of floats": lambda x, n: (
        torch.arange(x.shape[1]),
        torch.arange(x.shape[1], 0, -1),
        torch.arange(0, 2 * x.shape[1], 2),
        torch.arange(0.0, 1.0, 0.25),
    ),
    "full, zeros, ones, and like": lambda x, n: (
        torch.full((x.shape[0], 3), 1.5),
        torch.zeros(x.shape),
        torch.ones(2, dtype=torch.int64),
        torch.zeros_like(n),
        torch.ones_like(x),
        torch.full_like(x, -2.0),
        n.new_zeros(x.shape[1]),
    ),
    "view and reshape with one and two symbolic sizes": lambda x, n: (
        x.reshape(-1),
        x.unsqueeze(-1).expand(-1, -1, 4).reshape(x.shape[0], -1),
        x.unsqueeze(-1).expand(-1, -1, 6).reshape(x.shape[0], x.shape[1], 2, 3),
    ),
    "expand, repeat, broadcast": lambda x, n: (
        x[:, None].expand(-1, 3, -1),
        x.repeat(2, 1),
        x.repeat(1, 2, 1),
        x.expand(2, *x.shape),
    ),
    "permute, transpose, t, flip, roll": lambda x, n: (
        x[:, :, None].permute(2, 0, 1),
        x.transpose(0, -1),
        x.t(),
        x.flip(1),
    ),
    "unsqueeze and squeeze": lambda x, n: (
        x.unsqueeze(-1),
        x.unsqueeze(0).squeeze(0),
        x[:, None, :, None].squeeze((1, 3)),
    ),
    "slices from the end, with steps, across the whole": lambda x, n: (
        x[:, -1:],
        torch.cat([x, x, x], 1)[:, ::2],
        x[:, :],
        torch.cat([x, x, x], 1)[:, 1:-1],
        torch.arange(10)[2:9:3],
    ),
    "select first and last": lambda x, n: (x[:, 0], x[:, -1], x[-1]),
    "cat promotes and stack": lambda x, n: (
        torch.cat([x, n], dim=1),
        torch.cat([x, x], dim=-1),
        torch.stack([x, -x], dim=-1),
    ),
    "split, chunk, unbind": lambda x, n: (
        *(x.unsqueeze(-1) * torch.arange(6.0)).chunk(3, -1),
        *(x.unsqueeze(-1) * torch.arange(2.0)).unbind(-1),
        *(x.unsqueeze(-1) * torch.arange(5.0)).split([2, 3], -1),
    ),
    "padding with a constant": lambda x, n: (
        functional.pad(x, (1, 2), value=0.5),
        functional.pad(x, (0, 0, 1, 0)),
    ),
    "triangles of a symbolic square": lambda x, n: (
        torch.ones(x.shape[1], x.shape[1]).tril(),
        torch.ones(x.shape[1], x.shape[1]).triu(1),
    ),
    "sizes in arithmetic": lambda x, n: (
        x * x.shape[1],
        torch.arange(x.shape[1] * 2 + 1),
        torch.arange(x.shape[1] // 2 + 3),
    ),
}

REDUCTIONS: dict[str, Function] = {
    "sums of floats, integers and truths": lambda x, n: (
        x.sum(),
        n.sum(1),
        (n > 2).sum(dim=1, keepdim=True),
        x.sum((0, 1)),
    ),
    "means": lambda x, n: (x.mean(), x.mean(1, keepdim=True), x.mean(-1)),
    "largest and smallest with places": lambda x, n: (
        x.amax(1),
        x.amin(-1, keepdim=True),
        *x.max(dim=1),
        *x.min(dim=1),
        x.max(),
        x.argmax(1),
        x.argmin(-1, keepdim=True),
    ),
    "any and all": lambda x, n: ((n > 4).any(1), (n > 0).all(1), (n > 5).any(), (n >= 0).all()),
    "variance over a static axis": lambda x, n: (
        (x.unsqueeze(-1) * torch.arange(4.0)).var(-1),
        (x.unsqueeze(-1) * torch.arange(4.0)).var(-1, correction=0, keepdim=True),
    ),
    "cumsum of floats and of truths": lambda x, n: (x.cumsum(1), (n > 2).cumsum(1)),
    "softmax and log_softmax": lambda x, n: (
        x.softmax(-1),
        x.softmax(0),
        torch.log_softmax(x, 1),
        x.logsumexp(1),
    ),
    "topk and sort, both directions": lambda x, n: (
        *x.unsqueeze(-1).mul(torch.tensor([1.0, -2.0, 3.0, 0.5])).topk(2),
        *table.topk(2, dim=0, largest=False),
        *x.sort(dim=1),
        *x.sort(dim=1, descending=True, stable=True),
    ),
}

INDEXING: dict[str, Function] = {
    "embedding, index_select and index by one tensor": lambda x, n: (
        functional.embedding(n, table),
        table.index_select(0, n[0]),
        table[n],
        table.t()[:, n],
    ),
    "index by two tensors that broadcast": lambda x, n: (
        table[n, n.clamp(max=3)],
        table[n[:, :1], torch.arange(4)],
    ),
    "gather along the last and the first axis": lambda x, n: (
        x.gather(1, torch.zeros_like(n)),
        table.gather(0, n[:, :1].expand(-1, 4)),
        (x[:, :, None] * torch.arange(6.0)).gather(2, n[:, :, None]),
    ),
    "scatter_add counts repeats": lambda x, n: (
        torch.zeros(x.shape[0], WIDTH).scatter_add(1, n, x),
        torch.ones(x.shape[0], WIDTH).scatter_add(1, n, x),
        torch.zeros(WIDTH).scatter_add(0, n.reshape(-1), x.reshape(-1)),
    ),
    "scatter of a number and of equal values": lambda x, n: (
        torch.zeros(x.shape[0], WIDTH).scatter(1, n, 1.0),
        torch.zeros(x.shape[0], WIDTH).scatter(1, n, n * 2.0),
    ),
    "index_put, adding and by mask": lambda x, n: (
        torch.zeros(WIDTH).index_put((n.reshape(-1),), x.reshape(-1), accumulate=True),
        torch.zeros(WIDTH, 4).index_put((n[:, 0],), torch.tensor(1.0)),
        x.index_put((n > 2,), torch.tensor(-1.0)),
    ),
    "index_add": lambda x, n: (torch.zeros(WIDTH, 4).index_add(0, n[:, 0], table[n[:, 0]]),),
    "assigning to a column": lambda x, n: (_first_column_lowered(x),),
}

LAYERS: dict[str, Function] = {
    "matrix products of every rank": lambda x, n: (
        x @ x.t(),
        x.unsqueeze(1) @ x.unsqueeze(2),
        torch.bmm(x.unsqueeze(1), x.unsqueeze(2)),
        x @ x[0],
        table @ torch.ones(4),
        x[0] @ x.t(),
        table.t() @ table,
    ),
    "addmm and baddbmm with factors": lambda x, n: (
        torch.addmm(torch.ones(1), x, x.t(), beta=0.5, alpha=2.0),
        torch.baddbmm(torch.ones(1), x.unsqueeze(1), x.unsqueeze(2), beta=2.0),
    ),
    "linear with and without bias": lambda x, n: (
        functional.linear(functional.embedding(n, table), table, torch.arange(6.0)),
        functional.linear(table, table),
    ),
    "layer norm with and without weights": lambda x, n: (
        functional.layer_norm(functional.embedding(n, table), (4,)),
        functional.layer_norm(
            functional.embedding(n, table) + x[..., None], (4,), table[0], table[1], 1e-3
        ),
    ),
    "attention: bool mask with a row that sees nothing, float mask, causal, plain": lambda x, n: (
        _attention(x, n, mask="bool"),
        _attention(x, n, mask="float"),
        _attention(x, n, mask="causal"),
        _attention(x, n, mask="none"),
    ),
    "convolution, batch norm and pooling": lambda x, n: (_convolved(x),),
    "gru of one layer, of two, steps first": lambda x, n: (
        *_recurrent(x, layers=1),
        *_recurrent(x, layers=2),
        *_recurrent(x, layers=1, batch_first=False),
    ),
}


def _first_column_lowered(x: Tensor) -> Tensor:
    changed = x.clone()
    changed[:, 0] = -5.0
    return changed


def _attention(x: Tensor, n: Tensor, mask: str) -> Tensor:
    query = (x[:, None, :, None] * torch.tensor([0.3, -0.2, 0.9, 0.1])).expand(-1, 2, -1, -1)
    key = functional.embedding(n, table)[:, None].expand(-1, 2, -1, -1)
    allowed = (n[:, None, None, :] > 1) & (n[:, None, :, None] > 0)
    masks: dict[str, Any] = {
        "bool": {"attn_mask": allowed},
        "float": {"attn_mask": torch.where(allowed, 0.0, -1e9)},
        "causal": {"is_causal": True},
        "none": {"scale": 0.7},
    }
    return functional.scaled_dot_product_attention(query, key, key, **masks[mask])


def _recurrent(x: Tensor, *, layers: int, batch_first: bool = True) -> tuple[Tensor, Tensor]:
    """Return both values of a GRU over five steps: how many there are, torch wants to know."""
    steps = x[:, :1, None] * torch.linspace(-2, 2, 20).reshape(5, 4)
    weights = [
        torch.linspace(-0.9, 0.7, 9 * columns).reshape(shape)
        for layer in range(layers)
        for columns, shape in ((3 if layer else 4, (9, -1)), (3, (9, 3)), (1, (9,)), (1, (9,)))
    ]
    begin = torch.full((layers, x.shape[0], 3), 0.1)
    given = steps if batch_first else steps.transpose(0, 1)
    return torch.gru(given, begin, weights, True, layers, 0.0, False, False, batch_first)


def _convolved(x: Tensor) -> Tensor:
    image = (x[:, :1, None, None] * torch.arange(64.0).reshape(1, 1, 8, 8) / 64).expand(-1, 2, 8, 8)
    kernel = torch.linspace(-1, 1, 3 * 2 * 9).reshape(3, 2, 3, 3)
    found = functional.conv2d(image, kernel, torch.arange(3.0), stride=2, padding=1)
    found = functional.batch_norm(found, torch.arange(3.0), torch.ones(3) * 2, torch.ones(3))
    return functional.max_pool2d(found, 2) + functional.avg_pool2d(found, 2)


GROUPS: dict[str, dict[str, Function]] = {
    "elementwise": ELEMENTWISE,
    "shapes": SHAPES,
    "reductions": REDUCTIONS,
    "indexing": INDEXING,
    "layers": LAYERS,
}
CASES = [pytest.param(group, name, id=name) for group, cases in GROUPS.items() for name in cases]


@pytest.mark.parametrize(("group", "name"), CASES)
def test_the_lowered_operator_answers_what_torch_answers(group: str, name: str) -> None:
    assert_parity(group, name, keep_composites=True)


@pytest.mark.parametrize("name", LAYERS)
def test_fully_decomposed_layers_answer_what_torch_answers(name: str) -> None:
    assert_parity("layers", name, keep_composites=False)
