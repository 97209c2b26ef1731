import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.serving import json_write
from tasks.serving.json_write import columnar_body, debug_text, decimals, error_body, row_body
from tasks.serving.status import ServingError
from tasks.serving.tensors import DataType, TensorValue


def floats(*values: Any, shape: Any = None) -> Any:
    data = np.array(values, "<f4").tobytes()
    return TensorValue(
        dtype=DataType.FLOAT, shape=(len(values),) if shape is None else shape, data=data
    )


def strings(*values: Any) -> Any:
    return TensorValue(dtype=DataType.STRING, shape=(len(values),), strings=values)


@pytest.mark.parametrize(
    ("number", "text"),
    (
        (9000000, "9e+06"),
        (999999, "999999.0"),
        (0.5, "0.5"),
        (0.0003, "0.0003"),
        (0.00003, "3e-05"),
        (555557.5, "555557.5"),
        (0.2, "0.2"),
        (1234567, "1234567.0"),
        (0.33333334326, "0.333333343"),
        (3, "3.0"),
        (1435774336, "1.43577434e+09"),
        (-0.0, "-0.0"),
        (3.4028234663852886e38, "3.40282347e+38"),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
    ),
)
def test_a_float_has_six_digits_or_as_many_as_it_needs(number: Any, text: Any) -> None:
    assert decimals(floats(number)) == [text]


@given(st.lists(st.floats(width=32)))
def test_every_float_reads_back_as_itself(numbers: Any) -> None:
    texts = decimals(floats(*numbers))
    back = [struct.unpack("<f", struct.pack("<f", float(text)))[0] for text in texts]
    np.testing.assert_array_equal(np.array(back, "f4"), np.array(numbers, "f4"))


def test_rows_of_one_output_stand_on_one_line() -> None:
    assert row_body({"y": floats(2.5, 3.0, 4.5)}) == (
        b'{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}'
    )


def test_rows_of_several_outputs_are_objects() -> None:
    outputs = {"sum": floats(3.5), "tag_bytes": strings(b"2")}
    assert row_body(outputs) == (
        b'{\n    "predictions": [\n        {\n            "sum": 3.5,\n            "tag_bytes": {\n'
        b'                "b64": "Mg=="\n            }\n        }\n    ]\n}'
    )


def test_columns_keep_their_shape() -> None:
    assert columnar_body({"y": floats(1, 2, shape=(2, 1))}) == (
        b'{\n    "outputs": [\n        [\n            1.0\n        ],\n        [\n            2.0\n'
        b"        ]\n    ]\n}"
    )


def test_an_empty_batch_is_an_empty_list() -> None:
    assert row_body({"y": floats()}) == b'{\n    "predictions": []\n}'


def test_strings_are_escaped_as_little_as_possible_and_may_be_no_utf8() -> None:
    body = row_body({"y": strings(b'a"\\\n\x01/', "\u00e9".encode(), b"\xff")})
    assert b'["a\\"\\\\\\n\\u0001/", "\xc3\xa9", "\xff"\n' in body


@pytest.mark.parametrize(
    ("outputs", "error"),
    (
        ({"y": floats(1, shape=())}, "Tensor name: y has no shape information "),
        (
            {"y": floats(1, 2), "z": floats(1)},
            "Tensor name: z has inconsistent batch size: 1 expecting: 2",
        ),
        (
            {"y": TensorValue(dtype=DataType.HALF, shape=(1,), data=b"\0<")},
            "Failed to write JSON value for tensor type: half",
        ),
    ),
)
def test_outputs_that_are_no_rows_are_refused(outputs: Any, error: Any) -> None:
    with pytest.raises(ServingError, match=error):
        row_body(outputs)


@pytest.mark.parametrize(
    ("value", "text"),
    (
        ({"foo": 1}, '{\n    "foo": 1\n}'),
        ([1, 2.0, None, True, "a"], '[1, 2.0, null, true, "a"]'),
        ({"a": {"b": []}}, '{\n    "a": {\n        "b": []\n    }\n}'),
        (1e300, "1e300"),
        (1.5e-7, "1.5e-7"),
        (123456789.0, "123456789.0"),
        (0.00001, "0.00001"),
    ),
)
def test_a_value_in_an_error_text_looks_as_rapidjson_prints_it(value: Any, text: Any) -> None:
    assert debug_text(value) == text


def test_a_long_value_in_an_error_text_is_cut() -> None:
    assert len(debug_text(list(range(100_000)))) <= json_write.DEBUG_BYTES + 8


def test_an_error_body_is_json_with_the_message() -> None:
    assert error_body('no "x"') == b'{\n    "error": "no \\"x\\""\n}'
