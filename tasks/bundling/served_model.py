"""Load a SavedModel and ask its signatures, the way TensorFlow Serving does: one session."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tasks.contracts.errors import BadRequestError


class LoadedModel:
    """A SavedModel in a session of its own; use as a context manager."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Load `folder`; `threads` per operator, fixed so that equal requests have equal bits."""
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads
        )
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        with self._session.graph.as_default():
            meta = tf.compat.v1.saved_model.load(self._session, ["serve"], str(folder))
        self._signatures = {
            name: signature
            for name, signature in meta.signature_def.items()
            if not name.startswith("__")
        }
        self._calls: dict[tuple[str, tuple[str, ...]], Any] = {}

    def __enter__(self) -> Self:
        """Return the model."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Free the session."""
        self._session.close()

    @property
    def signatures(self) -> tuple[str, ...]:
        """Return the names of the signatures."""
        return tuple(sorted(self._signatures))

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return inputs, outputs and defaults of every signature, dtypes and shapes as text."""
        return {
            name: {
                "inputs": _described(record.inputs),
                "outputs": _described(record.outputs),
                "defaults": {
                    key: _readable(tf.make_ndarray(proto))
                    for key, proto in sorted(record.defaults.items())
                },
            }
            for name, record in sorted(self._signatures.items())
        }

    def ask(self, signature: str, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Run a signature; missing inputs take the signature's defaults."""
        record = self._signatures.get(signature)
        if record is None:
            message = f"model: expected a signature of {self.signatures}, found {signature!r}"
            raise BadRequestError(message)
        given = {**{n: tf.make_ndarray(p) for n, p in record.defaults.items()}, **inputs}
        if set(given) != set(record.inputs):
            message = (
                f"model: signature {signature}: expected inputs {sorted(record.inputs)}, "
                f"found {sorted(given)}"
            )
            raise BadRequestError(message)
        names = sorted(given)
        call = self._callable(signature, tuple(names))
        values = call(*[_fed(given[name], record.inputs[name].dtype) for name in names])
        return dict(zip(sorted(record.outputs), values, strict=True))

    def _callable(self, signature: str, names: tuple[str, ...]) -> Any:
        key = (signature, names)
        if key not in self._calls:
            record = self._signatures[signature]
            self._calls[key] = self._session.make_callable(
                fetches=[record.outputs[name].name for name in sorted(record.outputs)],
                feed_list=[record.inputs[name].name for name in names],
            )
        return self._calls[key]


def _fed(value: Any, dtype: int) -> NDArray[Any]:
    wanted = tf.as_dtype(dtype)
    if wanted == tf.string:
        return np.asarray(value, dtype=object)
    return np.asarray(value, dtype=wanted.as_numpy_dtype)


def _readable(default: NDArray[Any]) -> Any:
    """Return a default as JSON has it: texts are bytes in TensorFlow."""
    texts = default.dtype == object
    return np.vectorize(bytes.decode, [object])(default).tolist() if texts else default.tolist()


def _described(tensors: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: f"{tf.as_dtype(info.dtype).name}{tf.TensorShape(info.tensor_shape).as_list()}"
        for name, info in sorted(tensors.items())
    }
