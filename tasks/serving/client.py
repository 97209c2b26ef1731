"""A small gRPC client of TensorFlow Serving's protocol, for stages and checks."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias, cast

import grpc

from tasks.serving import protos
from tasks.serving.status import Code, ServingError
from tasks.serving.tensors import DataType
from tasks.serving.version_states import State, VersionId, VersionState

Rows: TypeAlias = Sequence[Sequence[str]] | Sequence[Sequence[int]] | Sequence[Sequence[float]]
Pictures: TypeAlias = Sequence[Sequence[Sequence[int]]]  # [B, H, W], 0 to 255
POLL_SECONDS = 0.1
_FIELDS: Mapping[int, tuple[str, str]] = {
    DataType.FLOAT: ("float_val", "f"),
    DataType.DOUBLE: ("double_val", "d"),
    DataType.INT32: ("int_val", "i"),
    DataType.INT64: ("int64_val", "q"),
}


def pictures(images: Pictures) -> Any:
    """Return a TensorProto uint8 [B, H, W] of grey pictures, 0 to 255."""
    shape = (len(images), len(images[0]), len(images[0][0]))
    content = bytes(value for image in images for row in image for value in row)
    tensor = protos.TensorProto(dtype=DataType.UINT8, tensor_content=content)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


def matrix(rows: Rows) -> Any:
    """Return a TensorProto [R, L] of strings, int64 or float rows of equal length."""
    flat = [value for row in rows for value in row]
    kind = type(flat[0]) if flat else str
    if kind is str:
        values = [str(value).encode() for value in flat]
        tensor = protos.TensorProto(dtype=DataType.STRING, string_val=values)
    elif kind is int:
        tensor = protos.TensorProto(dtype=DataType.INT64, int64_val=flat)
    else:
        tensor = protos.TensorProto(dtype=DataType.FLOAT, float_val=flat)
    for size in (len(rows), len(rows[0]) if rows else 0):
        tensor.tensor_shape.dim.add(size=size)
    return tensor


def flat_values(tensor: Any) -> list[Any]:
    """Return a TensorProto's values row by row, from its typed field or its content."""
    if tensor.dtype == DataType.STRING:
        return [value.decode() for value in tensor.string_val]
    field, code = _FIELDS[tensor.dtype]
    if tensor.tensor_content:
        size = len(tensor.tensor_content) // struct.calcsize(code)
        return list(struct.unpack(f"<{size}{code}", tensor.tensor_content))
    return list(getattr(tensor, field))


def predict_request(
    name: str,
    inputs: Mapping[str, Rows | Pictures],
    *,
    version: int | None = None,
    signature: str = "",
) -> bytes:
    """Return PredictRequest bytes; three axes are pictures."""
    request = protos.predict.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for alias, rows in inputs.items():
        request.inputs[alias].CopyFrom(_tensor(rows))
    return bytes(request.SerializeToString())


def _tensor(values: Rows | Pictures) -> Any:
    if values and values[0] and not isinstance(values[0][0], str | int | float):
        return pictures(cast("Pictures", values))
    return matrix(cast("Rows", values))


class ServingClient:
    """Speaks to one server; errors come as ServingError with the server's code and text."""

    def __init__(self, address: str, *, timeout_seconds: float = 30.0) -> None:
        self.address = address
        self._timeout = timeout_seconds
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
            ],
        )
        self._predict = self._method("PredictionService/Predict")
        self._status = self._method("ModelService/GetModelStatus")

    def _method(self, name: str) -> Callable[..., bytes]:
        return self._channel.unary_unary(f"/tensorflow.serving.{name}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    def _call(self, method: Callable[..., bytes], request: bytes) -> bytes:
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            raise ServingError(Code(code.value[0]), f"{self.address}: {details}") from error

    def predict_bytes(self, request: bytes) -> bytes:
        """Send PredictRequest bytes, return PredictResponse bytes."""
        return self._call(self._predict, request)

    def predict(self, request: bytes) -> Any:
        """Send PredictRequest bytes, return the PredictResponse."""
        return protos.predict.PredictResponse.FromString(self.predict_bytes(request))

    def state(self, version: VersionId) -> VersionState | None:
        """Return what a version is doing; None if the server has not seen it."""
        request = protos.model_status.GetModelStatusRequest()
        request.model_spec.name = version.name
        request.model_spec.version.value = version.version
        try:
            answer = self._call(self._status, request.SerializeToString())
        except ServingError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise
        row = protos.model_status.GetModelStatusResponse.FromString(answer).model_version_status[0]
        status = row.status
        failure = (
            ServingError(Code(status.error_code), status.error_message)
            if status.error_code
            else None
        )
        return VersionState(id=version, state=State(row.state), error=failure)

    def wait_available(self, version: VersionId, seconds: float) -> VersionState | None:
        """Poll until the version is AVAILABLE or has failed; its last state, None: never seen.

        A server without any version has no open port yet: that is waiting, not failing.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                row = self.state(version)
            except ServingError as error:
                if error.code not in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
                    raise
                row = None
            settled = row is not None and (row.state is State.AVAILABLE or row.error is not None)
            if settled or time.monotonic() > deadline:
                return row
            time.sleep(POLL_SECONDS)
