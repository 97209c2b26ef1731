"""The Kubernetes API by its REST, for the few calls that a rollout needs: JSON in, JSON out.

The standard library alone: loading the client package costs more than a second of each renewal.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from tasks.contracts.errors import BadRequestError, StoreUnavailableError, bounded

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CONNECT_SECONDS, ANSWER_SECONDS = 2.0, 5.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024  # an object is 1 MiB at most
UNAUTHORIZED, GONE = (
    401,
    410,
)  # a token is read anew at each call; a list is older than the API keeps
_TRANSIENT = frozenset({UNAUTHORIZED, 408, 429, 500, 502, 503, 504})


class ApiAwayError(StoreUnavailableError):
    """The API gave no useful answer; a retry may help."""


class GoneError(Exception):
    """The API keeps no changes since that version any more: list anew."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the API said: the HTTP status and the object."""

    status: int
    body: Mapping[str, Any]

    @property
    def words(self) -> str:
        """Return the API's own sentence."""
        return bounded(str(self.body.get("message") or self.body.get("reason") or ""), 300)


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where an API server listens and how we say who we are."""

    url: str
    tls: ssl.SSLContext | None = None
    token_file: Path | None = None  # read at each call: kubelet replaces it
    token: str | None = None


@dataclass(frozen=True, kw_only=True)
class KubeApi:
    """Calls with bounded patience; one connection a call."""

    server: Server

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """Send a call once; an answer that a retry may better is an `ApiAwayError`."""
        try:
            with contextlib.closing(self._connect(ANSWER_SECONDS)) as connection:
                response = self._send(connection, method, path, body)
                data = response.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise self._away(f"{method} {path}", repr(error)) from error
        answer = Answer(status=response.status, body=_parsed(data))
        if answer.status in _TRANSIENT:
            raise self._away(f"{method} {path}", f"{answer.status} {answer.words}")
        return answer

    def watch(
        self, path: str, query: Mapping[str, str], seconds: float
    ) -> Iterator[Mapping[str, Any]]:
        """Yield events until the API ends the watch, after `seconds` at the latest.

        Raises GoneError where changes since `resourceVersion` are no longer kept, and ApiAwayError
        where the stream breaks off.
        """
        words = {**query, "watch": "1", "timeoutSeconds": str(max(1, int(seconds)))}
        where = f"{path}?{urlencode(words)}"
        try:
            with contextlib.closing(self._connect(seconds + ANSWER_SECONDS)) as connection:
                response = self._send(connection, "GET", where, None)
                if response.status != http.client.OK:
                    self._demand_watch(where, response)
                while line := response.readline(MAX_ANSWER_BYTES):
                    yield _event(line)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._away(f"GET {where}", repr(error)) from error

    def _demand_watch(self, where: str, response: http.client.HTTPResponse) -> None:
        answer = Answer(status=response.status, body=_parsed(response.read(MAX_ANSWER_BYTES)))
        if answer.status == GONE:
            raise GoneError
        raise self._away(f"GET {where}", f"{answer.status} {answer.words}")

    def _connect(self, seconds: float) -> http.client.HTTPConnection:
        found = urlsplit(self.server.url)
        host, port = found.hostname or "", found.port
        if self.server.tls is None:
            connection = http.client.HTTPConnection(host, port, timeout=CONNECT_SECONDS)
        else:
            connection = http.client.HTTPSConnection(
                host, port, timeout=CONNECT_SECONDS, context=self.server.tls
            )
        try:
            connection.connect()
            _keep_alive(connection.sock)
            connection.sock.settimeout(seconds)
        except BaseException:
            connection.close()
            raise
        return connection

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
    ) -> http.client.HTTPResponse:
        headers = {"Accept": "application/json"}
        token = self.server.token
        if self.server.token_file is not None:
            token = self.server.token_file.read_text(encoding="ascii").strip()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, urlsplit(self.server.url).path + path, data, headers)
        return connection.getresponse()

    def _away(self, what: str, found: str) -> ApiAwayError:
        message = (
            f"Kubernetes API {self.server.url}: {what}: expected an answer, found "
            f"{bounded(found, 300)}; it is tried again"
        )
        return ApiAwayError(message)


def _keep_alive(sock: socket.socket) -> None:
    """Notice within seconds that the other side of a quiet watch is gone without a word."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:  # a proxy's page
        return {"message": data[:200].decode(errors="replace")}
    return value if isinstance(value, dict) else {}


