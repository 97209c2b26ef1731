"""`headrace serve`: start, say when ready, drain on SIGTERM."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import grpc

from tasks.contracts.errors import BadRequestError
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.log_lines import LineHandler, LineLog, Subject, to_stderr
from tasks.serving import model_config
from tasks.serving.flags import ServerOptions, channel_arguments, parse_flags, usage
from tasks.serving.grpc_service import GrpcOptions, GrpcService, grpc_server
from tasks.serving.metrics import Metrics, prometheus_path
from tasks.serving.rest import RestApi, RestOptions
from tasks.serving.rest_server import RestServer
from tasks.serving.server_core import CoreOptions, ServerCore
from tasks.serving.session import SavedModelSession, SessionOptions
from tasks.serving.status import ServingError, invalid_argument
from tasks.serving.version_manager import LoadOptions
from tasks.serving.version_states import VersionId
from tasks.serving.warmup import warm_up

log = logging.getLogger("headrace.serve")


@dataclass(frozen=True, kw_only=True)
class _Ready:
    where: str


@dataclass(frozen=True, kw_only=True)
class _Failed:
    reason: str
    exit_code: ExitCode


@dataclass(frozen=True, kw_only=True)
class _Stop:
    signal_name: str


_Event = _Ready | _Failed | _Stop


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    try:
        options = parse_flags(argv)
        if options.help:
            sys.stdout.write(usage())
            return ExitCode.DONE
        _check_ports_free(options)
        lines = LineLog.from_environment(Subject(process="serve", model=options.model_name))
    except BadRequestError as error:
        sys.stderr.write(f"headrace serve: {error}\n")
        return ExitCode.BAD_REQUEST
    _prepare_process(lines)
    return _Server(options).run()


def _prepare_process(lines: LineLog) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors come back as statuses anyway
    lines.speak = to_stderr
    log.handlers, log.propagate = [LineHandler(lines)], False
    log.setLevel(logging.INFO)


def _check_ports_free(options: ServerOptions) -> None:
    """Refuse a taken port at once: the real ports open only after the first load."""
    for name in ("port", "rest_api_port"):
        port = getattr(options, name)
        if port:
            _check_port_free(name, options.bind_address, port)


def _check_port_free(flag: str, host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            message = f"--{flag}={port}: expected a free port on {host}, found: {error}"
            raise BadRequestError(message) from error


class _Events:
    """What the main thread waits for. A signal may interrupt any thread; a byte in a pipe is seen."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Event] = SimpleQueue()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)

    def hear_signals(self, *numbers: signal.Signals) -> None:
        """Turn these signals into stop events; only the main thread may call this."""
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: object) -> None:
        self.put(_Stop(signal_name=signal.Signals(number).name))

    def put(self, event: _Event) -> None:
        """Tell the main thread."""
        self._queue.put(event)
        os.write(self._writer, b"\0")

    def next(self) -> _Event:
        """Wait for the next event."""
        while True:
            os.read(self._reader, 1)
            try:
                return self._queue.get_nowait()
            except Empty:
                continue


