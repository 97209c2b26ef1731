from typing import Any

import pytest

from tasks.serving.json_tensors import Layout, read_inputs
from tasks.serving.protos import TensorProto
from tasks.serving.session import Endpoint
from tasks.serving.status import ServingError
from tasks.serving.tensors import DataType


def inputs(**dtypes: Any) -> Any:
    return {
        alias: Endpoint(alias=alias, tensor_name=f"{alias}:0", dtype=dtype)
        for alias, dtype in sorted(dtypes.items())
    }


ONE = inputs(x=DataType.FLOAT)
TWO = inputs(a=DataType.FLOAT, b=DataType.INT64)


def read(body: Any, given: Any) -> Any:
    layout, tensors = read_inputs(body, given)
    return layout, {name: TensorProto.FromString(content) for name, content in tensors.items()}


def shape(tensor: Any) -> Any:
    return [dim.size for dim in tensor.tensor_shape.dim]


def test_rows_get_a_batch_dimension() -> None:
    layout, tensors = read({"instances": [[1.0, 2], [3, 4]]}, ONE)
    assert (layout, shape(tensors["x"])) == (Layout.ROW, [2, 2])
    assert list(tensors["x"].float_val) == [1, 2, 3, 4]


def test_named_rows_are_gathered_by_name() -> None:
    rows = [{"a": 1.5, "b": 2}, {"b": 4, "a": 3}]
    _, tensors = read({"instances": rows}, TWO)
    assert list(tensors["a"].float_val) == [1.5, 3]
    assert list(tensors["b"].int64_val) == [2, 4]


def test_columns_keep_the_shape_they_have() -> None:
    layout, tensors = read({"inputs": {"a": [[1.0]], "b": 7, "zzz": "ignored"}}, TWO)
    assert layout is Layout.COLUMNAR
    assert (shape(tensors["a"]), shape(tensors["b"])) == ([1, 1], [])


def test_bytes_come_as_base64_or_as_text() -> None:
    _, tensors = read({"instances": [{"b64": "AP+A"}, "hi"]}, inputs(x=DataType.STRING))
    assert list(tensors["x"].string_val) == [b"\x00\xff\x80", b"hi"]


def test_a_float_too_big_for_its_type_is_infinite() -> None:
    _, tensors = read({"instances": [1e300, -1e300]}, ONE)
    assert list(tensors["x"].float_val) == [float("inf"), float("-inf")]


FIRST = "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "


@pytest.mark.parametrize(
    ("body", "given", "error"),
    (
        ({"foo": 1}, ONE, "Missing 'inputs' or 'instances' key"),
        (
            {"instances": [], "inputs": []},
            ONE,
            (
                'JSON Value: {\n    "instances": [],\n    "inputs": []\n} Not formatted correctly '
                "expecting only one of 'inputs' or 'instances' keys to exist "
            ),
        ),
        (
            {"instances": 1},
            ONE,
            "JSON Value: {\n    \"instances\": 1\n} Expecting 'instances' to be an list/array",
        ),
        (
            {"instances": [True]},
            ONE,
            FIRST + "JSON Value: true Type: True is not of expected type: float",
        ),
        (
            {"instances": [1.0]},
            inputs(x=DataType.INT32),
            FIRST + "JSON Value: 1.0 Type: Number is not of expected type: int32",
        ),
        (
            {"instances": [2**31]},
            inputs(x=DataType.INT8),
            FIRST + "JSON Value: 2147483648 Type: Number is not of expected type: int8",
        ),
        (
            {"instances": [1.0]},
            inputs(x=DataType.HALF),
            (
                "Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED: Conversion "
                "of JSON Value: 1.0 to type: half"
            ),
        ),
        (
            {"instances": [[1, 2], [3, 4], [5, 6, 7]]},
            ONE,
            (
                "Failed to process element: 2 of 'instances' list. Error: INVALID_ARGUMENT: Expecting "
                "tensor size: 2 but got: 3"
            ),
        ),
        (
            {"instances": [[1, 2], [[3, 4]]]},
            ONE,
            (
                "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting "
                "shape [2] but got: [1,2]"
            ),
        ),
        (
            {"instances": [{"x": 1.0}, 2.0]},
            ONE,
            "Expecting object but got list at item 1 of input list",
        ),
        (
            {"instances": [2.0, {"x": 1.0}]},
            ONE,
            "Expecting value/list but got object at item 1 of input list",
        ),
        (
            {"instances": [{"z": 1.0}]},
            ONE,
            (
                "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: "
                "JSON object: does not have named input: z"
            ),
        ),
        (
            {"instances": [{"a": 1.0}]},
            TWO,
            (
                "Failed to process element: 0 of 'instances' list. JSON object: {\n    \"a\": 1.0\n} "
                "keys must be equal to: a,b"
            ),
        ),
        (
            {"instances": [1.0]},
            TWO,
            (
                "instances is a plain list, but expecting list of objects as multiple input tensors "
                "required as per tensorinfo_map"
            ),
        ),
        (
            {"inputs": {"a": [1.0]}},
            TWO,
            "Missing named input: b in 'inputs' object.",
        ),
        (
            {"inputs": [[1, 2], [3]]},
            ONE,
            "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
        ),
        (
            {"inputs": [1, [2]]},
            ONE,
            "Encountered list at unexpected level: 1 expected < 1",
        ),
        (
            {"inputs": [[1], 2]},
            ONE,
            "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        (
            {"inputs": {"b64": "aGVsbG8="}},
            ONE,
            'JSON Value: {\n    "b64": "aGVsbG8="\n} Type: Object is not of expected type: float',
        ),
        (
            {"instances": [{"b64": "!"}]},
            inputs(x=DataType.STRING),
            FIRST + "Unable to base64 decode",
        ),
    ),
)
def test_the_first_mistake_is_named(body: Any, given: Any, error: Any) -> None:
    with pytest.raises(ServingError) as refused:
        read_inputs(body, given)
    assert refused.value.message == error
