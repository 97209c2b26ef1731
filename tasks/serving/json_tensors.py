"""Predict bodies: `instances` (rows) or `inputs` (columns) -> TensorProto bytes by alias.

Well-formed input is flattened level by level; anything else is walked element by element in the
order of util/json_tensor.cc, which finds the first error and its text.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from types import MappingProxyType
from typing import Any

from tasks.serving.json_write import debug_text
from tasks.serving.protos import TensorProto
from tasks.serving.session import Endpoint
from tasks.serving.status import Code, ServingError, invalid_argument
from tasks.serving.tensors import DataType, data_type_name

MAX_RANK = 254  # TensorShape::MaxDimensions


class Layout(Enum):
    """How the body holds its tensors, and how the answer will."""

    ROW = "instances"
    COLUMNAR = "inputs"


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """How values of a dtype stand in JSON and in TensorProto; limits are inclusive."""

    field: str
    types: frozenset[type]
    low: int | None = None
    high: int | None = None

    def accepts_all(self, values: Sequence[Any]) -> bool:
        if not set(map(type, values)) <= self.types:
            return False
        if self.low is None or self.high is None or not values:
            return True
        return self.low <= min(values) and max(values) <= self.high


def _integers(field: str, low: int, high: int) -> _Kind:
    return _Kind(field=field, types=frozenset({int}), low=low, high=high)


_INT32 = _integers("int_val", -(1 << 31), (1 << 31) - 1)
_KINDS: Mapping[int, _Kind] = MappingProxyType(
    {
        DataType.FLOAT: _Kind(field="float_val", types=frozenset({int, float})),
        DataType.DOUBLE: _Kind(field="double_val", types=frozenset({int, float})),
        DataType.INT32: _INT32,
        DataType.INT16: _INT32,
        DataType.INT8: _INT32,
        DataType.UINT8: _INT32,
        DataType.INT64: _integers("int64_val", -(1 << 63), (1 << 63) - 1),
        DataType.UINT32: _integers("uint32_val", 0, (1 << 32) - 1),
        DataType.UINT64: _integers("uint64_val", 0, (1 << 64) - 1),
        DataType.BOOL: _Kind(field="bool_val", types=frozenset({bool})),
        DataType.STRING: _Kind(field="string_val", types=frozenset({str, dict})),
    }
)


def signature_name(body: Any) -> str:
    """Return the signature that a parsed body asks for; empty: the default one."""
    if not isinstance(body, dict):
        raise _format_error(body, "Is not object")
    name = body.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(
            f"JSON Value: {debug_text(body)} not formatted correctly. 'signature_name' key must "
            "be a string value."
        )
    return name


def read_inputs(body: Any, inputs: Mapping[str, Endpoint]) -> tuple[Layout, dict[str, bytes]]:
    """Return the layout of a parsed body and its tensors by alias."""
    if "instances" in body and "inputs" in body:
        raise _format_error(
            body,
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        )
    if "instances" in body:
        rows = body["instances"]
        if not isinstance(rows, list):
            raise _format_error(body, "Expecting 'instances' to be an list/array")
        if not rows:
            raise _format_error(body, "No values in 'instances' array")
        return Layout.ROW, _from_rows(rows, inputs)
    if "inputs" in body:
        return Layout.COLUMNAR, _from_columns(body["inputs"], inputs)
    message = "Missing 'inputs' or 'instances' key"
    raise invalid_argument(message)


def _format_error(value: Any, text: str) -> ServingError:
    return invalid_argument(f"JSON Value: {debug_text(value)} {text}")


def is_base64(value: Any) -> bool:
    """Say whether a JSON value is `{"b64": "..."}`: bytes in disguise."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def decode_base64(value: Any) -> bytes:
    """Return the bytes of `{"b64": "..."}`."""
    if not is_base64(value):
        raise _format_error(value, "not formatted correctly for base64 data")
    text = "".join(value["b64"].split()).rstrip("=.")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        message = "Unable to base64 decode"
        raise invalid_argument(message) from error


# Rows


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _from_rows(rows: list[Any], inputs: Mapping[str, Endpoint]) -> dict[str, bytes]:
    if not isinstance(rows[0], dict) and len(inputs) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    columns = _named_columns(rows, inputs) if _is_object(rows[0]) else _one_column(rows, inputs)
    proto = {
        alias: _tensor(column, inputs[alias].dtype) if column is not None else None
        for alias, column in columns.items()
    }
    if any(tensor is None for tensor in proto.values()):
        raise _first_row_error(rows, inputs)
    return {alias: tensor for alias, tensor in proto.items() if tensor is not None}


def _one_column(rows: list[Any], inputs: Mapping[str, Endpoint]) -> dict[str, list[Any] | None]:
    alias = next(iter(inputs))
    return {alias: None if any(map(_is_object, rows)) else rows}


def _named_columns(rows: list[Any], inputs: Mapping[str, Endpoint]) -> dict[str, list[Any] | None]:
    if any(type(row) is not dict or row.keys() != inputs.keys() for row in rows):
        return dict.fromkeys(inputs)
    return {alias: [row[alias] for row in rows] for alias in inputs}