def _event(line: bytes) -> Mapping[str, Any]:
    event: Mapping[str, Any] = json.loads(line)
    if event.get("type") != "ERROR":
        return event
    told = event.get("object") or {}
    if told.get("code") == GONE:
        raise GoneError
    message = f"the watch ended: {told.get('code')} {told.get('message')}"
    raise http.client.HTTPException(message)


# Where the API is


def find_server(environment: Mapping[str, str]) -> Server:
    """Return KUBECONFIG's server, or that of the cluster this pod runs in."""
    if environment.get("KUBECONFIG"):
        return _from_kubeconfig(Path(environment["KUBECONFIG"]))
    host = environment.get("KUBERNETES_SERVICE_HOST")
    if not host:
        message = (
            "Kubernetes API: expected KUBECONFIG or a pod's own KUBERNETES_SERVICE_HOST, found "
            "neither; HEADRACE_ROLLOUT_STATE=configmap://... needs a cluster"
        )
        raise BadRequestError(message)
    token = SERVICE_ACCOUNT / "token"
    if not token.is_file():
        message = (
            f"Kubernetes API: expected a service account's token at {token}, found none; set "
            "automountServiceAccountToken for this pod"
        )
        raise BadRequestError(message)
    name = f"[{host}]" if ":" in host else host
    return Server(
        url=f"https://{name}:{environment.get('KUBERNETES_SERVICE_PORT', '443')}",
        tls=ssl.create_default_context(cafile=str(SERVICE_ACCOUNT / "ca.crt")),
        token_file=token,
    )


def _from_kubeconfig(path: Path) -> Server:
    import yaml  # type: ignore[import-untyped]  # noqa: PLC0415  only outside of pods

    try:
        record: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        current = _named(record["contexts"], record["current-context"])["context"]
        cluster = _named(record["clusters"], current["cluster"])["cluster"]
        user = _named(record["users"], current["user"])["user"] or {}
        url = str(cluster["server"])
    except (OSError, yaml.YAMLError, LookupError, TypeError) as error:
        message = f"KUBECONFIG {path}: expected a current context with cluster and user: {error!r}"
        raise BadRequestError(message) from error
    if "exec" in user or "auth-provider" in user:
        message = f"KUBECONFIG {path}: expected a token or a client certificate, found a plugin"
        raise BadRequestError(message)
    folder = path.parent
    token = user.get("token")
    token_file = user.get("tokenFile")
    return Server(
        url=url.rstrip("/"),
        tls=_tls(cluster, user, folder) if url.startswith("https:") else None,
        token=None if token is None else str(token),
        token_file=None if token_file is None else folder / token_file,
    )


def _named(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(row for row in rows if row["name"] == name)


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], folder: Path) -> ssl.SSLContext:
    authority = _pem(cluster, "certificate-authority", folder)
    context = ssl.create_default_context(cadata=None if authority is None else authority.decode())
    certificate, key = _pem(user, "client-certificate", folder), _pem(user, "client-key", folder)
    if certificate is not None and key is not None:
        with tempfile.TemporaryDirectory() as scratch:  # owner-only; Python loads files alone
            pair = Path(scratch) / "pair.pem"
            pair.touch(mode=0o600)
            pair.write_bytes(certificate + b"\n" + key)
            context.load_cert_chain(pair)
    return context


def _pem(record: Mapping[str, Any], name: str, folder: Path) -> bytes | None:
    if f"{name}-data" in record:
        return base64.b64decode(record[f"{name}-data"])
    return (folder / record[name]).read_bytes() if name in record else None


def the_api(environment: Mapping[str, str] = os.environ) -> KubeApi:
    """Return the API of this process's cluster."""
    return KubeApi(server=find_server(environment))
