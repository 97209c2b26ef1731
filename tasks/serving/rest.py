"""The REST surface as a function: method, path, headers and body in, one answer out.

Paths and order of checks follow model_servers/http_rest_api_{util,handler}.cc.
"""

from __future__ import annotations

import gzip
import re
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from google.protobuf import json_format

from tasks.serving import json_write, protos
from tasks.serving.inference import classify, regress
from tasks.serving.json_examples import read_examples
from tasks.serving.json_parse import parse_json
from tasks.serving.json_tensors import Layout, read_inputs, signature_name
from tasks.serving.metadata import SIGNATURE_DEF, get_model_metadata, get_model_status
from tasks.serving.metrics import Metrics
from tasks.serving.predict import DEFAULT_SIGNATURE, predict
from tasks.serving.server_core import ServerCore
from tasks.serving.status import Code, ServingError, http_status, invalid_argument

MAX_INFLATED_BYTES = 100 << 20  # util/net_http/server/internal/evhttp_request.cc
_API = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)
_CALL = re.compile(
    r"/v1/models/([^/:]+)(?:/versions/([0-9]+)|/labels/([^/:]+))?:(classify|regress|predict)",
    re.IGNORECASE,
)
_LOOK = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:/versions/([0-9]+)|/labels/([^/:]+))?(?:/(metadata))?",
    re.IGNORECASE,
)
_ORIGIN = re.compile(r"https?://")
_JSON_HEADERS = {"Content-Type": "application/json"}
_CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
_NOT_FOUND_PAGE = b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One HTTP answer; `model` and `method` say what it was about, for counting."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    code: Code = Code.OK
    model: str = ""
    method: str = ""


@dataclass(frozen=True, kw_only=True)
class RestOptions:
    """Time limit of one session run in ms (0: none), CORS headers, and what to count into."""

    timeout_ms: int = 30_000
    cors: bool = False
    metrics: Metrics | None = None
    metrics_path: str | None = None


class _EmptyRefusalError(Exception):
    """A path whose version is no int64: 400 with an empty body."""


@dataclass(frozen=True, kw_only=True)
class _Target:
    name: str
    version: int | None
    label: str | None
    action: str  # classify, regress, predict, metadata or status

    @property
    def called(self) -> str:
        """Return the method for counting; a look at status or metadata has none."""
        return self.action if self.action not in ("status", "metadata") else ""

    def spec(self) -> Any:
        """Return the ModelSpec."""
        spec = protos.model.ModelSpec(name=self.name)
        if self.version is not None:
            spec.version.value = self.version
        elif self.label is not None:
            spec.version_label = self.label
        return spec