class _Server:
    """Everything that lives as long as the process."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._events = _Events()
        self._core = ServerCore(_loader(options), _core_options(options))
        self._grpc: grpc.Server | None = None
        self._rest: RestServer | None = None
        self._stopping = threading.Event()

    def run(self) -> int:
        """Return the exit code. The main thread only waits, so that signals are heard at once."""
        self._events.hear_signals(signal.SIGTERM, signal.SIGINT)
        threading.Thread(target=self._start, name="start", daemon=True).start()
        while True:
            match self._events.next():
                case _Ready(where=where):
                    sys.stdout.write(f"headrace serve: ready, {where}\n")
                    sys.stdout.flush()
                case _Failed(reason=reason, exit_code=code):
                    sys.stdout.write(f"Failed to start server. Error: {reason}\n")
                    sys.stderr.write(f"headrace serve: {reason}\n")
                    return self._stop(code, grace_seconds=0.0)
                case _Stop(signal_name=name):
                    log.info("stopping on %s", name)
                    return self._stop(ExitCode.DONE, float(self._options.drain_seconds))

    def _start(self) -> None:
        try:
            config = _first_config(self._options)
            for model in config.model_config_list.config:
                log.info("model %s: watching %s", model.name, model.base_path)
            self._core.reload(config)
            if not self._stopping.is_set():
                self._events.put(_Ready(where=self._open_ports()))
            if self._options.model_config_file_poll_wait_seconds > 0:
                threading.Thread(
                    target=self._follow_config_file, name="config", daemon=True
                ).start()
        except ServingError as error:
            bad_request = "server_options." in error.message or "Error parsing" in error.message
            code = ExitCode.BAD_REQUEST if bad_request else ExitCode.CRASHED
            self._events.put(_Failed(reason=str(error), exit_code=code))
        except BadRequestError as error:
            self._events.put(_Failed(reason=str(error), exit_code=ExitCode.BAD_REQUEST))
        except Exception as error:
            log.exception("start failed")
            reason = f"{type(error).__name__}: {error}"
            self._events.put(_Failed(reason=reason, exit_code=ExitCode.CRASHED))

    def _open_ports(self) -> str:
        options, opened = self._options, []
        path = prometheus_path(options.monitoring_config_file)
        metrics = Metrics() if path else None
        grpc_options = GrpcOptions(
            max_threads=options.grpc_max_threads,
            serve_health=options.enable_grpc_healthcheck_service,
            metrics=metrics,
            as_tensor_content=options.enable_serialization_as_tensor_content,
            channel_arguments=channel_arguments(options.grpc_channel_arguments),
        )
        self._grpc = grpc_server(GrpcService(self._core, grpc_options), grpc_options)
        if options.port:
            opened.append(f"gRPC {self._add_grpc_address(_address(options, options.port))}")
        if options.grpc_socket_path:
            opened.append(f"gRPC {self._add_grpc_address(f'unix:{options.grpc_socket_path}')}")
        self._grpc.start()
        if options.rest_api_port and options.rest_api_port == options.port:
            log.error("--rest_api_port equals --port: REST is not served")
        elif options.rest_api_port:
            opened.append(f"REST {self._open_rest(path, metrics)}")
        return ", ".join(opened)

    def _add_grpc_address(self, address: str) -> str:
        if self._grpc is not None:
            try:
                self._grpc.add_insecure_port(address)
            except RuntimeError as error:
                message = f"gRPC {address}: expected a free address, found: {error}"
                raise BadRequestError(message) from error
        return address

    def _open_rest(self, metrics_path: str | None, metrics: Metrics | None) -> str:
        options = self._options
        rest_options = RestOptions(
            timeout_ms=options.rest_api_timeout_in_ms,
            cors=options.rest_api_enable_cors_support,
            metrics=metrics,
            metrics_path=metrics_path,
        )
        api = RestApi(self._core, rest_options)
        self._rest = RestServer(api.answer, options.rest_api_num_threads)
        address = _address(options, options.rest_api_port)
        try:
            self._rest.start(options.bind_address, options.rest_api_port)
        except OSError as error:
            message = f"REST {address}: expected a free port, found: {error}"
            raise BadRequestError(message) from error
        return address

    def _follow_config_file(self) -> None:
        period = self._options.model_config_file_poll_wait_seconds
        last_error = ""
        while not self._stopping.is_set():
            error = ""
            try:
                self._core.reload(model_config.read_config_file(self._options.model_config_file))
            except ServingError as refused:
                error = str(refused)
            if error and error != last_error:
                log.error("config file not taken over: %s", error)
            last_error = error
            self._stopping.wait(period)

    def _stop(self, code: ExitCode, grace_seconds: float) -> int:
        """Accept nothing more and let running requests end; exit at once if some do not."""
        self._stopping.set()
        deadline = time.monotonic() + grace_seconds
        drained = self._grpc.stop(grace_seconds) if self._grpc is not None else None
        if self._rest is not None:
            self._rest.stop(grace_seconds)
        if drained is not None:
            drained.wait(max(0.0, deadline - time.monotonic()))
        self._core.stop()
        log.info("stopped")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # a run that did not end in time must not hold the process


def _address(options: ServerOptions, port: int) -> str:
    host = options.bind_address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _first_config(options: ServerOptions) -> Any:
    if not options.port and not options.grpc_socket_path:
        raise invalid_argument(
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be "
            "set."
        )
    if options.batching_parameters_file:
        raise invalid_argument(
            "server_options.batching_parameters_file is set without setting "
            "server_options.enable_batching to true."
        )
    if options.model_config_file:
        return model_config.read_config_file(options.model_config_file)
    if not options.model_base_path:
        raise invalid_argument(
            "Both server_options.model_base_path and server_options.model_config_file are empty!"
        )
    return model_config.single_model_config(options.model_name, options.model_base_path)


def _core_options(options: ServerOptions) -> CoreOptions:
    return CoreOptions(
        load=LoadOptions(
            max_retries=options.max_num_load_retries,
            retry_interval_seconds=options.load_retry_interval_micros / 1e6,
            num_threads=options.num_load_threads,
        ),
        poll_wait_seconds=options.file_system_poll_wait_seconds,
        allow_labels_for_unavailable=options.allow_version_labels_for_unavailable_models,
    )


def _loader(options: ServerOptions) -> Any:
    session_options = SessionOptions(
        intra_op_threads=options.tensorflow_intra_op_parallelism,
        inter_op_threads=options.tensorflow_inter_op_parallelism,
        tags=tuple(options.saved_model_tags.split(",")),
    )

    def load(version: VersionId, path: Path) -> SavedModelSession:
        start = time.monotonic()
        session = SavedModelSession(path, session_options)
        records = 0
        try:
            if options.enable_model_warmup:
                records = warm_up(session, path, options.num_request_iterations_for_warmup or 1)
        except BaseException:
            session.close()
            raise
        seconds = time.monotonic() - start
        log.info("loaded: %s in %.2f s with %d warm-up records", version, seconds, records)
        return session

    return load
