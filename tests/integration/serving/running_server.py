"""A real `headrace serve` process and the client calls that tests make to it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx

from tasks.serving import protos
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
# TensorFlow words a wrong shape by the kernel that finds it, and takes oneDNN's kernels by itself
# only on some processors: the cases were recorded with them.
KERNELS = {"TF_ENABLE_ONEDNN_OPTS": "1"}
SERVICES = {
    "Predict": ("PredictionService", protos.predict.PredictResponse),
    "Classify": ("PredictionService", protos.classification.ClassificationResponse),
    "Regress": ("PredictionService", protos.regression.RegressionResponse),
    "MultiInference": ("PredictionService", protos.inference.MultiInferenceResponse),
    "GetModelMetadata": ("PredictionService", protos.model_metadata.GetModelMetadataResponse),
    "GetModelStatus": ("ModelService", protos.model_status.GetModelStatusResponse),
    "HandleReloadConfigRequest": ("ModelService", protos.model_management.ReloadConfigResponse),
}


@dataclass
class RunningServer:
    """One server process; `log` holds its stdout and stderr."""

    flags: Sequence[str]
    log: Path
    port: int = field(default_factory=free_port)
    rest_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> RunningServer:
        command = [
            sys.executable, "-m", "tasks.serving", f"--port={self.port}",
            f"--rest_api_port={self.rest_port}", *self.flags,
        ]  # fmt: skip
        with self.log.open("wb") as out, self.errors.open("wb") as err:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=out, stderr=err, env=os.environ | KERNELS
            )
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{self.port}",
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
        )
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.rest_port}", timeout=60)
        return self

    @property
    def errors(self) -> Path:
        return self.log.with_suffix(".err")

    def wait_ready(self, seconds: float = 60) -> None:
        self.wait_until(lambda: "ready" in self.log.read_text(), seconds)

    def wait_until(self, met: Any, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not met():
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"server ended with {self.process.returncode}: {self.said()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"not met within {seconds} s: {self.said()}")
            time.sleep(0.05)

    def said(self) -> str:
        return self.log.read_text() + self.errors.read_text()

    def call(self, rpc: str, request: Any, timeout: float | None = 60) -> Any:
        service, response = SERVICES[rpc]
        method = self.channel.unary_unary(
            f"/tensorflow.serving.{service}/{rpc}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        return method(request, timeout=timeout, wait_for_ready=False)

    def stop(self) -> int:
        assert self.process is not None
        self.channel.close()
        self.http.close()
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(30)


def float_tensor(values: Sequence[float]) -> Any:
    tensor = protos.TensorProto(dtype=1, float_val=values)
    tensor.tensor_shape.dim.add(size=len(values))
    return tensor


def predict_request(name: str, x: Sequence[float] = (2.0,), **spec: Any) -> Any:
    request = protos.predict.PredictRequest()
    request.model_spec.name = name
    for field_name, value in spec.items():
        if field_name == "version":
            request.model_spec.version.value = value
        else:
            setattr(request.model_spec, field_name, value)
    request.inputs["x"].CopyFrom(float_tensor(x))
    return request
