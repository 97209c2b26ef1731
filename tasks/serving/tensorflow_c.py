"""The part of TensorFlow's public C API (c_api.h, tf_tensor.h) that a server needs, by ctypes.

Loading the shared library takes 0.5 s; `import tensorflow` takes 9 s and twice the memory. The
C loader and session are the code that TensorFlow Serving itself runs: same dtypes, same texts.
"""

from __future__ import annotations

import ctypes
import threading
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from typing import Any, Self

from tasks.serving.protos import tensorflow_folder
from tasks.serving.status import Code, ServingError

SUPPORTED_VERSION = "2.21."  # the layout of TF_TString below is part of this release's ABI


class Buffer(ctypes.Structure):
    """TF_Buffer: bytes that either side may own."""

    _fields_ = (("data", c_void_p), ("length", c_size_t), ("deallocator", c_void_p))


def buffer_over(content: bytes) -> Buffer:
    """Return a TF_Buffer over Python's bytes, which must outlive it."""
    return Buffer(ctypes.cast(content, c_void_p), len(content), None)  # type: ignore[arg-type]


class Output(ctypes.Structure):
    """TF_Output: one output of one operation in a graph."""

    _fields_ = (("operation", c_void_p), ("index", c_int))


@dataclass(frozen=True, kw_only=True)
class TensorFlowC:
    """Typed entry points. `quick` ones keep the GIL: they are shorter than giving it up."""

    version: Any
    new_status: Any
    delete_status: Any
    get_code: Any
    message: Any
    new_graph: Any
    delete_graph: Any
    operation_by_name: Any
    new_session_options: Any
    delete_session_options: Any
    set_config: Any
    new_buffer: Any
    delete_buffer: Any
    load_session: Any
    close_session: Any
    delete_session: Any
    session_run: Any
    allocate_tensor: Any
    delete_tensor: Any
    tensor_from_proto: Any
    tensor_from_large_proto: Any  # gives up the GIL: for megabytes
    tensor_type: Any
    num_dims: Any
    dim: Any
    element_count: Any
    tensor_byte_size: Any
    tensor_data: Any
    string_size: Any
    string_data: Any


_lock = threading.Lock()
_loaded: TensorFlowC | None = None


def tensorflow_c() -> TensorFlowC:
    """Return the C API, loading the shared library at the first call."""
    global _loaded  # noqa: PLW0603  one library per process
    with _lock:
        if _loaded is None:
            _loaded = _bind()
        return _loaded


def _bind() -> TensorFlowC:
    path = str(tensorflow_folder() / "libtensorflow_cc.so.2")
    releases, quick = ctypes.CDLL(path), ctypes.PyDLL(path)
    api = TensorFlowC(**_session_functions(releases, quick), **_tensor_functions(releases, quick))
    found = api.version().decode()
    if not found.startswith(SUPPORTED_VERSION):
        message = f"{path}: expected TensorFlow {SUPPORTED_VERSION}x, found {found}"
        raise ImportError(message)
    return api


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype = result
    function.argtypes = arguments
    return function


def _session_functions(releases: ctypes.CDLL, quick: ctypes.CDLL) -> dict[str, Any]:
    handle, tags, buffer = c_void_p, POINTER(c_char_p), POINTER(Buffer)
    return {
        "version": _function(quick, "TF_Version", c_char_p),
        "new_status": _function(quick, "TF_NewStatus", handle),
        "delete_status": _function(quick, "TF_DeleteStatus", None, handle),
        "get_code": _function(quick, "TF_GetCode", c_int, handle),
        "message": _function(quick, "TF_Message", c_char_p, handle),
        "new_graph": _function(quick, "TF_NewGraph", handle),
        "delete_graph": _function(releases, "TF_DeleteGraph", None, handle),
        "operation_by_name": _function(
            quick, "TF_GraphOperationByName", handle, handle, c_char_p
        ),
        "new_session_options": _function(quick, "TF_NewSessionOptions", handle),
        "delete_session_options": _function(quick, "TF_DeleteSessionOptions", None, handle),
        "set_config": _function(
            quick, "TF_SetConfig", None, handle, c_char_p, c_size_t, handle
        ),
        "new_buffer": _function(quick, "TF_NewBuffer", buffer),
        "delete_buffer": _function(quick, "TF_DeleteBuffer", None, buffer),
        "load_session": _function(
            releases, "TF_LoadSessionFromSavedModel", handle,
            handle, handle, c_char_p, tags, c_int, handle, buffer, handle,
        ),
        "close_session": _function(releases, "TF_CloseSession", None, handle, handle),
        "delete_session": _function(releases, "TF_DeleteSession", None, handle, handle),
        "session_run": _function(
            releases, "TF_SessionRun", None,
            handle, handle, handle, handle, c_int, handle, handle, c_int,
            handle, c_int, handle, handle,
        ),
    }  # fmt: skip


def _tensor_functions(releases: ctypes.CDLL, quick: ctypes.CDLL) -> dict[str, Any]:
    handle = c_void_p
    return {
        "allocate_tensor": _function(
            quick, "TF_AllocateTensor", handle, c_int, POINTER(c_int64), c_int, c_size_t
        ),
        "delete_tensor": _function(quick, "TF_DeleteTensor", None, handle),
        "tensor_from_proto": _function(
            quick, "TF_TensorFromProto", None, POINTER(Buffer), handle, handle
        ),
        "tensor_from_large_proto": _function(
            releases, "TF_TensorFromProto", None, POINTER(Buffer), handle, handle
        ),
        "tensor_type": _function(quick, "TF_TensorType", c_int, handle),
        "num_dims": _function(quick, "TF_NumDims", c_int, handle),
        "dim": _function(quick, "TF_Dim", c_int64, handle, c_int),
        "element_count": _function(quick, "TF_TensorElementCount", c_int64, handle),
        "tensor_byte_size": _function(quick, "TF_TensorByteSize", c_size_t, handle),
        "tensor_data": _function(quick, "TF_TensorData", handle, handle),
        "string_size": _function(quick, "TF_StringGetSize", c_size_t, handle),
        "string_data": _function(quick, "TF_StringGetDataPointer", handle, handle),
    }


class Status:
    """A TF_Status for one call: `with Status(api) as s: api.f(..., s.handle); s.check()`."""

    __slots__ = ("_api", "handle")

    def __init__(self, api: TensorFlowC) -> None:
        self._api = api
        self.handle = api.new_status()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._api.delete_status(self.handle)

    def check(self) -> None:
        """Raise what the call reported, with TensorFlow's own code and text."""
        code = self._api.get_code(self.handle)
        if code != 0:
            text = self._api.message(self.handle).decode("utf-8", "replace")
            raise ServingError(Code(code), text)