class RestApi:
    """Answers REST requests from the models of one core."""

    def __init__(self, core: ServerCore, options: RestOptions) -> None:
        self._core = core
        self._options = options

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Return the answer to one request; `path` is raw and includes the query string."""
        if path == self._options.metrics_path and self._options.metrics is not None:
            page = self._options.metrics.page()
            return Answer(status=200, body=page, headers={"Content-Type": "text/plain"})
        if _API.fullmatch(path) is None:
            return Answer(status=404, body=_NOT_FOUND_PAGE, headers={"Content-Type": "text/html"})
        start = time.monotonic()
        answer = self._answer_api(method, path, headers, body)
        if self._options.metrics is not None:
            microseconds = (time.monotonic() - start) * 1e6
            self._options.metrics.answered(
                answer.model, answer.method, "REST", answer.code, microseconds
            )
        return answer

    def _answer_api(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        extra = _CORS_HEADERS if self._options.cors else {}
        if method == "OPTIONS":
            allowed = _ORIGIN.search(headers.get("Origin", "")) is not None
            return Answer(status=200 if allowed else 400, headers=extra)
        try:
            answer = self._answer_json(method, path, headers, body)
        except _EmptyRefusalError:
            answer = Answer(status=400, headers=_JSON_HEADERS, code=Code.INVALID_ARGUMENT)
        return _with_headers(answer, extra) if extra else answer

    def _answer_json(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        target = None
        try:
            target = _parse_path(method, path)
            content = self._run(target, _inflated(headers, body))
        except ServingError as error:
            return Answer(
                status=http_status(error.code),
                body=json_write.error_body(error.message),
                headers=_JSON_HEADERS,
                code=error.code,
                model=target.name if target else "",
                method=target.called if target else "",
            )
        return Answer(
            status=200,
            body=content,
            headers=_JSON_HEADERS,
            model=target.name,
            method=target.called,
        )

    def _run(self, target: _Target, body: bytes) -> bytes:
        match target.action:
            case "predict":
                return self._predict(target, body)
            case "status":
                return self._status(target)
            case "metadata":
                return self._metadata(target)
            case "classify":
                return self._classify(target, body)
            case _:
                return self._regress(target, body)

    def _predict(self, target: _Target, body: bytes) -> bytes:
        parsed = parse_json(body)
        name = signature_name(parsed)
        with self._core.borrow(target.spec()) as served:
            signature = served.session.signatures.get(name or DEFAULT_SIGNATURE)
            if signature is None:
                raise invalid_argument(
                    f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in '
                    "signature def"
                )
            if not signature.inputs:
                asked = name or "DEFAULT"
                raise invalid_argument(f"Failed to get input map for signature: {asked}")
            layout, inputs = read_inputs(parsed, signature.inputs)
            start = time.monotonic()
            outputs = predict(served.session, name, inputs, timeout_ms=self._options.timeout_ms)
            if self._options.metrics is not None:
                microseconds = (time.monotonic() - start) * 1e6
                self._options.metrics.ran(target.name, "Predict", microseconds)
        if not outputs:
            message = "Cannot convert empty tensor map to JSON"
            raise invalid_argument(message)
        write = json_write.row_body if layout is Layout.ROW else json_write.columnar_body
        return write(outputs)

    def _classify(self, target: _Target, body: bytes) -> bytes:
        request = protos.classification.ClassificationRequest(model_spec=target.spec())
        _fill_examples(request, body)
        with self._core.borrow(request.model_spec) as served:
            result = classify(served.session, request, self._options.timeout_ms)
        return json_write.classification_body(result)

    def _regress(self, target: _Target, body: bytes) -> bytes:
        request = protos.regression.RegressionRequest(model_spec=target.spec())
        _fill_examples(request, body)
        with self._core.borrow(request.model_spec) as served:
            result = regress(served.session, request, self._options.timeout_ms)
        return json_write.regression_body(result)

    def _status(self, target: _Target) -> bytes:
        _check_named(target)
        request = protos.model_status.GetModelStatusRequest(model_spec=target.spec())
        return _proto_json(get_model_status(self._core, request)).encode() + b"\n"

    def _metadata(self, target: _Target) -> bytes:
        _check_named(target)
        request = protos.model_metadata.GetModelMetadataRequest(
            model_spec=target.spec(), metadata_field=[SIGNATURE_DEF]
        )
        response = get_model_metadata(self._core, request)
        signatures = protos.model_metadata.SignatureDefMap()
        response.metadata[SIGNATURE_DEF].Unpack(signatures)
        return (
            f'{{\n"model_spec":{_proto_json(response.model_spec)}\n,\n"metadata": '
            f'{{"signature_def": {_proto_json(signatures)}\n}}\n}}\n'
        ).encode()


def _fill_examples(request: Any, body: bytes) -> None:
    parsed = parse_json(body)
    request.model_spec.signature_name = signature_name(parsed)
    read_examples(parsed, request.input)


def _with_headers(answer: Answer, extra: Mapping[str, str]) -> Answer:
    return Answer(
        status=answer.status,
        body=answer.body,
        headers={**answer.headers, **extra},
        code=answer.code,
        model=answer.model,
        method=answer.method,
    )


def _check_named(target: _Target) -> None:
    if not target.name:
        message = "Missing model name in request."
        raise invalid_argument(message)


def _proto_json(message: Any) -> str:
    return json_format.MessageToJson(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        indent=1,
    )


def _parse_path(method: str, path: str) -> _Target:
    pattern = {"POST": _CALL, "GET": _LOOK}.get(method)
    match = pattern.fullmatch(path) if pattern else None
    if match is None:
        raise invalid_argument(f"Malformed request: {method} {path}")
    name, version, label, action = match.groups()
    number = int(version) if version else None
    if number is not None and number >= 1 << 63:
        raise _EmptyRefusalError
    if method == "POST" and action not in ("classify", "regress", "predict"):
        raise invalid_argument(f"Malformed request: {method} {path}")  # the verb's case counts
    if method == "GET":
        action = "metadata" if action == "metadata" else "status"
    return _Target(
        name=_unescaped(name or ""),
        version=number,
        label=_unescaped(label) if label else None,
        action=action,
    )


def _unescaped(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "replace")


def _inflated(headers: Mapping[str, str], body: bytes) -> bytes:
    if "gzip" not in headers.get("Content-Encoding", ""):
        return body
    try:
        inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        content = inflater.decompress(body, MAX_INFLATED_BYTES)
    except (zlib.error, gzip.BadGzipFile) as error:
        raise invalid_argument(f"Failed to inflate the gzip request body: {error}") from error
    if inflater.unconsumed_tail:
        raise invalid_argument(f"The request body inflates to more than {MAX_INFLATED_BYTES} bytes")
    return content
