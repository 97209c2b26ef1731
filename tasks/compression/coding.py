"""Smaller forms of tensors and how a graph gets the tensor back; decoding is plain torch.

* Int8Rows: weights of rank 2 to 4, one scale per row (an item of a table, an output channel);
  unsigned where nothing is negative, which halves the error of probabilities and counts.
* Codebook: long vectors with few distinct values (counts, penalties): exact.
* Int16: other long vectors (biases), one scale.
* SmallIntegers: indices in the smallest integer type that holds them: exact.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn

MIN_ELEMENTS = 1024  # below it, an extra operator costs more than the bytes are worth
_INTEGERS = (torch.uint8, torch.int8, torch.uint16, torch.int16, torch.int32)


class Coded(Protocol):
    """A module that holds a tensor in a smaller form."""

    def __call__(self) -> Tensor:
        """Return the tensor in its own dtype and shape."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return what is stored."""
        ...


class Int8Rows(nn.Module):
    """Rows of 8-bit integers with a float scale each: symmetric, zero stays zero."""

    codes: Tensor
    scale: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        unsigned = bool((weights >= 0).all())
        levels, dtype = (255, torch.uint8) if unsigned else (127, torch.int8)
        largest = weights.abs().flatten(1).amax(dim=1).view(-1, *[1] * (weights.ndim - 1))
        scale = torch.where(largest > 0, largest / levels, torch.ones_like(largest))
        self.register_buffer("codes", torch.round(weights / scale).to(dtype))
        self.register_buffer("scale", scale)

    def forward(self) -> Tensor:
        """Return float32 [rows, columns] or [rows, .., ..]."""
        return self.codes.to(torch.float32) * self.scale


class Int16(nn.Module):
    """A vector of 16-bit integers with one scale."""

    codes: Tensor
    scale: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        scale = (values.abs().amax() / 32767).clamp(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("codes", torch.round(values / scale).to(torch.int16))
        self.register_buffer("scale", scale.reshape(1))

    def forward(self) -> Tensor:
        """Return float32 [n]."""
        return self.codes.to(torch.float32) * self.scale


class Codebook(nn.Module):
    """A vector as numbers of its distinct values."""

    codes: Tensor
    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        distinct, codes = torch.unique(values, return_inverse=True)
        self.register_buffer("codes", _smallest(codes))
        self.register_buffer("values", distinct)

    def forward(self) -> Tensor:
        """Return float32 [n], the very values."""
        return self.values[self.codes.to(torch.int64)]


class SmallIntegers(nn.Module):
    """Integers in the smallest type that holds them."""

    codes: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.dtype = values.dtype
        self.register_buffer("codes", _smallest(values))

    def forward(self) -> Tensor:
        """Return the integers in their own type."""
        return self.codes.to(self.dtype)


def coded_8_bit(tensor: Tensor) -> Coded | None:
    """Return the smaller form of a tensor, or None where it stays as it is."""
    values = tensor.detach()
    if values.numel() < MIN_ELEMENTS:
        return None
    made: nn.Module | None = None
    if values.dtype in {torch.int32, torch.int64}:
        made = SmallIntegers(values)
    elif values.dtype is torch.float32 and _has_rows(values):
        made = Int8Rows(values)
    elif values.dtype is torch.float32 and values.ndim == 1:
        made = Codebook(values) if _few_distinct(values) else Int16(values)
    return None if made is None else cast("Coded", made)


def _has_rows(values: Tensor) -> bool:
    """Say whether the first axis is that of rows: a mask that is broadcast along it has one only."""
    return values.ndim == 2 or (values.ndim in {3, 4} and values.shape[0] > 1)


def _few_distinct(values: Tensor) -> bool:
    distinct = len(torch.unique(values))
    bytes_per_code = 1 if distinct <= 256 else 2
    return distinct <= 1 << 16 and distinct * 4 + len(values) * bytes_per_code < len(values) * 3


def _smallest(values: Tensor) -> Tensor:
    low, high = int(values.min()), int(values.max())
    for dtype in _INTEGERS:
        bounds = torch.iinfo(dtype)
        if bounds.min <= low and high <= bounds.max:
            return values.to(dtype)
    return values
