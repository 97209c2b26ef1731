"""Runs the cases of a conformance.jsonl (TensorFlow Serving's observable behaviour) on a server."""

from __future__ import annotations

import gzip
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import httpx
from google.protobuf import json_format, text_format

from tasks.serving import protos
from tasks.serving.status import Code
from tests.integration.serving.running_server import (
    SERVICES,
    RunningServer,
    float_tensor,
    predict_request,
)

REQUESTS = {
    "Predict": protos.predict.PredictRequest,
    "Classify": protos.classification.ClassificationRequest,
    "Regress": protos.regression.RegressionRequest,
    "MultiInference": protos.inference.MultiInferenceRequest,
    "GetModelMetadata": protos.model_metadata.GetModelMetadataRequest,
    "GetModelStatus": protos.model_status.GetModelStatusRequest,
    "HandleReloadConfigRequest": protos.model_management.ReloadConfigRequest,
}
ONE_CONFIG = """
model_config_list {
  config { name: "half_plus_two" base_path: "%(f)s/half_plus_two" model_platform: "tensorflow"
    model_version_policy { specific { versions: 1 versions: 2 } }
    version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 } }
  config { name: "multi" base_path: "%(f)s/multi" model_platform: "tensorflow" }
  config { name: "types" base_path: "%(f)s/types" model_platform: "tensorflow" }
  config { name: "scalar" base_path: "%(f)s/scalar" model_platform: "tensorflow" }
  config { name: "counter" base_path: "%(f)s/counter" model_platform: "tensorflow" }
  config { name: "dense" base_path: "%(f)s/dense" model_platform: "tensorflow" }
}
"""


