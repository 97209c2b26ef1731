"""The Kubernetes API for the few calls of a rollout: the official client, JSON in, JSON out."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import urllib3
import yaml  # type: ignore[import-untyped]
from kubernetes.client import ApiClient, Configuration, CoreV1Api
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config
from kubernetes.watch import Watch

from tasks.adapters.api_answers import Answer, ApiAwayError, GoneError
from tasks.contracts.errors import BadRequestError, bounded

CONNECT_SECONDS, ANSWER_SECONDS = 2.0, 5.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024  # an object is 1 MiB at most
UNAUTHORIZED, GONE = 401, 410  # a token may have just been replaced; a list may be too old
_TRANSIENT = frozenset({UNAUTHORIZED, 408, 429, 500, 502, 503, 504})
# What the package raises for YAML that is no kubeconfig, and for files that it names and are not there.
NOT_A_CONFIGURATION = (OSError, TypeError, LookupError, AttributeError, ValueError)
# Notice within seconds that the other side of a quiet watch is gone without a word.
_KEEP_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


class KubeApi:
    """Calls with bounded patience, each sent once: who asks decides whether to ask again."""

    def __init__(self, server: Configuration) -> None:
        server.retries = False
        server.socket_options = [
            *urllib3.connection.HTTPConnection.default_socket_options,
            *_KEEP_ALIVE,
        ]
        self.server = server
        # A connection a call: one kept from the last may have been closed by what lies in between.
        self._client = ApiClient(server, header_name="Connection", header_value="close")

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """Send a call; an answer that a retry may better is an `ApiAwayError`."""
        try:
            answer = self._answer(method, path, body)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise self._away(f"{method} {path}", repr(error)) from error
        if answer.status in _TRANSIENT:
            raise self._away(f"{method} {path}", f"{answer.status} {answer.words}")
        return answer

    def _answer(self, method: str, path: str, body: Mapping[str, Any] | None) -> Answer:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        try:
            response = self._client.call_api(
                path,
                method,
                header_params=headers,
                body=None if body is None else dict(body),
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
            )
        except ApiException as refused:
            if not refused.status:  # no answer at all, such as a wrong certificate
                raise OSError(refused.reason) from refused
            return Answer(status=refused.status, body=_parsed(refused.body or ""))
        try:
            return Answer(status=response.status, body=_parsed(response.read(MAX_ANSWER_BYTES)))
        finally:
            response.release_conn()

    def watch_config_maps(
        self, namespace: str, fields: str, version: str, seconds: float
    ) -> Iterator[Mapping[str, Any]]:
        """Yield events of a namespace's ConfigMaps that a field selector lets through.

        The API ends the watch after `seconds` at the latest. Raises GoneError where changes since
        `version` are no longer kept, and ApiAwayError where the stream breaks off.
        """
        what = f"watch of ConfigMaps in namespace {namespace} ({fields})"
        try:
            for event in Watch(return_type="object").stream(
                CoreV1Api(self._client).list_namespaced_config_map,
                namespace,
                field_selector=fields,
                resource_version=version,
                allow_watch_bookmarks=True,
                timeout_seconds=max(1, int(seconds)),
                _request_timeout=(CONNECT_SECONDS, seconds + ANSWER_SECONDS),
            ):
                if event is None:  # a line that was cut off
                    raise self._away(what, "a line that is no event")
                yield event
        except ApiException as error:
            if error.status == GONE:
                raise GoneError from error
            raise self._away(what, f"{error.status} {error.reason}") from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise self._away(what, repr(error)) from error

    def _away(self, what: str, found: str) -> ApiAwayError:
        message = (
            f"Kubernetes API {self.server.host}: {what}: expected an answer, found "
            f"{bounded(found, 300)}; it is tried again"
        )
        return ApiAwayError(message)


def _parsed(data: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:  # a proxy's page
        return {"message": str(data[:200])}
    return value if isinstance(value, dict) else {}


def server_at(url: str, token: str | None = None) -> Configuration:
    """Return a server by its address and, where it asks for one, a bearer token."""
    server = Configuration()
    server.host = url
    if token is not None:
        server.api_key["BearerToken"] = f"Bearer {token}"
    return server


def find_server(environment: Mapping[str, str]) -> Configuration:
    """Return KUBECONFIG's server, or that of the cluster this pod runs in."""
    server = Configuration()
    named = environment.get("KUBECONFIG")
    try:
        if named:
            load_kube_config(config_file=named, client_configuration=server, persist_config=False)
        else:
            load_incluster_config(client_configuration=server)
    except (ConfigException, yaml.YAMLError, *NOT_A_CONFIGURATION) as error:
        found = f"KUBECONFIG {Path(named)}" if named else "no KUBECONFIG and no pod's own account"
        message = (
            f"Kubernetes API: HEADRACE_ROLLOUT_STATE=configmap://... needs a cluster, found {found}: "
            f"{bounded(' '.join(str(error).split()), 300)}; set KUBECONFIG, or automountServiceAccountToken for this pod"
        )
        raise BadRequestError(message) from error
    return server


def the_api(environment: Mapping[str, str] = os.environ) -> KubeApi:
    """Return the API of this process's cluster."""
    return KubeApi(find_server(environment))
