"""REST client of TensorFlow Serving's protocol (httpx, no tensorflow): any conforming server."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from tasks.contracts.errors import HeadraceError, bounded

POLL_SECONDS = 0.1


class ServingRefusedError(HeadraceError):
    """The server answered with an error; `status` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ServingUnreachableError(HeadraceError):
    """Nobody listens, or the connection broke; a retry may help."""


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A row of the status answer."""

    version: int
    state: str
    error_code: str
    error_message: str

    @property
    def failed(self) -> bool:
        """Say whether loading this version failed."""
        return self.state == "END" and self.error_code != "OK"


class TfServingRest:
    """Speaks to one server, such as http://127.0.0.1:8501; keeps its connections open."""

    def __init__(self, base_url: str, *, timeout_seconds: float = 30.0) -> None:
        self.base_url = base_url.rstrip("/")
        self._http = httpx.Client(base_url=self.base_url, timeout=timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        signature: str = "",
        version: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send named column tensors (nested lists); return the outputs by name.

        A model with a single output comes back under the name `output`.
        """
        body: dict[str, Any] = {"inputs": dict(inputs)}
        if signature:
            body["signature_name"] = signature
        content = json.dumps(body).encode()
        path = f"{_model_path(model, version)}:predict"
        answer = self._ask("POST", path, content=content, headers=dict(headers or {}))
        outputs = answer["outputs"]
        return outputs if isinstance(outputs, dict) else {"output": outputs}

    def predict_bytes(self, model: str, body: bytes, *, version: int | None = None) -> bytes:
        """Send a body as it is, return the answer as it is: for measuring."""
        path = f"{_model_path(model, version)}:predict"
        return self._send("POST", path, content=body).content

    def status(self, model: str) -> list[ModelVersion]:
        """Return the versions that the server knows, newest first; empty: it knows none."""
        try:
            answer = self._ask("GET", _model_path(model, None))
        except ServingRefusedError as error:
            if error.status == httpx.codes.NOT_FOUND:
                return []
            raise
        return [
            ModelVersion(
                version=int(row["version"]),
                state=row["state"],
                error_code=row["status"]["error_code"],
                error_message=row["status"]["error_message"],
            )
            for row in answer["model_version_status"]
        ]

    def metadata(self, model: str, version: int | None = None) -> dict[str, Any]:
        """Return the signatures by name, as the server describes them."""
        answer = self._ask("GET", f"{_model_path(model, version)}/metadata")
        signatures: dict[str, Any] = answer["metadata"]["signature_def"]["signature_def"]
        return signatures

    def wait_available(self, model: str, version: int, seconds: float) -> ModelVersion | None:
        """Poll until the version is AVAILABLE or has failed; its last row, None: never seen."""
        deadline = time.monotonic() + seconds
        while True:
            row = self._row(model, version)
            settled = row is not None and (row.state == "AVAILABLE" or row.failed)
            if settled or time.monotonic() > deadline:
                return row
            time.sleep(POLL_SECONDS)

    def _row(self, model: str, version: int) -> ModelVersion | None:
        try:
            rows = self.status(model)
        except ServingUnreachableError:
            return None  # no open port: the server waits for its first version
        return next((row for row in rows if row.version == version), None)

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._send(method, path, **request).content)
        return answer

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **request)
        except httpx.TransportError as error:
            message = f"{self.base_url}{path}: expected an answer, found {error!r}"
            raise ServingUnreachableError(message) from error
        if response.status_code != httpx.codes.OK:
            found = bounded(response.text, 500)
            message = f"{self.base_url}{path}: expected 200, found {response.status_code}: {found}"
            raise ServingRefusedError(response.status_code, message)
        return response


def _model_path(model: str, version: int | None) -> str:
    return f"/v1/models/{model}" + ("" if version is None else f"/versions/{version}")
