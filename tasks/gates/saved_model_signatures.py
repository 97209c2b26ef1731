"""Signatures read from the bytes of `saved_model.pb`, without TensorFlow.

The gate must not believe what the bundler says of its own work, and its image has no TensorFlow:
a reader of protobuf's wire format and five field numbers of tensorflow/core/protobuf suffice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tasks.contracts.errors import BadRequestError

# tensorflow/core/protobuf/saved_model.proto and meta_graph.proto
_META_GRAPHS, _SIGNATURE_DEF = 2, 5
_MAP_KEY, _MAP_VALUE = 1, 2
_INPUTS, _OUTPUTS, _METHOD, _DEFAULTS = 1, 2, 3, 4
_DTYPE, _SHAPE = 2, 3
_DIM, _DIM_SIZE, _UNKNOWN_RANK = 2, 1, 3
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5

DTYPES: Mapping[int, str] = MappingProxyType(  # tensorflow/core/framework/types.proto
    {
        1: "float32",
        2: "float64",
        3: "int32",
        4: "uint8",
        6: "int8",
        7: "string",
        9: "int64",
        10: "bool",
    }
)


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """Type and shape; -1 is a dimension of any size, shape None a tensor of any rank."""

    dtype: str
    shape: tuple[int, ...] | None

    def __str__(self) -> str:
        """Return `string[?, ?]`."""
        if self.shape is None:
            return f"{self.dtype}[..]"
        return f"{self.dtype}[{', '.join('?' if size < 0 else str(size) for size in self.shape)}]"


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Named inputs and outputs of one entry of a SavedModel; optional inputs have a default."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    optional: frozenset[str] = frozenset()


def read_signatures(path: Path) -> dict[str, Signature]:
    """Return the signatures of a `saved_model.pb` by name, without TensorFlow's own init entry."""
    found: dict[str, Signature] = {}
    try:
        for meta_graph in _messages(path.read_bytes(), _META_GRAPHS):
            for entry in _messages(meta_graph, _SIGNATURE_DEF):
                name = _text(entry, _MAP_KEY)
                if not name.startswith("__saved_model_"):
                    found[name] = _signature(_only(entry, _MAP_VALUE))
    except (IndexError, UnicodeDecodeError) as error:
        message = f"{path.name}: expected a SavedModel, found bytes that do not parse: {error}"
        raise BadRequestError(message) from error
    return found


def _signature(body: bytes) -> Signature:
    return Signature(
        inputs=_tensors(body, _INPUTS),
        outputs=_tensors(body, _OUTPUTS),
        optional=frozenset(_text(entry, _MAP_KEY) for entry in _messages(body, _DEFAULTS)),
    )


def _tensors(body: bytes, field: int) -> dict[str, Tensor]:
    return {
        _text(entry, _MAP_KEY): _tensor(_only(entry, _MAP_VALUE))
        for entry in _messages(body, field)
    }


def _tensor(body: bytes) -> Tensor:
    fields = dict(_fields(body))
    number = fields.get(_DTYPE, 0)
    shape = fields.get(_SHAPE, b"")
    dims = [dict(_fields(dim)).get(_DIM_SIZE, 0) for dim in _messages(_as_bytes(shape), _DIM)]
    any_rank = bool(dict(_fields(_as_bytes(shape))).get(_UNKNOWN_RANK, 0))
    return Tensor(
        dtype=DTYPES.get(number if isinstance(number, int) else 0, f"type {number!r}"),
        shape=None if any_rank else tuple(_signed(dim) for dim in dims),
    )


def _signed(value: int | bytes) -> int:
    if isinstance(value, bytes):
        message = "a dimension with a name only"
        raise IndexError(message)
    return value - 2**64 if value >= 2**63 else value


def _as_bytes(value: int | bytes) -> bytes:
    return value if isinstance(value, bytes) else b""


def _messages(body: bytes, field: int) -> Iterator[bytes]:
    for number, value in _fields(body):
        if number == field and isinstance(value, bytes):
            yield value


def _only(body: bytes, field: int) -> bytes:
    return next(_messages(body, field), b"")


def _text(body: bytes, field: int) -> str:
    return _only(body, field).decode()


def _fields(body: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) of one message."""
    place = 0
    while place < len(body):
        tag, place = _varint(body, place)
        kind, number = tag & 7, tag >> 3
        if kind == _VARINT:
            value, place = _varint(body, place)
            yield number, value
            continue
        sizes = {_FIXED_64: 8, _FIXED_32: 4}
        if kind == _BYTES:
            size, place = _varint(body, place)
        elif kind in sizes:
            size = sizes[kind]
        else:
            message = f"wire type {kind} at byte {place}"
            raise IndexError(message)
        if place + size > len(body):
            message = f"{size} bytes at {place} of {len(body)}"
            raise IndexError(message)
        yield number, body[place : place + size]
        place += size


def _varint(body: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
