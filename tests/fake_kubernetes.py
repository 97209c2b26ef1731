"""A small Kubernetes API server on loopback: pods, their logs, uid preconditions, and faults on demand."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_PODS = re.compile(r"/api/v1/namespaces/([a-z0-9-]+)/pods(?:/([a-z0-9-]+))?(/log)?(?:\?(.*))?")
Fault = Callable[[str, str], tuple[int, dict[str, Any], dict[str, str]] | None]


def status(
    code: int, reason: str, *, kind: str = "pods", message: str = "as told"
) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
        "details": {"kind": kind},
    }


def node(name: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    allocatable = {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "1"}
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {},
        "status": {"allocatable": allocatable},
    }


class FakeKubernetes:
    """Pods by name; `faults` may answer in its place, `asked` is what was asked."""

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.services: dict[str, dict[str, Any]] = {}
        self.nodes: list[dict[str, Any]] = [node("large")]
        self.logs: dict[str, str] = {}
        self.asked: list[str] = []
        self.created: list[dict[str, Any]] = []
        self.fault: Fault = lambda method, path: None
        self.on_create: Callable[[dict[str, Any]], None] = lambda pod: None
        self.lock = threading.RLock()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any, dict[str, str]]:
        with self.lock:
            self.asked.append(f"{method} {path}")
            told = self.fault(method, path)
            if told is not None:
                return told
            if path.partition("?")[0] == "/api/v1/nodes":
                return 200, {"kind": "NodeList", "apiVersion": "v1", "items": self.nodes}, {}
            if method == "POST" and path.endswith("/services"):
                return self._create_service(body)
            found = _PODS.fullmatch(path)
            if found is None:
                return 404, status(404, "NotFound", kind="paths"), {}
            namespace, name, log, query = found.groups()
            if method == "POST":
                return self._create(namespace, body)
            if name is None:
                return (
                    200,
                    {"kind": "PodList", "apiVersion": "v1", "items": self._listed(query)},
                    {},
                )
            pod = self.pods.get(name)
            if pod is None:
                return 404, status(404, "NotFound", message=f'pods "{name}" not found'), {}
            if log:
                return 200, self.logs.get(name, ""), {}
            if method == "DELETE":
                return self._delete(name, pod, body or {})
            return 200, pod, {}

    def _listed(self, query: str | None) -> list[dict[str, Any]]:
        selector = dict(part.split("=", 1) for part in (query or "").split("&") if "=" in part)
        wanted = selector.get("labelSelector", "").replace("%3D", "=").replace("%2F", "/")
        pairs = [one.split("=") for one in wanted.split(",") if one]
        return [
            pod
            for pod in self.pods.values()
            if all((pod["metadata"].get("labels") or {}).get(k) == v for k, v in pairs)
        ]

    def _create(self, namespace: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        name = body["metadata"]["name"]
        if name in self.pods:
            return 409, status(409, "AlreadyExists", message=f'pods "{name}" already exists'), {}
        metadata = {
            **body["metadata"],
            "namespace": namespace,
            "uid": str(uuid.uuid4()),
            "creationTimestamp": datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        pod = {**body, "metadata": metadata, "status": {"phase": "Pending"}}
        self.pods[name] = pod
        self.created.append(pod)
        self.on_create(pod)
        return 201, pod, {}

    def _create_service(self, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        name = body["metadata"]["name"]
        if name in self.services:
            return 409, status(409, "AlreadyExists", kind="services"), {}
        self.services[name] = body
        return 201, body, {}

    def _delete(
        self, name: str, pod: dict[str, Any], options: Any
    ) -> tuple[int, Any, dict[str, str]]:
        wanted = (options.get("preconditions") or {}).get("uid")
        if wanted is not None and wanted != pod["metadata"]["uid"]:
            return 409, status(409, "Conflict", message="the UID in the precondition differs"), {}
        del self.pods[name]
        return 200, pod, {}

    def say(self, name: str, **new_status: Any) -> None:
        with self.lock:
            if name in self.pods:  # else it was deleted meanwhile
                self.pods[name]["status"] = new_status

    def end(self, name: str, exit_code: int, message: str) -> None:
        ended = {"exitCode": exit_code, "message": message, "reason": "Completed"}
        self.say(
            name,
            phase="Failed" if exit_code else "Succeeded",
            containerStatuses=[{"name": "base", "state": {"terminated": ended}}],
        )


@contextmanager
def serving(fake: FakeKubernetes, folder: Path) -> Iterator[Path]:
    """Serve the fake; yields a kubeconfig."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            code, answer, headers = fake.answer(self.command, self.path, body)
            if code == 0:  # hang up without a word
                self.close_connection = True
                return
            data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(code)
            kind = "text/plain" if isinstance(answer, str) else "application/json"
            for name, value in {
                "Content-Type": kind,
                "Content-Length": len(data),
                **headers,
            }.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = do_PATCH = _reply

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield kubeconfig(folder / "kubeconfig", f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def kubeconfig(path: Path, server: str) -> Path:
    """Write a kubeconfig that names a server without a secret."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "it", "cluster": {"server": server}}],
        "users": [{"name": "it", "user": {}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "current-context": "it",
    }
    path.write_text(json.dumps(config))
    return path


def eventually(look: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Return the first thing found that is true, or fail."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s in vain")
