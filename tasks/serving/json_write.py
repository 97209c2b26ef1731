"""JSON answers with the number format and the layout of TensorFlow Serving's rapidjson writer."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

import numpy as np

from tasks.serving.status import invalid_argument
from tasks.serving.tensor_wire import unpacked
from tasks.serving.tensors import DataType, TensorValue, data_type_name

INDENT = "    "
DEBUG_BYTES = 256
_ESCAPED = re.compile(r'[\x00-\x1f"\\]')
_SHORT_ESCAPES = {
    '"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t",
}  # fmt: skip
_INTEGERS = {
    DataType.INT32: "i",
    DataType.INT16: "h",
    DataType.INT8: "b",
    DataType.UINT8: "B",
    DataType.INT64: "q",
    DataType.UINT32: "I",
    DataType.UINT64: "Q",
}
_FLOATS: Mapping[int, np.dtype[Any]] = {
    DataType.FLOAT: np.dtype("<f4"),
    DataType.DOUBLE: np.dtype("<f8"),
}
_FULL_DIGITS = {DataType.FLOAT: "%.9g", DataType.DOUBLE: "%.17g"}


def quoted(text: str) -> str:
    """Return a JSON string; only quotes, backslashes and control characters are escaped."""
    if _ESCAPED.search(text) is None:
        return f'"{text}"'
    return '"' + _ESCAPED.sub(_escape, text) + '"'


def _escape(found: re.Match[str]) -> str:
    return _SHORT_ESCAPES.get(found[0]) or f"\\u{ord(found[0]):04X}"


def error_body(message: str) -> bytes:
    """Return `{"error": message}`."""
    return _encoded(f'{{\n{INDENT}"error": {quoted(message)}\n}}')


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# Numbers


def decimals(value: TensorValue) -> list[str]:
    """Return floats with 6 digits where those read back equal, else with 9 (float) or 17."""
    dtype = DataType(value.dtype)
    exact = np.frombuffer(value.data, dtype=_FLOATS[dtype])
    numbers = exact.tolist()
    texts = [f"{number:.6g}" for number in numbers]
    with np.errstate(over="ignore"):  # the rounded text of the greatest float32 overflows
        read_back = np.array([float(text) for text in texts]).astype(exact.dtype)
    for index in np.flatnonzero(read_back != exact).tolist():
        texts[index] = _full_decimal(numbers[index], _FULL_DIGITS[dtype])
    return [_with_point(text) for text in texts]


def _full_decimal(number: float, digits: str) -> str:
    return "NaN" if math.isnan(number) else digits % number


def _with_point(text: str) -> str:
    if "." in text or "e" in text or text == "NaN":
        return text
    if text in ("inf", "-inf"):
        return text.replace("inf", "Infinity")
    return text + ".0"


def _texts(value: TensorValue, *, strings_as_bytes: bool, depth: int) -> list[str]:
    """Return the JSON text of every element, row by row."""
    if value.dtype in _FLOATS:
        return decimals(value)
    if value.dtype == DataType.STRING:
        if strings_as_bytes:
            return [_b64_object(text, depth) for text in value.strings]
        return [quoted(text.decode("utf-8", "surrogateescape")) for text in value.strings]
    if value.dtype == DataType.BOOL:
        return ["true" if byte else "false" for byte in value.data]
    if value.dtype not in _INTEGERS:
        name = data_type_name(value.dtype)
        raise invalid_argument(f"Failed to write JSON value for tensor type: {name}")
    return [str(number) for number in unpacked(value, _INTEGERS[DataType(value.dtype)])]


def _b64_object(content: bytes, depth: int) -> str:
    text = base64.b64encode(content).decode()
    return f'{{\n{INDENT * (depth + 1)}"b64": "{text}"\n{INDENT * depth}}}'


def _nested(texts: Sequence[str], shape: Sequence[int], depth: int, *, single_line: bool) -> str:
    """Return nested arrays; `depth` counts the containers around them."""
    if not shape:
        return texts[0]
    step = len(texts) // shape[0] if shape[0] else 0
    items = [
        _nested(
            texts[start * step : (start + 1) * step], shape[1:], depth + 1, single_line=single_line
        )
        for start in range(shape[0])
    ]
    if not items:
        return "[]"
    if single_line:
        return f"[{', '.join(items)}]"
    inner, outer = "\n" + INDENT * (depth + 1), "\n" + INDENT * depth
    return f"[{inner}{(',' + inner).join(items)}{outer}]"


def _tensor(
    value: TensorValue, alias: str, shape: Sequence[int], depth: int, *, single_line: bool
) -> str:
    as_bytes = alias.endswith("_bytes")
    texts = _texts(value, strings_as_bytes=as_bytes, depth=depth + len(shape))
    return _nested(texts, shape, depth, single_line=single_line)


# Answers


def row_body(outputs: Mapping[str, TensorValue]) -> bytes:
    """Return `{"predictions": [...]}`: one entry per row of the batch."""
    batch = _batch_size(outputs)
    if len(outputs) == 1:
        ((alias, value),) = outputs.items()
        rows = _rows(value, alias, batch, depth=2)
        inside = ", ".join(rows) + (f"\n{INDENT}" if rows else "")
    else:
        columns = {alias: _rows(value, alias, batch, depth=3) for alias, value in outputs.items()}
        objects = [
            _object({alias: column[row] for alias, column in columns.items()}, depth=2)
            for row in range(batch)
        ]
        indent = f"\n{INDENT * 2}"
        inside = indent + f",{indent}".join(objects) + f"\n{INDENT}" if objects else ""
    return _encoded(f'{{\n{INDENT}"predictions": [{inside}]\n}}')


def _rows(value: TensorValue, alias: str, batch: int, depth: int) -> list[str]:
    shape = value.shape[1:]
    as_bytes = alias.endswith("_bytes")
    texts = _texts(value, strings_as_bytes=as_bytes, depth=depth + len(shape))
    step = len(texts) // batch if batch else 0
    return [
        _nested(texts[row * step : (row + 1) * step], shape, depth, single_line=True)
        for row in range(batch)
    ]


def _batch_size(outputs: Mapping[str, TensorValue]) -> int:
    batch = -1
    for alias, value in outputs.items():
        if not value.shape:
            raise invalid_argument(f"Tensor name: {alias} has no shape information ")
        if batch not in (-1, value.shape[0]):
            raise invalid_argument(
                f"Tensor name: {alias} has inconsistent batch size: {value.shape[0]} "
                f"expecting: {batch}"
            )
        batch = value.shape[0]
    return batch


def columnar_body(outputs: Mapping[str, TensorValue]) -> bytes:
    """Return `{"outputs": ...}`: the tensors as they are."""
    if len(outputs) == 1:
        ((alias, value),) = outputs.items()
        inside = _tensor(value, alias, value.shape, 1, single_line=False)
    else:
        texts = {
            alias: _tensor(value, alias, value.shape, 2, single_line=False)
            for alias, value in outputs.items()
        }
        inside = _object(texts, depth=1)
    return _encoded(f'{{\n{INDENT}"outputs": {inside}\n}}')


def _object(texts: Mapping[str, str], depth: int) -> str:
    if not texts:
        return "{}"
    inner, outer = f"\n{INDENT * (depth + 1)}", f"\n{INDENT * depth}"
    members = [f"{quoted(alias)}: {text}" for alias, text in texts.items()]
    return f"{{{inner}{(',' + inner).join(members)}{outer}}}"


def classification_body(result: Any) -> bytes:
    """Return `{"results": [[[label, score], ...], ...]}`."""
    rows = []
    for classifications in result.classifications:
        scores = _float_texts([one.score for one in classifications.classes])
        pairs = [
            f"[{quoted(one.label)}, {score}]"
            for one, score in zip(classifications.classes, scores, strict=True)
        ]
        rows.append(f"[{', '.join(pairs)}]")
    return _encoded(f'{{\n{INDENT}"results": [{", ".join(rows)}\n{INDENT}]\n}}')


def regression_body(result: Any) -> bytes:
    """Return `{"results": [value, ...]}`."""
    values = _float_texts([one.value for one in result.regressions])
    return _encoded(f'{{\n{INDENT}"results": [{", ".join(values)}]\n}}')


def _float_texts(numbers: Sequence[float]) -> list[str]:
    data = np.array(numbers, dtype="<f4").tobytes()
    return decimals(TensorValue(dtype=DataType.FLOAT, shape=(len(numbers),), data=data))


# Values quoted in error texts


class _LimitReached(Exception):  # noqa: N818  it ends the writing, it is no error
    pass


class _DebugWriter:
    """rapidjson's pretty writer, cut where it has written 256 bytes."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._size = 0

    def _event(self, prefix: str, text: str) -> None:
        if self._size >= DEBUG_BYTES:
            raise _LimitReached
        for part in (prefix, text):
            self.parts.append(part)
            self._size += len(part.encode("utf-8", "surrogateescape"))

    def write(self, value: Any, depth: int, prefix: str) -> None:
        if isinstance(value, dict):
            self._event(prefix, "{")
            for index, (name, member) in enumerate(value.items()):
                separator = ",\n" if index else "\n"
                self._event(separator + INDENT * (depth + 1), quoted(name))
                self.write(member, depth + 1, ": ")
            self._event("\n" + INDENT * depth if value else "", "}")
        elif isinstance(value, list):
            self._event(prefix, "[")
            for index, element in enumerate(value):
                self.write(element, depth + 1, ", " if index else "")
            self._event("", "]")
        else:
            self._event(prefix, _scalar(value))


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 64:
        return str(value)
    if not math.isfinite(value):
        raise _LimitReached  # the writer has no NaN flag here: it stops
    return _shortest(float(value))


def _shortest(number: float) -> str:
    """Return the shortest text that reads back equal, laid out by rapidjson's Prettify."""
    sign, digit_tuple, exponent = Decimal(repr(number)).normalize().as_tuple()
    digits, exponent = "".join(map(str, digit_tuple)), int(exponent)
    minus, point = "-" if sign else "", len(digits) + exponent
    if exponent >= 0 and point <= 21:
        return f"{minus}{digits}{'0' * exponent}.0"
    if 0 < point <= 21:
        return f"{minus}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{minus}0.{'0' * -point}{digits}"
    mantissa = digits if len(digits) == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{minus}{mantissa}e{point - 1}"


def debug_text(value: Any) -> str:
    """Return a JSON value for an error text, cut at 256 bytes."""
    writer = _DebugWriter()
    with suppress(_LimitReached):
        writer.write(value, 0, "")
    return "".join(writer.parts)
