"""Tensors of a safetensors file as numpy arrays, mapped, not read: a gate looks at each once.

The format is eight bytes with the size of a JSON header, the header, then the tensors' bytes
(github.com/huggingface/safetensors, README).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.errors import BadRequestError

DTYPES: Mapping[str, str] = MappingProxyType(
    {
        "F64": "<f8",
        "F32": "<f4",
        "F16": "<f2",
        "I64": "<i8",
        "I32": "<i4",
        "I16": "<i2",
        "I8": "|i1",
        "U64": "<u8",
        "U32": "<u4",
        "U16": "<u2",
        "U8": "|u1",
        "BOOL": "|b1",
    }
)
MAX_HEADER_BYTES = 100_000_000


def read_tensors(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield (name, array) of every tensor, in the order of their names."""
    if not path.is_file():
        message = f"{path.name}: expected this file in the payload, found none"
        raise BadRequestError(message)
    body = np.memmap(path, dtype=np.uint8, mode="r")
    try:
        size = int(body[:8].view("<u8")[0]) if len(body) >= 8 else 0
        header = json.loads(bytes(body[8 : 8 + min(size, MAX_HEADER_BYTES)]))
        header.pop("__metadata__", None)
        for name in sorted(header):
            yield name, _tensor(body[8 + size :], header[name])
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path.name}: expected safetensors, found bytes that do not parse: {error!r}"
        raise BadRequestError(message) from error


def _tensor(body: NDArray[np.uint8], entry: Mapping[str, Any]) -> NDArray[Any]:
    first, last = entry["data_offsets"]
    return body[first:last].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])


def not_finite(path: Path) -> tuple[int, int, str]:
    """Return how many numbers are NaN or infinite, of how many, and a tensor that has one."""
    bad = total = 0
    where = ""
    for name, tensor in read_tensors(path):
        total += tensor.size
        if tensor.dtype.kind == "f":
            count = int(tensor.size - np.isfinite(tensor).sum())
            where = where or (f"(e.g. in tensor {name})" if count else "")
            bad += count
    return bad, total, where
