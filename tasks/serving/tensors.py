"""Tensors on their way in (TensorProto bytes -> TF_Tensor) and out (TF_Tensor -> plain bytes)."""

from __future__ import annotations

import ctypes
import math
from ctypes import byref, c_int64, c_void_p, string_at
from dataclasses import dataclass
from enum import IntEnum

from tasks.serving.status import Code, ServingError
from tasks.serving.tensorflow_c import Status, TensorFlowC, buffer_over

LARGE_PROTO_BYTES = 1 << 16
TSTRING_BYTES = 24  # tsl/platform/ctstring_internal.h: one TF_TString
TSTRING_KIND_MASK = 3  # 0: the text stands in the structure itself, after one size byte
_NO_DIMS = ctypes.POINTER(c_int64)()


class DataType(IntEnum):
    """tensorflow.DataType, as far as a served tensor can have it."""

    INVALID = 0
    FLOAT = 1
    DOUBLE = 2
    INT32 = 3
    UINT8 = 4
    INT16 = 5
    INT8 = 6
    STRING = 7
    COMPLEX64 = 8
    INT64 = 9
    BOOL = 10
    QINT8 = 11
    QUINT8 = 12
    QINT32 = 13
    BFLOAT16 = 14
    QINT16 = 15
    QUINT16 = 16
    UINT16 = 17
    COMPLEX128 = 18
    HALF = 19
    RESOURCE = 20
    VARIANT = 21
    UINT32 = 22
    UINT64 = 23


def data_type_name(number: int) -> str:
    """Return the name that TensorFlow's error texts use: float, int64, string, ..."""
    try:
        return DataType(number).name.lower()
    except ValueError:
        return f"unknown dtype enum ({number})"


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorValue:
    """A tensor copied out of TensorFlow: raw little-endian numbers, or the strings one by one."""

    dtype: int
    shape: tuple[int, ...]
    data: bytes = b""
    strings: tuple[bytes, ...] = ()


def feed_tensor(api: TensorFlowC, serialised: bytes) -> c_void_p | None:
    """Return a new TF_Tensor from TensorProto bytes, or None where they do not parse."""
    tensor = api.allocate_tensor(DataType.FLOAT, _NO_DIMS, 0, 4)
    source = buffer_over(serialised)
    parse = (
        api.tensor_from_proto
        if len(serialised) < LARGE_PROTO_BYTES
        else api.tensor_from_large_proto
    )
    with Status(api) as status:
        parse(byref(source), tensor, status.handle)
        if api.get_code(status.handle) == Code.OK:
            return tensor
    api.delete_tensor(tensor)
    return None


def fetched_value(api: TensorFlowC, tensor: c_void_p) -> TensorValue:
    """Copy a TF_Tensor out of TensorFlow's memory."""
    dtype = api.tensor_type(tensor)
    shape = tuple(api.dim(tensor, axis) for axis in range(api.num_dims(tensor)))
    if dtype == DataType.STRING:
        strings = _strings(api, api.tensor_data(tensor), math.prod(shape))
        return TensorValue(dtype=dtype, shape=shape, strings=strings)
    if dtype in (DataType.RESOURCE, DataType.VARIANT):
        message = f"Tensor of type {data_type_name(dtype)} cannot be written to a response"
        raise ServingError(Code.INTERNAL, message)
    size = api.tensor_byte_size(tensor)
    data = string_at(api.tensor_data(tensor), size) if size else b""
    return TensorValue(dtype=dtype, shape=shape, data=data)


def _strings(api: TensorFlowC, address: int, count: int) -> tuple[bytes, ...]:
    if count == 0:
        return ()
    block = string_at(address, count * TSTRING_BYTES)
    return tuple(
        _long_string(api, address + start)
        if block[start] & TSTRING_KIND_MASK
        else block[start + 1 : start + 1 + (block[start] >> 2)]
        for start in range(0, count * TSTRING_BYTES, TSTRING_BYTES)
    )


def _long_string(api: TensorFlowC, address: int) -> bytes:
    return string_at(api.string_data(address), api.string_size(address))