def _first_row_error(rows: list[Any], inputs: Mapping[str, Endpoint]) -> ServingError:
    shapes: dict[str, tuple[int, list[int]]] = {}
    named = _is_object(rows[0])
    for number, row in enumerate(rows):
        if named != _is_object(row):
            expected, got = ("object", "list") if named else ("value/list", "object")
            return invalid_argument(
                f"Expecting {expected} but got {got} at item {number} of input list"
            )
        cells = row if named else {next(iter(inputs)): row}
        for alias, cell in cells.items():
            try:
                _check_cell(alias, cell, inputs, shapes)
            except ServingError as error:
                key = f" key: {alias}" if named else ""
                return invalid_argument(
                    f"Failed to process element: {number}{key} of 'instances' list. Error: {error}"
                )
        if named and row.keys() != inputs.keys():
            return invalid_argument(
                f"Failed to process element: {number} of 'instances' list. JSON object: "
                f"{debug_text(row)} keys must be equal to: {','.join(sorted(inputs))}"
            )
    return invalid_argument("Failed to process 'instances' list")


def _check_cell(
    alias: str,
    cell: Any,
    inputs: Mapping[str, Endpoint],
    shapes: dict[str, tuple[int, list[int]]],
) -> None:
    if alias not in inputs:
        raise invalid_argument(f"JSON object: does not have named input: {alias}")
    shape = _first_shape(cell)
    size = _walk(cell, shape, inputs[alias].dtype)
    expected_size, expected_shape = shapes.setdefault(alias, (size, shape))
    if size != expected_size:
        raise invalid_argument(f"Expecting tensor size: {expected_size} but got: {size}")
    if shape != expected_shape:
        raise invalid_argument(
            f"Expecting shape {_shape_text(expected_shape)} but got: {_shape_text(shape)}"
        )


def _shape_text(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


# Columns


def _from_columns(value: Any, inputs: Mapping[str, Endpoint]) -> dict[str, bytes]:
    if _is_object(value):
        for alias in inputs:
            if alias not in value:
                raise invalid_argument(f"Missing named input: {alias} in 'inputs' object.")
        return {alias: _column(value[alias], inputs[alias].dtype) for alias in inputs}
    if len(inputs) > 1:
        raise invalid_argument(
            "inputs is a plain value/list, but expecting an object as multiple input tensors "
            "required as per tensorinfo_map"
        )
    alias = next(iter(inputs))
    return {alias: _column(value, inputs[alias].dtype)}


def _column(value: Any, dtype: int) -> bytes:
    tensor = _tensor(value, dtype)
    if tensor is None:
        _walk(value, _first_shape(value), dtype)
        message = f"JSON Value: {debug_text(value)} is not a tensor"
        raise invalid_argument(message)
    return tensor


# One tensor


def _first_shape(value: Any) -> list[int]:
    """Return the sizes along the first element of each level."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _tensor(value: Any, dtype: int) -> bytes | None:
    """Return TensorProto bytes, or None where something is wrong with the value."""
    kind = _KINDS.get(dtype)
    shape = _first_shape(value)
    leaves = _leaves(value, shape)
    if kind is None or leaves is None or len(shape) > MAX_RANK or not kind.accepts_all(leaves):
        return None
    if dtype == DataType.STRING:
        try:
            leaves = [_string_bytes(leaf) for leaf in leaves]
        except ServingError:
            return None
    tensor = TensorProto(dtype=dtype, **{kind.field: leaves})
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return bytes(tensor.SerializeToString())


def _string_bytes(leaf: Any) -> bytes:
    return leaf.encode("utf-8", "surrogateescape") if isinstance(leaf, str) else decode_base64(leaf)


def _leaves(value: Any, shape: Sequence[int]) -> list[Any] | None:
    """Return the elements row by row, or None where the value is ragged."""
    level = [value]
    for size in shape:
        if any(type(item) is not list or len(item) != size for item in level):
            return None
        level = list(chain.from_iterable(level))
    return None if list in set(map(type, level)) else level


def _walk(value: Any, shape: Sequence[int], dtype: int) -> int:
    """Return the number of elements, or raise the first error, depth first."""
    count = 0
    stack = [(value, 0)]
    check = _leaf_check(dtype)
    while stack:
        item, level = stack.pop()
        if not isinstance(item, list):
            _check_level(item, level, len(shape))
            check(item)
            count += 1
            continue
        if level >= len(shape):
            raise invalid_argument(
                f"Encountered list at unexpected level: {level} expected < {len(shape)}"
            )
        if len(item) != shape[level]:
            raise invalid_argument(
                f"Encountered list at unexpected size: {len(item)} at level: {level} "
                f"expected size: {shape[level]}"
            )
        stack.extend((element, level + 1) for element in reversed(item))
    return count


def _check_level(item: Any, level: int, rank: int) -> None:
    if level != rank:
        raise invalid_argument(
            f"JSON Value: {debug_text(item)} found at incorrect level: {level + 1} in the JSON "
            f"DOM. Expected at level: {rank}"
        )


def _leaf_check(dtype: int) -> Callable[[Any], None]:
    kind = _KINDS.get(dtype)

    def check(leaf: Any) -> None:
        if isinstance(leaf, dict):
            if dtype != DataType.STRING:
                raise _type_error(leaf, dtype)
            decode_base64(leaf)
        elif kind is None:
            message = f"Conversion of JSON Value: {debug_text(leaf)} to type: "
            raise ServingError(Code.UNIMPLEMENTED, message + data_type_name(dtype))
        elif not kind.accepts_all([leaf]):
            raise _type_error(leaf, dtype)

    return check


def _type_error(leaf: Any, dtype: int) -> ServingError:
    return invalid_argument(
        f"JSON Value: {debug_text(leaf)} Type: {json_type(leaf)} is not of expected type: "
        f"{data_type_name(dtype)}"
    )


def json_type(value: Any) -> str:
    """Return rapidjson's name of a value's type."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, dict):
        return "Object"
    if isinstance(value, list):
        return "Array"
    return "String" if isinstance(value, str) else "Number"
