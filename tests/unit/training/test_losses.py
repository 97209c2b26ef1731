"""Each loss against its definition written out."""

from __future__ import annotations

import pytest
import torch

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