def read_cases(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "conformance.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def default_server(fixtures: Path, work: Path, flags: list[str]) -> RunningServer:
    """The server that grpc and rest cases speak to."""
    work.mkdir(parents=True, exist_ok=True)
    config = work / "models.config"
    config.write_text(ONE_CONFIG % {"f": fixtures})
    server = RunningServer(
        flags=[
            f"--model_config_file={config}",
            "--allow_version_labels_for_unavailable_models=true",
            *flags,
        ],
        log=work / "server.log",
    ).start()
    server.wait_ready()
    # The first version of a name opens the ports; the second may still be loading.
    server.wait_until(lambda: _state(server, "half_plus_two", 1) == _AVAILABLE)
    server.wait_until(lambda: _state(server, "half_plus_two", 2) == _AVAILABLE)
    return server


_AVAILABLE = (30, 0)


def _state(server: RunningServer, name: str, version: int) -> tuple[int, int] | None:
    request = protos.model_status.GetModelStatusRequest()
    request.model_spec.name = name
    request.model_spec.version.value = version
    try:
        row = server.call("GetModelStatus", request).model_version_status[0]
    except grpc.RpcError:
        return None
    return row.state, row.status.error_code


# Comparison


def differences(expected: Any, found: Any, where: str = "") -> list[str]:
    """Subset comparison: every expected member is there; numbers within 1e-6."""
    if isinstance(expected, Mapping):
        if not isinstance(found, Mapping):
            return [f"{where}: expected an object, found {found!r}"]
        return [
            text
            for key, value in expected.items()
            for text in (
                differences(value, found[key], f"{where}.{key}")
                if key in found
                else [f"{where}.{key}: expected {value!r}, found nothing"]
            )
        ]
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return [f"{where}: expected {expected!r}, found {found!r}"]
        pairs = enumerate(zip(expected, found, strict=True))
        return [t for i, (e, f) in pairs for t in differences(e, f, f"{where}[{i}]")]
    return [] if _same(expected, found) else [f"{where}: expected {expected!r}, found {found!r}"]


def _same(expected: Any, found: Any) -> bool:
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found
    if isinstance(expected, int | float) and isinstance(found, int | float):
        if math.isnan(expected):
            return math.isnan(found)
        return math.isclose(expected, found, rel_tol=1e-6, abs_tol=1e-6)
    return bool(expected == found)


def _text_differences(expect: Mapping[str, Any], key: str, text: str) -> list[str]:
    return [
        f"expected text {part!r}, found {text!r}"
        for part in expect.get(key, [])
        if part not in text
    ]


# gRPC and REST cases


def run_grpc_case(case: Mapping[str, Any], server: RunningServer) -> list[str]:
    rpc = case["request"]["rpc"].rsplit("/", 1)[1]
    request = json_format.ParseDict(case["request"]["message"], REQUESTS[rpc]())
    return _grpc_differences(server, rpc, request, case["expect"])


def _grpc_differences(
    server: RunningServer,
    rpc: str,
    request: Any,
    expect: Mapping[str, Any],
    timeout: float | None = 60,
) -> list[str]:
    try:
        response = server.call(rpc, request, timeout)
    except grpc.RpcError as error:
        code, text = error.code().name, error.details() or ""
        if code != expect["code"]:
            return [f"expected {expect['code']}, found {code}: {text}"]
        return _text_differences(expect, "message_contains", text)
    if expect["code"] != "OK":
        return [f"expected {expect['code']}, found OK: {response}"]
    found = json_format.MessageToDict(response, preserving_proto_field_name=True)
    expected = expect.get("response", {})
    problems = differences(expected, found)
    if "only the filtered" in str(expect.get("note", "")):
        problems += differences(sorted(expected["outputs"]), sorted(found["outputs"]))
    return problems


def run_rest_case(case: Mapping[str, Any], server: RunningServer) -> list[str]:
    request, expect = case["request"], case["expect"]
    body = request.get("body", "").encode()
    if case.get("encode") == "gzip":
        body = gzip.compress(body)
    return _rest_differences(
        server, request["method"], request["path"], body, expect, case.get("headers_in", {})
    )


def _rest_differences(
    server: RunningServer,
    method: str,
    path: str,
    body: bytes,
    expect: Mapping[str, Any],
    headers: Mapping[str, str],
) -> list[str]:
    url = httpx.URL(f"http://127.0.0.1:{server.rest_port}").copy_with(raw_path=path.encode())
    answer = server.http.request(method, url, content=body, headers=dict(headers))
    text = answer.text
    problems = []
    if answer.status_code != expect["status"]:
        problems.append(f"expected {expect['status']}, found {answer.status_code}: {text[:300]}")
    if "json" in expect and not problems:
        problems += differences(expect["json"], json.loads(text))
    if "error_contains" in expect and not problems:
        problems += _text_differences(expect, "error_contains", json.loads(text)["error"])
    problems += _text_differences(expect, "text_contains", text)
    if expect.get("body_empty") and text:
        problems.append(f"expected an empty body, found {text!r}")
    for name, value in expect.get("headers", {}).items():
        if answer.headers.get(name) != value:
            problems.append(f"header {name}: expected {value!r}, found {answer.headers.get(name)}")
    refused = expect.get("content_type_not")
    if refused and answer.headers.get("Content-Type") == refused:
        problems.append(f"Content-Type: found {refused}")
    return problems


# Lifecycle cases: steps


class NotRunnableError(Exception):
    """A case that has no general description (`runner: custom` or a note in place of a step)."""


class StepRunner:
    """One lifecycle case in a folder of its own ($M)."""

    def __init__(self, case: Mapping[str, Any], fixtures: Path, work: Path) -> None:
        self.case = case
        self.fixtures = fixtures
        self.models = work / "models"
        self.models.mkdir(parents=True, exist_ok=True)
        self.work = work
        self.server: RunningServer | None = None
        self.problems: list[str] = []

    def run(self) -> list[str]:
        try:
            for number, step in enumerate(self.case["steps"]):
                do: Callable[[Mapping[str, Any]], list[str]] = getattr(self, "do_" + step["op"])
                found = do(json.loads(json.dumps(step).replace("$M", str(self.models))))
                self.problems += [f"step {number} {step['op']}: {text}" for text in found]
        finally:
            if self.server is not None:
                self.server.stop()
        return self.problems

    @property
    def running(self) -> RunningServer:
        assert self.server is not None
        return self.server

    # Files

    def do_publish(self, step: Mapping[str, Any]) -> list[str]:
        target = Path(step["to"])
        target.parent.mkdir(parents=True, exist_ok=True)
        half = target.parent / f"{target.name}.tmp"
        shutil.copytree(self.fixtures / step["from"], half)
        half.rename(target)
        return []

    def do_replace(self, step: Mapping[str, Any]) -> list[str]:
        target = Path(step["to"])
        for item in sorted((self.fixtures / step["from"]).rglob("*")):
            copy = target / item.relative_to(self.fixtures / step["from"])
            if item.is_dir():
                copy.mkdir(exist_ok=True)
            else:
                shutil.copy(item, copy)
        return []

    def do_publish_with_bad_warmup(self, step: Mapping[str, Any]) -> list[str]:
        target = Path(step["to"])
        half = target.parent / f"{target.name}.tmp"
        shutil.copytree(self.fixtures / step["from"], half)
        (half / "assets.extra").mkdir()
        (half / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"no TFRecord at all")
        half.rename(target)
        return []

    def do_delete(self, step: Mapping[str, Any]) -> list[str]:
        gone = Path(step["path"])
        aside = gone.parent / f"{gone.name}.gone{time.monotonic_ns()}"
        gone.rename(aside)
        shutil.rmtree(aside)
        return []

    def do_mkdir(self, step: Mapping[str, Any]) -> list[str]:
        Path(step["path"]).mkdir(parents=True)
        return []

    def do_note(self, step: Mapping[str, Any]) -> list[str]:
        text = step["text"]
        if "b.txt:" in text:
            (self.models / "b.txt").write_text(text.split("b.txt:")[1])
            return []
        if "ReloadConfigRequest.metric_names" in text:
            return self._check_reload_metrics()
        if "Predict over unix" in text:
            return self._check_unix_socket()
        raise NotRunnableError(text)

    # Server

    def do_start_server(self, step: Mapping[str, Any]) -> list[str]:
        flags = list(step.get("flags", []))
        config = step.get("config_text") or step.get("config_file") or step.get("config")
        if config:
            text = config if isinstance(config, str) else _config_text(config)
            (self.work / "models.config").write_text(text)
            flags.append(f"--model_config_file={self.work / 'models.config'}")
        if any("mon.cfg" in flag for flag in flags):
            (self.models / "mon.cfg").write_text("prometheus_config { enable: true }")
        self.server = RunningServer(flags=flags, log=self.work / "server.log").start()
        if step.get("expect_exit"):
            return self._expect_exit(step)
        if step.get("wait_ready", True):
            self.server.wait_ready()
            if isinstance(config, dict):
                self._wait_specific(config)
        return []

    def _expect_exit(self, step: Mapping[str, Any]) -> list[str]:
        assert self.running.process is not None
        code = self.running.process.wait(30)
        problems = [] if code else ["expected a failing exit, found 0"]
        problems += _text_differences(step, "stdout_contains", self.running.log.read_text())
        return problems + _text_differences(step, "stderr_contains", self.running.said())

    def _wait_specific(self, config: Mapping[str, Any]) -> None:
        """Ports open with the first version of a name; the cases mean all that are there."""
        for model in config["model_config_list"].get("config", []):
            policy = model.get("model_version_policy", {})
            for version in policy.get("specific", {}).get("versions", []):
                if Path(model["base_path"], str(version)).is_dir():
                    self.running.wait_until(
                        lambda name=model["name"], version=version: (
                            _state(self.running, name, version) == _AVAILABLE
                        )
                    )

    def do_reload(self, step: Mapping[str, Any]) -> list[str]:
        request = protos.model_management.ReloadConfigRequest()
        json_format.ParseDict(step["config"], request.config)
        timeout = step.get("deadline_s", 60)
        return _grpc_differences(
            self.running, "HandleReloadConfigRequest", request, step["expect"], timeout
        )

    def do_rewrite_config_file(self, step: Mapping[str, Any]) -> list[str]:
        text = step["text"] if "text" in step else _config_text(step["config"])
        half = self.work / "models.config.tmp"
        half.write_text(text)
        half.rename(self.work / "models.config")
        return []

    # Looking

    def do_predict(self, step: Mapping[str, Any]) -> list[str]:
        request = predict_request(step["spec"].get("name", ""), (step["x"],))
        json_format.ParseDict(step["spec"], request.model_spec)
        expect = step["expect"]
        if "code" in expect:
            return _grpc_differences(self.running, "Predict", request, expect)
        wanted = {"code": "OK", "response": {"outputs": {"y": {"float_val": [expect["y"]]}}}}
        return _grpc_differences(self.running, "Predict", request, wanted)

    def do_predict_raw(self, step: Mapping[str, Any]) -> list[str]:
        request = predict_request("m")
        note = step["note"]
        if "rank-0" in note:
            request.inputs["x"].CopyFrom(protos.TensorProto(dtype=1, float_val=[2.0]))
        elif "shape [5]" in note:
            request.inputs["x"].CopyFrom(float_tensor([1.0] * 5))
        elif "4,000,000" in note:
            request.inputs["x"].CopyFrom(float_tensor([1.0] * 4_000_000))
        else:
            raise NotRunnableError(note)
        return _grpc_differences(self.running, "Predict", request, step["expect"])

    def do_wait_state(self, step: Mapping[str, Any]) -> list[str]:
        deadline = time.monotonic() + step["within_s"]
        state = protos.model_status.ModelVersionStatus.State.Value(step["state"])
        found = None
        while True:
            found = _state(self.running, step["model"], step["version"])
            if found is not None and found[0] == state and _code_fits(step["error_code"], found[1]):
                return []
            if time.monotonic() > deadline:
                return [f"expected {step['state']}/{step['error_code']}, found {found}"]
            time.sleep(0.05)

    def do_status(self, step: Mapping[str, Any]) -> list[str]:
        request = protos.model_status.GetModelStatusRequest()
        request.model_spec.name = step["model"]
        rows = self.running.call("GetModelStatus", request).model_version_status
        states = protos.model_status.ModelVersionStatus.State
        found = [[row.version, states.Name(row.state)] for row in rows]
        problems = []
        if "expect_versions" in step and found != step["expect_versions"]:
            problems.append(f"expected {step['expect_versions']}, found {found}")
        versions = {version for version, _ in found}
        return problems + [
            f"expected no version {v}" for v in step.get("absent", []) if v in versions
        ]

    def do_status_version(self, step: Mapping[str, Any]) -> list[str]:
        request = protos.model_status.GetModelStatusRequest()
        request.model_spec.name = step["model"]
        request.model_spec.version.value = step["version"]
        return _grpc_differences(self.running, "GetModelStatus", request, step["expect"])

    def do_sleep(self, step: Mapping[str, Any]) -> list[str]:
        time.sleep(step["s"])
        return []

    def do_rest(self, step: Mapping[str, Any]) -> list[str]:
        body = step.get("body", "").encode()
        return _rest_differences(
            self.running, step["method"], step["path"], body, step["expect"], {}
        )

    def do_metrics(self, step: Mapping[str, Any]) -> list[str]:
        answer = self.running.http.get(step["path"])
        problems = differences(step["status"], answer.status_code, "status")
        if "content_type" in step and step["content_type"] not in answer.headers["Content-Type"]:
            problems.append(f"Content-Type: found {answer.headers['Content-Type']}")
        return problems + _text_differences(step, "contains", answer.text)

    def _check_reload_metrics(self) -> list[str]:
        name = "/tensorflow/cc/saved_model/load_attempt_count"
        request = protos.model_management.ReloadConfigRequest(metric_names=[name])
        request.config.model_config_list.SetInParent()
        response = self.running.call("HandleReloadConfigRequest", request)
        return differences([name], [metric.name for metric in response.metric])

    def _check_unix_socket(self) -> list[str]:
        service, response = SERVICES["Predict"]
        with grpc.insecure_channel(f"unix:{self.models}/s.sock") as channel:
            predict = channel.unary_unary(
                f"/tensorflow.serving.{service}/Predict",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=response.FromString,
            )
            answer = predict(predict_request("m"), timeout=20)
        return differences([3.0], list(answer.outputs["y"].float_val))


def _code_fits(expected: str, found: int) -> bool:
    return found != 0 if expected == "*" else Code[expected] == found


def _config_text(config: Mapping[str, Any]) -> str:
    message = json_format.ParseDict(dict(config), protos.server_config.ModelServerConfig())
    return str(text_format.MessageToString(message))


def cases_folder() -> Path | None:
    folder = os.environ.get("HEADRACE_TFSERVING_CASES")
    return Path(folder) if folder else None
