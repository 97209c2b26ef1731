"""One loaded SavedModel: its signatures and the call that runs one of them."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Mapping, Sequence
from ctypes import byref, c_char_p, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.serving.pace import Pace
from tasks.serving.protos import ConfigProto, MetaGraphDef
from tasks.serving.status import Code, ServingError, invalid_argument, not_found
from tasks.serving.tensor_wire import varint
from tasks.serving.tensorflow_c import Output, Status, buffer_over, tensorflow_c
from tasks.serving.tensors import TensorValue, feed_tensor, fetched_value

# RunOptions (config.proto): field 2 is timeout_in_ms, field 3 inter_op_thread_pool, here -1.
_IN_CALLERS_THREAD = b"\x18" + varint((1 << 64) - 1)


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How TensorFlow computes. Inter-op 0: in the caller's thread, see `pace`."""

    intra_op_threads: int = 1
    inter_op_threads: int = 0
    tags: tuple[str, ...] = ("serve",)

    def config_bytes(self) -> bytes:
        """Return the ConfigProto."""
        config = ConfigProto(
            intra_op_parallelism_threads=self.intra_op_threads,
            inter_op_parallelism_threads=self.inter_op_threads or 1,
        )
        return bytes(config.SerializeToString())


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One named input or output of a signature."""

    alias: str
    tensor_name: str
    dtype: int


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A SignatureDef ready to run: aliases sorted, arrays for the C call built once."""

    name: str
    method_name: str
    inputs: Mapping[str, Endpoint]
    outputs: Mapping[str, Endpoint]
    defaults: Mapping[str, bytes]  # TensorProto bytes by alias
    all_outputs: tuple[str, ...]
    input_array: Any
    output_array: Any
    pace: Pace
    proto: Any  # the SignatureDef


def _endpoints(infos: Any) -> dict[str, Endpoint]:
    return {
        alias: Endpoint(alias=alias, tensor_name=infos[alias].name, dtype=infos[alias].dtype)
        for alias in sorted(infos)
    }


