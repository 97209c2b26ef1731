"""Each loss against its definition written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.training.losses import gbce, gbce_power, sampled_softmax, softmax

STATE = torch.tensor([[1.0, -1.0]])
TABLE = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
BIAS = torch.tensor([0.0, 0.1, 0.2, 0.3])


def loss(negatives: list[int], log_q: torch.Tensor) -> float:
    return float(
        sampled_softmax(
            states=STATE,
            rows=torch.tensor([0]),
            targets=torch.tensor([1]),
            negatives=torch.tensor(negatives),
            table=TABLE,
            bias=BIAS,
            log_q=log_q,
        )
    )


def test_with_every_other_item_as_negative_and_no_correction_it_is_the_full_softmax():
    logits = (STATE @ TABLE.t() + BIAS)[0, 1:]
    expected = -torch.log_softmax(logits, dim=0)[0]

    assert loss([2, 3], torch.zeros(4)) == pytest.approx(float(expected), abs=1e-6)


def test_items_drawn_often_weigh_less():
    rare, often = torch.zeros(4), torch.tensor([0.0, 0.0, 0.0, 2.0])

    assert loss([3], often) < loss([3], rare)


def test_one_state_may_have_many_targets():
    both = sampled_softmax(
        states=STATE,
        rows=torch.tensor([0, 0]),
        targets=torch.tensor([1, 2]),
        negatives=torch.tensor([3]),
        table=TABLE,
        bias=BIAS,
        log_q=torch.zeros(4),
    )
    positive = (STATE @ TABLE.t() + BIAS)[0]
    one = torch.logaddexp(positive[1], positive[3]) - positive[1]
    other = torch.logaddexp(positive[2], positive[3]) - positive[2]

    assert float(both) == pytest.approx(float(one + other) / 2, abs=1e-6)


def test_the_full_softmax_is_cross_entropy_over_all_items_but_padding():
    rows, targets = torch.tensor([0, 0]), torch.tensor([1, 3])
    logits = (STATE @ TABLE.t() + BIAS)[rows, 1:]

    found = softmax(states=STATE, rows=rows, targets=targets, table=TABLE, bias=BIAS)

    expected = torch.nn.functional.cross_entropy(logits, targets - 1)
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


class LargestTensor(TorchDispatchMode):
    """Keep the bytes of the largest tensor that an operation makes, views left out."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at what it returns."""
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor) and one._base is None:
                self.bytes = max(self.bytes, one.numel() * one.element_size())
        return made


MANY_STATES, MANY_ITEMS, WIDE = 60, 3000, 8
MIB = 2**20


def softmax_and_gradients(
    chunk_bytes: int, *, bf16: bool = False
) -> tuple[int, list[torch.Tensor]]:
    """Return the bytes of the largest tensor made, the loss and the gradients of 150 pairs."""
    draw = torch.Generator().manual_seed(1)
    states = torch.randn(MANY_STATES, WIDE, generator=draw).requires_grad_()
    table = torch.randn(MANY_ITEMS + 1, WIDE, generator=draw).requires_grad_()
    bias = torch.randn(MANY_ITEMS + 1, generator=draw).requires_grad_()
    rows = torch.randint(0, MANY_STATES - 1, (150,), generator=draw)  # the last state has no pair
    targets = torch.randint(1, MANY_ITEMS + 1, (150,), generator=draw)
    with LargestTensor() as largest:
        with torch.autocast("cpu", torch.bfloat16, bf16):
            found = softmax(
                states=states,
                rows=rows,
                targets=targets,
                table=table,
                bias=bias,
                chunk_bytes=chunk_bytes,
            )
        found.backward()
    gradients = [one.grad for one in (states, table, bias) if one.grad is not None]
    return largest.bytes, [found.detach(), *gradients]


@pytest.mark.parametrize("bf16", (False, True), ids=("float32", "bf16"))
@pytest.mark.parametrize("states_at_once", (1, 7, 59))
def test_the_full_softmax_in_chunks_is_the_whole_one(states_at_once, bf16):
    _, whole = softmax_and_gradients(MIB, bf16=bf16)
    _, chunked = softmax_and_gradients(states_at_once * MANY_ITEMS * 4, bf16=bf16)

    assert len(chunked) == 4
    for one, other in zip(chunked, whole, strict=True):
        # In bf16 a chunk's gradient of the table is rounded before it is added to the others.
        tolerance = 1e-2 * float(other.abs().max()) if bf16 else 1e-6
        assert torch.allclose(one, other, rtol=1e-5, atol=tolerance)


def test_the_full_softmax_makes_no_tensor_above_its_chunk():
    scores, table = MANY_STATES * MANY_ITEMS * 4, (MANY_ITEMS + 1) * WIDE * 4
    allowed = scores // 6

    assert softmax_and_gradients(scores)[0] == scores
    assert table < softmax_and_gradients(allowed)[0] <= allowed


def test_the_full_softmax_in_one_chunk_is_bit_for_bit_the_plain_one():
    rows, targets = torch.tensor([0, 0]), torch.tensor([1, 3])
    scores = STATE @ TABLE[1:].t() + BIAS[1:]
    expected = (torch.logsumexp(scores, dim=1)[rows] - scores[rows, targets - 1]).mean()

    found = softmax(states=STATE, rows=rows, targets=targets, table=TABLE, bias=BIAS)

    assert torch.equal(found, expected)


def test_gbce_is_the_sum_of_its_logarithms_without_the_target_among_the_negatives():
    positive, _, third = torch.sigmoid((STATE @ TABLE.t() + BIAS)[0, 1:])

    found = gbce(
        states=STATE,
        rows=torch.tensor([0]),
        targets=torch.tensor([1]),
        negatives=torch.tensor([3, 1, 3]),
        table=TABLE,
        bias=BIAS,
        power=0.25,
    )

    expected = -torch.log(positive**0.25) - 2 * torch.log(1 - third)
    assert float(found) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("calibration", "expected"), ((0.0, 1.0), (1.0, 0.1), (0.75, 0.25 + 0.75 * 0.1))
)
def test_the_power_of_gbce_runs_from_none_to_the_share_of_drawn_items(calibration, expected):
    assert gbce_power(10, 101, calibration) == pytest.approx(expected)
