"""Mirrored Predict requests by gRPC: taken with an empty answer, and asked again of a slot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from tasks.contracts.errors import HeadraceError
from tasks.serving import protos
from tasks.serving.client import ServingClient, flat_values
from tasks.serving.grpc_service import PREDICTION_SERVICE
from tasks.serving.status import ServingError

METHOD = f"/{PREDICTION_SERVICE}/Predict"
RANKED = ("items", "classes", "scores")
MAX_THREADS = 64  # one waits for each request that is still on its way
_AXES = 2  # users, places

Take = Callable[[str, bytes], Any]  # model, request
Drop = Callable[[str], Any]  # why
Columns = Mapping[str, list[list[Any]]]


class UnansweredError(HeadraceError):
    """A slot did not answer a mirrored request, or not with a prediction."""


@dataclass(kw_only=True)
class _Mirror(grpc.GenericRpcHandler):
    """Answers nothing at once; a request is read piece by piece, so that a large one is counted."""

    take: Take
    drop: Drop

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler | None:
        if handler_call_details.method != METHOD:
            self.drop("path")
            return None
        return grpc.stream_unary_rpc_method_handler(self._taken)

    def _taken(self, pieces: Iterator[bytes], _context: Any) -> bytes:
        try:
            request = next(pieces, None)
        except grpc.RpcError:  # larger than the server's limit, or broken off
            request = None
        if request is None:
            self.drop("body")
            return b""
        try:
            model = protos.predict.PredictRequest.FromString(request).model_spec.name
        except DecodeError:
            self.drop("body")
            return b""
        self.take(model, request)
        return b""


@contextmanager
def mirrored_requests(
    host: str, port: int, max_bytes: int, take: Take, drop: Drop
) -> Iterator[int]:
    """Listen there and give each Predict request to `take`; the port, which 0 leaves free."""
    options = (("grpc.max_receive_message_length", max_bytes), ("grpc.so_reuseport", 0))
    pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="mirrored")
    server = grpc.server(pool, handlers=(_Mirror(take=take, drop=drop),), options=options)
    listens = server.add_insecure_port(f"{host}:{port}")
    server.start()
    try:
        yield listens
    finally:
        server.stop(0).wait()
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(kw_only=True)
class SlotAsker:
    """Asks slots what a mirrored request asked, on a channel each."""

    timeout_seconds: float
    _clients: dict[str, ServingClient] = field(default_factory=dict)

    def __call__(self, address: str, request: bytes, version: int) -> Columns:
        """Return what a version ranks, by name and row."""
        client = self._clients.get(address)
        if client is None:
            client = ServingClient(address, timeout_seconds=self.timeout_seconds)
            self._clients[address] = client
        try:
            return ranked_columns(client.predict(of_version(request, version)))
        except (ServingError, DecodeError) as error:
            message = f"{address}: expected a prediction of version {version}, found {error!r}"
            raise UnansweredError(message) from error


def of_version(request: bytes, version: int) -> bytes:
    """Return the same PredictRequest for one version, whatever version or label it named."""
    message = protos.predict.PredictRequest.FromString(request)
    message.model_spec.version.value = version
    return bytes(message.SerializeToString())


def ranked_columns(response: Any) -> Columns:
    """Return the outputs that rank, row by row as REST gives them by column; others are left out."""
    found = {name: response.outputs[name] for name in RANKED if name in response.outputs}
    columns = {name: _rows(tensor) for name, tensor in found.items()}
    return {name: rows for name, rows in columns.items() if rows is not None}


def _rows(tensor: Any) -> list[list[Any]] | None:
    shape = [axis.size for axis in tensor.tensor_shape.dim]
    try:
        values = flat_values(tensor)
    except (KeyError, UnicodeDecodeError):
        return None
    if len(shape) != _AXES or shape[0] * shape[1] != len(values):
        return None
    wide = shape[1]
    return [values[place * wide : (place + 1) * wide] for place in range(shape[0])]