class SavedModelSession:
    """A SavedModel in memory. `run` may be called by many threads; `close` once, after the last."""

    def __init__(self, path: Path, options: SessionOptions) -> None:
        _check_is_saved_model(path)
        self._api = tensorflow_c()
        self._keep_thread = options.inter_op_threads == 0
        self._graph = self._api.new_graph()
        self._session = c_void_p()
        try:
            meta_graph = self._load(path, options)
            self.signatures = {
                name: self._signature(name, meta_graph.signature_def[name])
                for name in sorted(meta_graph.signature_def)
            }
        except BaseException:
            self.close()
            raise

    def _load(self, path: Path, options: SessionOptions) -> Any:
        api, config = self._api, options.config_bytes()
        tags = (c_char_p * len(options.tags))(*(tag.encode() for tag in options.tags))
        session_options, meta_graph = api.new_session_options(), api.new_buffer()
        try:
            with Status(api) as status:
                api.set_config(session_options, config, len(config), status.handle)
                status.check()
                self._session = c_void_p(
                    api.load_session(
                        session_options, None, os.fsencode(path), tags, len(tags),
                        self._graph, meta_graph, status.handle,
                    )
                )  # fmt: skip
                status.check()
            content = meta_graph.contents
            return MetaGraphDef.FromString(ctypes.string_at(content.data, content.length))
        finally:
            api.delete_buffer(meta_graph)
            api.delete_session_options(session_options)

    def _signature(self, name: str, proto: Any) -> Signature:
        inputs, outputs = _endpoints(proto.inputs), _endpoints(proto.outputs)
        return Signature(
            name=name,
            method_name=proto.method_name,
            inputs=inputs,
            outputs=outputs,
            defaults={
                alias: bytes(tensor.SerializeToString()) for alias, tensor in proto.defaults.items()
            },
            all_outputs=tuple(outputs),
            input_array=self._array(inputs.values()),
            output_array=self._array(outputs.values()),
            pace=Pace(),
            proto=proto,
        )

    def _array(self, endpoints: Any) -> Any:
        points = [self._output(endpoint.tensor_name) for endpoint in endpoints]
        return (Output * len(points))(*points)

    def _output(self, tensor_name: str) -> Output:
        operation, _, index = tensor_name.partition(":")
        found = self._api.operation_by_name(self._graph, operation.encode())
        return Output(found, int(index or 0))

    def run(
        self,
        signature: Signature,
        feeds: Mapping[str, bytes],
        outputs: Sequence[str] | None = None,
        *,
        timeout_ms: int = 0,
    ) -> dict[str, TensorValue]:
        """Run `signature` on TensorProto bytes by alias; 0 ms waits without limit.

        `feeds` has every input of the signature. Errors are TensorFlow's own.
        """
        wanted = signature.all_outputs if outputs is None else tuple(outputs)
        fetches = (
            signature.output_array
            if outputs is None
            else self._array(signature.outputs[alias] for alias in wanted)
        )
        if not all(point.operation for point in (*signature.input_array, *fetches)):
            raise _missing_operation(signature)
        tensors: list[c_void_p] = []
        try:
            for alias in signature.inputs:
                tensor = feed_tensor(self._api, feeds[alias])
                if tensor is None:
                    raise invalid_argument(f"tensor parsing error: {alias}")
                tensors.append(tensor)
            num_bytes = sum(map(len, feeds.values()))
            options = self._run_options(signature.pace, num_bytes, timeout_ms)
            start = time.monotonic()
            results = self._call(options, signature.input_array, tensors, fetches)
            signature.pace.saw(num_bytes, time.monotonic() - start)
        finally:
            for tensor in tensors:
                self._api.delete_tensor(tensor)
        return self._collect(wanted, results)

    def run_tensors(
        self, feeds: Mapping[str, bytes], fetches: Sequence[str], *, timeout_ms: int = 0
    ) -> dict[str, TensorValue]:
        """Run on TensorProto bytes by tensor name; return values by tensor name."""
        inputs = {name: Endpoint(alias=name, tensor_name=name, dtype=0) for name in feeds}
        outputs = {name: Endpoint(alias=name, tensor_name=name, dtype=0) for name in fetches}
        joined = Signature(
            name="",
            method_name="",
            inputs=inputs,
            outputs=outputs,
            defaults={},
            all_outputs=tuple(outputs),
            input_array=self._array(inputs.values()),
            output_array=self._array(outputs.values()),
            pace=Pace(),
            proto=None,
        )
        return self.run(joined, feeds, timeout_ms=timeout_ms)

    def _run_options(self, pace: Pace, num_bytes: int, timeout_ms: int) -> bytes:
        unlimited = timeout_ms <= 0 or pace.may_run_unlimited(num_bytes, timeout_ms / 1000)
        timeout = b"" if unlimited else b"\x10" + varint(timeout_ms)
        return timeout + _IN_CALLERS_THREAD if unlimited and self._keep_thread else timeout

    def _call(self, options: bytes, inputs: Any, tensors: Sequence[c_void_p], fetches: Any) -> Any:
        values = (c_void_p * len(tensors))(*tensors)
        results = (c_void_p * len(fetches))()
        run_options = buffer_over(options)
        with Status(self._api) as status:
            self._api.session_run(
                self._session, byref(run_options), inputs, values, len(values),
                fetches, results, len(results), None, 0, None, status.handle,
            )  # fmt: skip
            status.check()
        return results

    def _collect(self, aliases: Sequence[str], results: Any) -> dict[str, TensorValue]:
        try:
            return {
                alias: fetched_value(self._api, tensor)
                for alias, tensor in zip(aliases, results, strict=True)
            }
        finally:
            for tensor in results:
                self._api.delete_tensor(tensor)

    def close(self) -> None:
        """Give the model's memory back; the session may not be used afterwards."""
        with Status(self._api) as status:
            if self._session:
                self._api.close_session(self._session, status.handle)
                self._api.delete_session(self._session, status.handle)
            if self._graph:
                self._api.delete_graph(self._graph)
        self._session, self._graph = c_void_p(), c_void_p()


def _missing_operation(signature: Signature) -> ServingError:
    names = sorted(e.tensor_name for e in (*signature.inputs.values(), *signature.outputs.values()))
    return invalid_argument(
        f"Tensor {','.join(names)}, specified in either feed_devices or fetch_devices "
        "was not found in the Graph"
    )


def _check_is_saved_model(path: Path) -> None:
    """Refuse early what TensorFlow Serving refuses before it calls the loader."""
    if (path / "export.meta").exists():
        message = "Session Bundle is deprecated and removed."
        raise ServingError(Code.UNIMPLEMENTED, message)
    if not (path / "saved_model.pb").exists() and not (path / "saved_model.pbtxt").exists():
        message = (
            "Specified file path does not appear to contain a SavedModel bundle (should have a "
            f"file called `saved_model.pb`)\nSpecified file path: {path}"
        )
        raise not_found(message)
