import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.serving import protos
from tasks.serving.tensor_wire import (
    as_content,
    as_typed_fields,
    model_spec_bytes,
    predict_response_bytes,
    varint,
)
from tasks.serving.tensors import DataType, TensorValue

NUMBERS = (
    (DataType.FLOAT, "f", "float_val", [1.5, -2.0]),
    (DataType.DOUBLE, "d", "double_val", [1.5, -2.0]),
    (DataType.INT32, "i", "int_val", [1, -2]),
    (DataType.INT16, "h", "int_val", [1, -2]),
    (DataType.INT8, "b", "int_val", [1, -2]),
    (DataType.UINT8, "B", "int_val", [1, 255]),
    (DataType.INT64, "q", "int64_val", [2**62, -1]),
    (DataType.UINT32, "I", "uint32_val", [1, 2**32 - 1]),
    (DataType.UINT64, "Q", "uint64_val", [1, 2**64 - 1]),
    (DataType.BOOL, "?", "bool_val", [True, False]),
    (DataType.HALF, "H", "half_val", [15360, 0]),
)


@pytest.mark.parametrize(("dtype", "code", "field", "values"), NUMBERS)
def test_numbers_stand_in_their_typed_field(dtype: Any, code: Any, field: Any, values: Any) -> None:
    data = struct.pack(f"<{len(values)}{code}", *values)
    value = TensorValue(dtype=dtype, shape=(2,), data=data)
    tensor = protos.TensorProto.FromString(as_typed_fields(value))
    assert (tensor.dtype, [dim.size for dim in tensor.tensor_shape.dim]) == (dtype, [2])
    assert list(getattr(tensor, field)) == values
    assert protos.TensorProto.FromString(as_content(value)).tensor_content == data


@given(st.lists(st.binary(max_size=300)))
def test_strings_stand_one_by_one(texts: Any) -> None:
    value = TensorValue(dtype=DataType.STRING, shape=(len(texts),), strings=tuple(texts))
    assert list(protos.TensorProto.FromString(as_typed_fields(value)).string_val) == texts


def test_a_scalar_has_no_dimension_and_an_empty_tensor_no_values() -> None:
    scalar = TensorValue(dtype=DataType.FLOAT, shape=(), data=np.float32(3).tobytes())
    found = protos.TensorProto.FromString(as_typed_fields(scalar))
    assert (len(found.tensor_shape.dim), list(found.float_val)) == (0, [3.0])
    empty = TensorValue(dtype=DataType.FLOAT, shape=(0, 3))
    found = protos.TensorProto.FromString(as_typed_fields(empty))
    assert ([dim.size for dim in found.tensor_shape.dim], list(found.float_val)) == ([0, 3], [])


@given(st.integers(0, 2**64 - 1))
def test_a_varint_is_what_protobuf_writes(value: Any) -> None:
    assert varint(value) == protos.TensorProto(uint64_val=[value]).SerializeToString()[3:]


@pytest.mark.parametrize("version", (0, 1, 2**40, -5))
def test_a_model_spec_says_which_version_answered(version: Any) -> None:
    spec = protos.model.ModelSpec.FromString(model_spec_bytes("shop", version, "serving_default"))
    assert (spec.name, spec.version.value, spec.signature_name) == (
        "shop",
        version,
        "serving_default",
    )
    assert spec.HasField("version")


def test_a_response_holds_every_output_by_alias() -> None:
    outputs = {
        "items": TensorValue(dtype=DataType.STRING, shape=(1,), strings=(b"a",)),
        "scores": TensorValue(dtype=DataType.FLOAT, shape=(1,), data=np.float32(0.5).tobytes()),
    }
    content = predict_response_bytes(outputs, model_spec_bytes("shop", 3, "s"))
    response = protos.predict.PredictResponse.FromString(content)
    assert set(response.outputs) == {"items", "scores"}
    assert response.outputs["items"].string_val[0] == b"a"
    assert response.model_spec.version.value == 3
