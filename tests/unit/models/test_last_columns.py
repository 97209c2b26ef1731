"""The last columns of a history, whatever its length."""

from __future__ import annotations

import pytest
import torch

from tasks.models.scores import last_columns


@pytest.mark.parametrize(
    ("length", "expected"),
    (
        pytest.param(5, [3, 4, 5], id="longer: the last ones"),
        pytest.param(3, [1, 2, 3], id="equal: all"),
        pytest.param(1, [0, 0, 1], id="shorter: zeros before"),
    ),
)
def test_the_last_three_columns(length: int, expected: list[int]) -> None:
    row = torch.arange(1, length + 1).unsqueeze(0)
    assert last_columns(row, 3).tolist() == [expected]
