"""Write a SavedModel byte for byte the same every time: one graph, all signatures in it.

`tf.saved_model.save` is not used: it wraps each signature in functions (more to dispatch), adds a
fingerprint with a random uuid and serialises maps in any order. This writer makes what TensorFlow
Serving reads: a meta graph with signatures, a restore operator, and an init operator which fills
tables and derives values (de-quantised weights) once, when the model is loaded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2, saver_pb2

from tasks.bundling.aten_graph import Array

_INIT = "__saved_model_init_op"
_PREFIX = "restore_prefix"


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Tensors of the graph under the names that clients use; defaults fill in missing inputs."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    defaults: Mapping[str, Array] = field(default_factory=dict)


@dataclass(kw_only=True)
class GraphWriter:
    """A TensorFlow graph under construction.

    `identity` goes into the names of variables and tables: two models that are loaded eagerly in
    one process share resources of equal name, so equal names must mean equal content.
    """

    identity: str
    graph: tf.Graph = field(default_factory=tf.Graph)
    _stored: dict[str, Array] = field(default_factory=dict)
    _handles: dict[str, Any] = field(default_factory=dict)
    _init: list[Any] = field(default_factory=list)

    def stored(self, name: str, array: Array) -> Any:
        """Return the value of a variable that is kept on disk as `array`."""
        key = f"weights/{name}"
        handle = self._variable(key, tf.as_dtype(array.dtype), array.shape)
        self._stored[key] = array
        self._handles[key] = handle
        return _read(handle, tf.as_dtype(array.dtype), array.shape)

    def derived(self, name: str, value: Any) -> Any:
        """Return a value that is computed from stored ones when the model is loaded."""
        handle = self._variable(f"derived/{name}", value.dtype, value.shape.as_list())
        self._init.append(tf.raw_ops.AssignVariableOp(resource=handle, value=value))
        return _read(handle, value.dtype, value.shape)

    def table(self, name: str, keys: Any, values: Any) -> Any:
        """Return a hash table string -> int64, filled when the model is loaded."""
        handle = tf.raw_ops.HashTableV2(
            key_dtype=tf.string, value_dtype=tf.int64, shared_name=f"{self.identity}/{name}"
        )
        self._init.append(
            tf.raw_ops.LookupTableImportV2(table_handle=handle, keys=keys, values=values)
        )
        return handle

    def save(self, folder: Path, signatures: Mapping[str, Signature]) -> None:
        """Write `saved_model.pb` and `variables/`."""
        with self.graph.as_default():
            saver = self._saver()
            init = tf.group(*self._init, name="init")
        meta = meta_graph_pb2.MetaGraphDef()
        meta.meta_info_def.tags.append("serve")
        meta.meta_info_def.tensorflow_version = tf.__version__
        meta.meta_info_def.stripped_default_attrs = True
        meta.graph_def.CopyFrom(self.graph.as_graph_def())
        _number_functions(meta.graph_def)
        _strip_defaults(meta.graph_def)
        if saver is not None:
            meta.saver_def.CopyFrom(saver)
        for name, signature in signatures.items():
            meta.signature_def[name].CopyFrom(_signature_def(signature))
        meta.signature_def[_INIT].outputs[_INIT].name = init.name
        meta.signature_def[_INIT].outputs[_INIT].tensor_shape.unknown_rank = True
        model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
        model.meta_graphs.append(meta)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "saved_model.pb").write_bytes(model.SerializeToString(deterministic=True))
        self._write_variables(folder / "variables")

    def _variable(self, key: str, dtype: tf.DType, shape: Any) -> Any:
        return tf.raw_ops.VarHandleOp(
            dtype=dtype, shape=list(shape), shared_name=f"{self.identity}/{key}", name=key
        )

    def _saver(self) -> saver_pb2.SaverDef | None:
        """Return how to restore; a restore that reads nothing where there are no variables."""
        prefix = tf.compat.v1.placeholder_with_default("", [], name=_PREFIX)
        names = sorted(self._stored)
        dtypes = [tf.as_dtype(self._stored[name].dtype) for name in names]
        if not names:
            return None
        values = tf.raw_ops.RestoreV2(
            prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), dtypes=dtypes
        )
        assigns = [
            tf.raw_ops.AssignVariableOp(resource=self._handles[name], value=value)
            for name, value in zip(names, values, strict=True)
        ]
        restore = tf.group(*assigns, name="restore_all")
        return saver_pb2.SaverDef(
            filename_tensor_name=prefix.name,
            save_tensor_name=prefix.name,
            restore_op_name=restore.name,
            version=saver_pb2.SaverDef.V2,
        )

    def _write_variables(self, folder: Path) -> None:
        names = sorted(self._stored)
        if not names:
            return
        folder.mkdir(parents=True, exist_ok=True)
        tf.raw_ops.SaveV2(
            prefix=str(folder / "variables"),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.constant(self._stored[name]) for name in names],
        )


def _read(handle: Any, dtype: tf.DType, shape: Any) -> Any:
    value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
    value.set_shape(shape)
    return value


def identity_of(arrays: Mapping[str, Array], text: str) -> str:
    """Return 16 hex digits of the content of a model: its weights and a description."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _number_functions(graph_def: Any) -> None:
    """Count functions (of loops) from 0: TensorFlow counts what the process made before, too."""
    names = [function.signature.name for function in graph_def.library.function]
    if not names:  # to touch the library would add one to the bytes
        return
    in_order = sorted(names, key=lambda name: int(name[len(_unnumbered(name)) :] or 0))
    new = {name: f"{_unnumbered(name)}{place}" for place, name in enumerate(in_order)}
    # Arguments that a function does not use are named after it.
    mentioned = re.compile(rf"({'|'.join(map(re.escape, names))})(?!\d)")
    texts = sorted(
        mentioned.sub(lambda found: new[found[0]], text_format.MessageToString(function))
        for function in graph_def.library.function
    )
    del graph_def.library.function[:]
    for text in texts:
        text_format.Parse(text, graph_def.library.function.add())
    for node in graph_def.node:
        for attribute in node.attr.values():
            if attribute.func.name in new:
                attribute.func.name = new[attribute.func.name]


def _unnumbered(name: str) -> str:
    return name.rstrip("0123456789")


def _strip_defaults(graph_def: Any) -> None:
    """Drop attributes at their defaults, which the reader knows, as saved_model.save does."""
    from tensorflow.python.framework import op_def_registry  # noqa: PLC0415 (private: one place)

    of_functions = (node for made in graph_def.library.function for node in made.node_def)
    for node in (*graph_def.node, *of_functions):
        op_def = op_def_registry.get(node.op)
        for attribute in op_def.attr if op_def else ():
            name = attribute.name
            known = name in node.attr and attribute.HasField("default_value")
            if known and node.attr[name] == attribute.default_value:
                del node.attr[name]


def _signature_def(signature: Signature) -> meta_graph_pb2.SignatureDef:
    record = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
    for name, tensor in signature.inputs.items():
        record.inputs[name].CopyFrom(_tensor_info(tensor))
    for name, tensor in signature.outputs.items():
        record.outputs[name].CopyFrom(_tensor_info(tensor))
    for name, array in signature.defaults.items():
        record.defaults[name].CopyFrom(tf.make_tensor_proto(array))
    return record


def _tensor_info(tensor: Any) -> meta_graph_pb2.TensorInfo:
    return meta_graph_pb2.TensorInfo(
        name=tensor.name, dtype=tensor.dtype.as_datatype_enum, tensor_shape=tensor.shape.as_proto()
    )
