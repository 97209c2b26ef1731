"""Smaller forms of tensors: what is exact is exact, what rounds stays within half a step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.compression.coding import Codebook, Int8Rows, Int16, SmallIntegers, coded_8_bit


def stored_bytes(module: torch.nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())


def test_a_row_by_hand() -> None:
    coded = Int8Rows(torch.tensor([[1.27, -0.5, 0.0, 0.014]]))
    # The step is 1.27 / 127 = 0.01: codes 127, -50, 0 and 1.
    assert coded.codes.tolist() == [[127, -50, 0, 1]]
    torch.testing.assert_close(coded(), torch.tensor([[1.27, -0.5, 0.0, 0.01]]))


def test_rows_without_negatives_use_all_256_levels() -> None:
    coded = Int8Rows(torch.tensor([[2.55, 0.02], [0.0, 0.0]]))
    assert coded.codes.dtype is torch.uint8
    assert coded.codes.tolist() == [[255, 2], [0, 0]]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.floats(1e-6, 1e6))
def test_no_weight_moves_by_more_than_half_a_step_of_its_own_row(seed: int, size: float) -> None:
    weights = torch.randn((9, 31), generator=torch.Generator().manual_seed(seed)) * size
    weights[3] = 0
    coded = Int8Rows(weights)
    steps = weights.abs().amax(1, keepdim=True) / 127
    assert bool(((coded() - weights).abs() <= steps * 0.5001).all())
    assert bool((coded()[weights == 0] == 0).all())


def test_a_codebook_returns_the_very_values() -> None:
    values = torch.log1p(torch.arange(3000) % 300).to(torch.float32)
    coded = Codebook(values)
    assert torch.equal(coded(), values)
    assert stored_bytes(coded) < values.numel() * 3


def test_int16_is_within_half_a_step() -> None:
    values = torch.randn(2000, generator=torch.Generator().manual_seed(1))
    assert float((Int16(values)() - values).abs().max()) <= float(values.abs().max()) / 32767 * 0.51


@pytest.mark.parametrize(
    ("largest", "dtype"),
    (
        pytest.param(255, torch.uint8, id="255 fits one byte"),
        pytest.param(256, torch.uint16, id="256 does not"),
        pytest.param(65535, torch.uint16, id="65,535 fits two bytes"),
        pytest.param(65536, torch.int32, id="65,536 does not"),
    ),
)
def test_indices_take_the_smallest_type_that_holds_them(largest: int, dtype: torch.dtype) -> None:
    values = torch.tensor([[0, largest]])
    coded = SmallIntegers(values)
    assert coded.codes.dtype is dtype
    assert torch.equal(coded(), values)


@pytest.mark.parametrize(
    ("tensor", "kind"),
    (
        pytest.param(torch.randn(64, 64), Int8Rows, id="a dense weight is rounded by row"),
        pytest.param(torch.arange(2000).reshape(40, 50), SmallIntegers, id="indices shrink"),
        pytest.param(torch.zeros(4000), Codebook, id="few distinct values: a codebook"),
        pytest.param(torch.randn(4000), Int16, id="many distinct values: 16 bits"),
        pytest.param(torch.randn(8, 8), type(None), id="a small matrix stays as it is"),
        pytest.param(torch.zeros(64, 64).bool(), type(None), id="truths stay as they are"),
    ),
)
def test_each_tensor_gets_the_form_that_suits_it(tensor: torch.Tensor, kind: type) -> None:
    assert isinstance(coded_8_bit(tensor), kind)
