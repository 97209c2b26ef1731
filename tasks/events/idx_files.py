"""The IDX format of MNIST-like sets: a magic number, the sizes of the axes, unsigned bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.errors import BadRequestError

_UNSIGNED_BYTES = 0x08


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """Return the array of an IDX file of unsigned bytes with `axes` axes, gzipped or not."""
    content = _content(path)
    head = 4 + 4 * axes
    if len(content) < head or content[:4] != bytes((0, 0, _UNSIGNED_BYTES, axes)):
        message = (
            f"{path.name}: expected an IDX file of unsigned bytes with {axes} axes (magic "
            f"0000{_UNSIGNED_BYTES:02x}{axes:02x}), found {content[:4].hex() or 'nothing'}; "
            "next step: name the set's own files, images before labels"
        )
        raise BadRequestError(message)
    shape = struct.unpack(f">{axes}I", content[4:head])
    if len(content) - head != math.prod(shape):
        message = (
            f"{path.name}: expected {math.prod(shape)} bytes after its head for the sizes {shape}, "
            f"found {len(content) - head}; next step: fetch the file again"
        )
        raise BadRequestError(message)
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def _content(path: Path) -> bytes:
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        message = (
            f"{path.name}: expected a whole gzip file, found: {error}; next step: fetch it again"
        )
        raise BadRequestError(message) from error
