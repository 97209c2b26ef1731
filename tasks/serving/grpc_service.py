"""PredictionService and ModelService over gRPC, on raw bytes where that is faster."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from tasks.serving import protos, tensor_wire
from tasks.serving.inference import classify, fill_model_spec, multi_inference, regress
from tasks.serving.metadata import get_model_metadata, get_model_status
from tasks.serving.metrics import Metrics
from tasks.serving.predict import DEFAULT_SIGNATURE, predict
from tasks.serving.served_version import ServedVersion
from tasks.serving.server_core import ServerCore
from tasks.serving.status import Code, ServingError, grpc_message, invalid_argument, not_found

log = logging.getLogger("headrace.serve")

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"
UNLIMITED_BYTES = (1 << 31) - 1
LONGEST_TIMEOUT_MS = (1 << 31) - 1
RELOAD_LOOK_SECONDS = 0.2
HEALTH_SERVICE = "grpc.health.v1.Health"
HEALTHY_NAMES = frozenset({b"", b"ModelService", b"PredictionService"})
COUNTED: Mapping[str, Callable[[bytes], Any]] = {
    "Predict": protos.predict.PredictRequest.FromString,
    "Classify": protos.classification.ClassificationRequest.FromString,
    "Regress": protos.regression.RegressionRequest.FromString,
}
Handle = Callable[[bytes, Any], bytes]
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, kw_only=True)
class GrpcOptions:
    """Threads that run requests at once; how response tensors are written."""

    max_threads: int = 8
    as_tensor_content: bool = False
    serve_health: bool = False
    metrics: Metrics | None = None
    channel_arguments: tuple[tuple[str, str | int], ...] = ()


class GrpcService:
    """The handlers of both services for one core."""

    def __init__(self, core: ServerCore, options: GrpcOptions) -> None:
        self._core = core
        self._options = options
        self._write_tensor = (
            tensor_wire.as_content if options.as_tensor_content else tensor_wire.as_typed_fields
        )

    def handlers(self) -> Sequence[grpc.GenericRpcHandler]:
        """Return what a grpc.Server is given."""
        prediction = {
            "Predict": self._guarded(self._counted("Predict", self.predict)),
            "GetModelMetadata": self._guarded(self._get_model_metadata),
            "Classify": self._guarded(self._counted("Classify", self._classify)),
            "Regress": self._guarded(self._counted("Regress", self._regress)),
            "MultiInference": self._guarded(self._multi_inference),
        }
        models = {
            "GetModelStatus": self._guarded(self._get_model_status),
            "HandleReloadConfigRequest": self._guarded(self._reload),
        }
        services = {PREDICTION_SERVICE: prediction, MODEL_SERVICE: models}
        if self._options.serve_health:
            services[HEALTH_SERVICE] = {"Check": self._guarded(_health)}
        return tuple(
            grpc.method_handlers_generic_handler(service, methods)
            for service, methods in services.items()
        )

    def _counted(self, api: str, handle: Handle) -> Handle:
        """Count requests of `api`, if anybody wants to know."""
        metrics = self._options.metrics
        if metrics is None:
            return handle
        read = COUNTED[api]

        def answer(request: bytes, context: Any) -> bytes:
            start, code = time.monotonic(), Code.INTERNAL
            try:
                response = handle(request, context)
                code = Code.OK
            except ServingError as error:
                code = error.code
                raise
            finally:
                name = read(request).model_spec.name
                microseconds = (time.monotonic() - start) * 1e6
                metrics.answered(name, api, "GRPC", code, microseconds)
            return response

        return answer

    def _guarded(self, handle: Handle) -> grpc.RpcMethodHandler:
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
        message = protos.predict.PredictRequest.FromString(request)
        spec = message.model_spec
        with self._borrow(message) as served:
            start = time.monotonic()
            outputs = predict(
                served.session,
                spec.signature_name,
                {alias: tensor.SerializeToString() for alias, tensor in message.inputs.items()},
                message.output_filter,
                timeout_ms=_timeout_ms(context),
            )
        if self._options.metrics is not None:
            microseconds = (time.monotonic() - start) * 1e6
            self._options.metrics.ran(spec.name, "Predict", microseconds)
        answered_by = tensor_wire.model_spec_bytes(
            served.id.name, served.id.version, spec.signature_name or DEFAULT_SIGNATURE
        )
        return tensor_wire.predict_response_bytes(outputs, answered_by, self._write_tensor)

    def _classify(self, request: bytes, context: Any) -> bytes:
        message = protos.classification.ClassificationRequest.FromString(request)
        response = protos.classification.ClassificationResponse()
        with self._borrow(message) as served:
            response.result.CopyFrom(classify(served.session, message, _timeout_ms(context)))
        fill_model_spec(response.model_spec, message.model_spec, served.id.version)
        return bytes(response.SerializeToString())

    def _regress(self, request: bytes, context: Any) -> bytes:
        message = protos.regression.RegressionRequest.FromString(request)
        response = protos.regression.RegressionResponse()
        with self._borrow(message) as served:
            response.result.CopyFrom(regress(served.session, message, _timeout_ms(context)))
        fill_model_spec(response.model_spec, message.model_spec, served.id.version)
        return bytes(response.SerializeToString())

    def _multi_inference(self, request: bytes, context: Any) -> bytes:
        message = protos.inference.MultiInferenceRequest.FromString(request)
        spec = message.tasks[0].model_spec if message.tasks else protos.model.ModelSpec()
        with self._core.borrow(spec) as served:
            timeout_ms = _timeout_ms(context)
            response = multi_inference(served.session, served.id.version, message, timeout_ms)
        return bytes(response.SerializeToString())

    def _borrow(self, message: Any) -> ServedVersion:
        if not message.HasField("model_spec"):
            text = "Missing ModelSpec"
            raise invalid_argument(text)
        return self._core.borrow(message.model_spec)

    def _get_model_status(self, request: bytes, _: Any) -> bytes:
        message = protos.model_status.GetModelStatusRequest.FromString(request)
        return bytes(get_model_status(self._core, message).SerializeToString())

    def _get_model_metadata(self, request: bytes, _: Any) -> bytes:
        message = protos.model_metadata.GetModelMetadataRequest.FromString(request)
        return bytes(get_model_metadata(self._core, message).SerializeToString())

    def _reload(self, request: bytes, context: Any) -> bytes:
        message = protos.model_management.ReloadConfigRequest.FromString(request)
        if message.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
                "ModelConfigList is currently supported"
            )
        done = _in_background(lambda: self._core.reload(message.config))
        _wait_as_long_as_asked(done, context)
        response = protos.model_management.ReloadConfigResponse()
        response.status.SetInParent()
        for name in message.metric_names:
            response.metric.add(name=name, int64_value_increase=0)
        return bytes(response.SerializeToString())


def _health(request: bytes, _context: Any) -> bytes:
    """Answer HealthCheckRequest (field 1: service) with SERVING (field 1: 1), or NOT_FOUND."""
    service = request[2:] if request else b""
    if service not in HEALTHY_NAMES:
        message = "unknown service"
        raise not_found(message)
    return b"\x08\x01"


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
