"""PredictionService and ModelService over gRPC, on raw bytes where that is faster."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from tasks.serving import tensor_wire
from tasks.serving.metadata import get_model_metadata, get_model_status
from tasks.serving.predict import DEFAULT_SIGNATURE, predict
from tasks.serving.protos import model_management, model_metadata, model_status
from tasks.serving.protos import predict as predict_protos
from tasks.serving.served_version import borrowed
from tasks.serving.server_core import ServerCore
from tasks.serving.status import Code, ServingError, grpc_message, invalid_argument

log = logging.getLogger("headrace.serve")

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"
UNLIMITED_BYTES = (1 << 31) - 1
LONGEST_TIMEOUT_MS = (1 << 31) - 1
RELOAD_LOOK_SECONDS = 0.2
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, kw_only=True)
class GrpcOptions:
    """Threads that run requests at once; how response tensors are written."""

    max_threads: int = 8
    as_tensor_content: bool = False
    channel_arguments: tuple[tuple[str, str | int], ...] = ()


class GrpcService:
    """The handlers of both services for one core."""

    def __init__(self, core: ServerCore, options: GrpcOptions) -> None:
        self._core = core
        self._write_tensor = (
            tensor_wire.as_content if options.as_tensor_content else tensor_wire.as_typed_fields
        )

    def handlers(self) -> Sequence[grpc.GenericRpcHandler]:
        """Return what a grpc.Server is given."""
        prediction = {
            "Predict": self._guarded(self.predict),
            "GetModelMetadata": self._guarded(self._get_model_metadata),
            **{
                name: self._guarded(_unimplemented(name))
                for name in ("Classify", "Regress", "MultiInference")
            },
        }
        models = {
            "GetModelStatus": self._guarded(self._get_model_status),
            "HandleReloadConfigRequest": self._guarded(self._reload),
        }
        return (
            grpc.method_handlers_generic_handler(PREDICTION_SERVICE, prediction),
            grpc.method_handlers_generic_handler(MODEL_SERVICE, models),
        )

    def _guarded(self, handle: Callable[[bytes, Any], bytes]) -> grpc.RpcMethodHandler:
        def answer(request: bytes, context: Any) -> bytes:
            try:
                return handle(request, context)
            except ServingError as error:
                code, text = error.code, error.message
            except DecodeError as error:
                code, text = Code.INTERNAL, f"Error deserializing request: {error}"
            except Exception as error:
                log.exception("request failed")
                code, text = Code.INTERNAL, f"{type(error).__name__}: {error}"
            context.abort(_CODES[code], grpc_message(text))
            raise AssertionError  # abort always raises

        return grpc.unary_unary_rpc_method_handler(answer)

    def predict(self, request: bytes, context: Any) -> bytes:
        """Answer PredictRequest bytes with PredictResponse bytes."""
        message = predict_protos.PredictRequest.FromString(request)
        if not message.HasField("model_spec"):
            text = "Missing ModelSpec"
            raise invalid_argument(text)
        spec = message.model_spec
        inputs = {alias: tensor.SerializeToString() for alias, tensor in message.inputs.items()}
        served = self._core.borrow(spec)
        with borrowed(served) as session:
            outputs = predict(
                session,
                spec.signature_name,
                inputs,
                message.output_filter,
                timeout_ms=_timeout_ms(context),
            )
        answered_by = tensor_wire.model_spec_bytes(
            served.id.name, served.id.version, spec.signature_name or DEFAULT_SIGNATURE
        )
        return tensor_wire.predict_response_bytes(outputs, answered_by, self._write_tensor)

    def _get_model_status(self, request: bytes, _: Any) -> bytes:
        message = model_status.GetModelStatusRequest.FromString(request)
        return bytes(get_model_status(self._core, message).SerializeToString())

    def _get_model_metadata(self, request: bytes, _: Any) -> bytes:
        message = model_metadata.GetModelMetadataRequest.FromString(request)
        return bytes(get_model_metadata(self._core, message).SerializeToString())

    def _reload(self, request: bytes, context: Any) -> bytes:
        message = model_management.ReloadConfigRequest.FromString(request)
        if message.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
                "ModelConfigList is currently supported"
            )
        done = _in_background(lambda: self._core.reload(message.config))
        _wait_as_long_as_asked(done, context)
        response = model_management.ReloadConfigResponse()
        response.status.SetInParent()
        for name in message.metric_names:
            response.metric.add(name=name, int64_value_increase=0)
        return bytes(response.SerializeToString())


def _unimplemented(name: str) -> Callable[[bytes, Any], bytes]:
    def refuse(_request: bytes, _context: Any) -> bytes:
        message = f"{name} is not implemented by headrace serve"
        raise ServingError(Code.UNIMPLEMENTED, message)

    return refuse


def _timeout_ms(context: Any) -> int:
    remaining = context.time_remaining()
    if remaining is None:
        return 0
    return max(1, min(int(remaining * 1000), LONGEST_TIMEOUT_MS))


def _in_background(work: Callable[[], None]) -> Future[None]:
    """Run a reload on a thread of its own: it may wait for ever, the RPC's thread must not."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  handed to who waits
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, name="reload", daemon=True).start()
    return done


def _wait_as_long_as_asked(done: Future[None], context: Any) -> None:
    while True:
        try:
            return done.result(timeout=RELOAD_LOOK_SECONDS)
        except FutureTimeoutError:
            if not context.is_active():
                message = "the client stopped waiting; the reload goes on"
                raise ServingError(Code.CANCELLED, message) from None


def grpc_server(service: GrpcService, options: GrpcOptions) -> grpc.Server:
    """Return a server without ports."""
    arguments: list[tuple[str, str | int]] = [
        ("grpc.max_receive_message_length", UNLIMITED_BYTES),
        ("grpc.max_send_message_length", UNLIMITED_BYTES),
        ("grpc.so_reuseport", 0),  # two servers on one port is a mistake to be told, not shared
        *options.channel_arguments,
    ]
    executor = ThreadPoolExecutor(options.max_threads, thread_name_prefix="grpc")
    return grpc.server(executor, handlers=service.handlers(), options=arguments)
