"""Message classes of TensorFlow Serving, loaded without starting TensorFlow's Python API.

`import tensorflow` takes 9 s and 730 MB; the generated message modules need nothing of it but
the package's path. While they load, an empty package stands in for it and is taken away again.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf import text_format


def tensorflow_folder() -> Path:
    """Return the folder of the installed tensorflow package without importing it."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        message = "tensorflow: expected the package of the `tensorflow` extra, found none installed"
        raise ImportError(message)
    return Path(spec.submodule_search_locations[0])


@contextmanager
def _package_stand_in() -> Iterator[None]:
    if "tensorflow" in sys.modules:
        yield
        return
    stand_in = types.ModuleType("tensorflow")
    stand_in.__path__ = [str(tensorflow_folder())]
    sys.modules["tensorflow"] = stand_in
    try:
        yield
    finally:
        del sys.modules["tensorflow"]


def _load(module: str) -> Any:
    return importlib.import_module(module)


with _package_stand_in():
    _tensor = _load("tensorflow.core.framework.tensor_pb2")
    _meta_graph = _load("tensorflow.core.protobuf.meta_graph_pb2")
    _config = _load("tensorflow.core.protobuf.config_pb2")
    _example = _load("tensorflow.core.example.example_pb2")
    predict = _load("tensorflow_serving.apis.predict_pb2")
    model = _load("tensorflow_serving.apis.model_pb2")
    model_status = _load("tensorflow_serving.apis.get_model_status_pb2")
    model_metadata = _load("tensorflow_serving.apis.get_model_metadata_pb2")
    model_management = _load("tensorflow_serving.apis.model_management_pb2")
    classification = _load("tensorflow_serving.apis.classification_pb2")
    regression = _load("tensorflow_serving.apis.regression_pb2")
    inference = _load("tensorflow_serving.apis.inference_pb2")
    serving_input = _load("tensorflow_serving.apis.input_pb2")
    prediction_log = _load("tensorflow_serving.apis.prediction_log_pb2")
    server_config = _load("tensorflow_serving.config.model_server_config_pb2")

TensorProto: Any = _tensor.TensorProto
MetaGraphDef: Any = _meta_graph.MetaGraphDef
ConfigProto: Any = _config.ConfigProto
RunOptions: Any = _config.RunOptions
Example: Any = _example.Example
parse_text: Any = text_format.Parse
ParseError: Any = text_format.ParseError
