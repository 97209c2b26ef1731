"""The one place that speaks to the Kubernetes API: bounded patience, every effect fenced by uid."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import urllib3
from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import Configuration, CoreV1Api, V1DeleteOptions, V1Preconditions
from kubernetes.client.exceptions import ApiException

from headrace_airflow.pod_news import CONTAINER
from tasks.contracts.errors import BadRequestError, bounded

Pod = dict[str, Any]  # a pod in the API's own words (camelCase)

ABSENT, TAKEN, UNAUTHORIZED, FORBIDDEN = 404, 409, 401, 403
REFUSED = frozenset({400, 413, 422})  # a pod that no retry makes acceptable
TRANSIENT = frozenset({None, 0, UNAUTHORIZED, 408, 429, 500, 502, 503, 504})
QUICK = (3.0, 8.0)  # seconds to connect and to be answered; a kill leaves us five
# The API's own JSON: the client's models refuse objects that newer or older servers may send.
RAW: Mapping[str, Any] = {"_request_timeout": QUICK, "_preload_content": False}
LOG_QUIET_SECONDS = 60.0  # a silent stage: open the log again
_OURS = frozenset({"pods", "services"})
MAX_NODES = 200  # a longer list is not looked through: it costs more than it tells
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
CLOCK_SKEW_SECONDS = 30.0  # between a node and us; lines read twice are dropped
_STAMPED = re.compile(r"(\S+?)(?:\.(\d+))?(Z|[+-]\d\d:\d\d) ?(.*)", re.DOTALL)


class ApiAwayError(AirflowException):
    """The API did not answer usefully for as long as we are willing to wait; a retry may help."""


class QuotaFullError(Exception):
    """The namespace's quota holds no more pods now: the pod waits outside the door."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long an API that fails is asked again, and when to stop asking at once."""

    seconds: float = 120.0
    pause: Callable[[float], None] = time.sleep  # raises when the task is asked to end


def cluster_hook() -> KubernetesHook:
    """Return the way to the pod's own cluster or KUBECONFIG's; it asks for no Airflow connection."""
    configuration = Configuration.get_default_copy()
    configuration.retries = False  # ours are bounded in time and end at once when we are asked to
    return KubernetesHook(
        conn_id=None,
        config_file=os.environ.get("KUBECONFIG") or None,
        client_configuration=configuration,
    )


def connect() -> CoreV1Api:
    """Return a client of the cluster."""
    return cluster_hook().core_v1_client


class SharedConnection:
    """One client for many threads: a connection for each of a thousand pods costs more than the looks."""

    def __init__(self, connected: Callable[[], CoreV1Api] = connect) -> None:
        self._connect = connected
        self._core: CoreV1Api | None = None
        self._lock = threading.Lock()

    def connected(self) -> CoreV1Api:
        """Return the client, made by whoever needs it first."""
        with self._lock:
            if self._core is None:
                self._core = self._connect()
            return self._core

    def forget(self, core: CoreV1Api) -> None:
        """Connect anew next time, unless somebody has done so already."""
        with self._lock:
            if self._core is core:
                self._core = None


def _forget_nothing(_core: CoreV1Api) -> None:
    """Share nothing: the client is its PodApi's own."""


class PodApi:
    """Pods of one namespace."""

    def __init__(
        self,
        namespace: str,
        patience: Patience,
        connected: Callable[[], CoreV1Api] = connect,
        forget: Callable[[CoreV1Api], None] = _forget_nothing,
    ) -> None:
        self.namespace = namespace
        self.patience = patience
        self._connected = connected
        self._forget = forget
        self._core: CoreV1Api | None = None

    def create(self, pod: Mapping[str, Any]) -> Pod | None:
        """Create the pod; None: the name is taken, by us before a crash or by a stranger."""
        try:
            made = self._asked(
                "create",
                lambda core: core.create_namespaced_pod(self.namespace, body=dict(pod), **RAW),
            )
        except ApiException as error:
            if error.status == TAKEN:
                return None
            raise self._refusal(error, str(pod["metadata"]["name"])) from error
        return dict(made)

    def create_service(self, service: Mapping[str, Any]) -> None:
        """Create the Service, unless an earlier try did."""
        try:
            self._asked(
                "create",
                lambda core: core.create_namespaced_service(
                    self.namespace, body=dict(service), **RAW
                ),
            )
        except ApiException as error:
            if error.status != TAKEN:
                raise self._refusal(error, str(service["metadata"]["name"])) from error

    def read(self, name: str) -> Pod | None:
        """Return the pod of that name; None only if the API itself says that there is none."""
        try:
            found = self._asked(
                "read",
                lambda core: core.read_namespaced_pod(name, self.namespace, **RAW),
            )
        except ApiException as error:
            if _no_such_pod(error):
                return None
            raise self._refusal(error, name) from error
        return dict(found)

    def read_own(self, name: str, uid: str) -> Pod | None:
        """Return the pod if it is still that very pod; another uid means that ours is gone."""
        pod = self.read(name)
        return pod if pod is not None and pod["metadata"]["uid"] == uid else None

    def delete_own(self, name: str, uid: str) -> None:
        """Ask for the end of that very pod; gone already, or replaced by another, is as good."""
        options = V1DeleteOptions(preconditions=V1Preconditions(uid=uid))
        try:
            self._asked(
                "delete",
                lambda core: core.delete_namespaced_pod(name, self.namespace, body=options, **RAW),
            )
        except ApiException as error:
            if error.status not in {ABSENT, TAKEN}:
                raise self._refusal(error, name) from error

    def labelled(self, selector: str) -> list[Pod]:
        """Return all pods with these labels."""
        try:
            found = self._asked(
                "list",
                lambda core: core.list_namespaced_pod(
                    self.namespace, label_selector=selector, **RAW
                ),
            )
        except ApiException as error:
            raise self._refusal(error, selector) from error
        return [dict(pod) for pod in found["items"]]

    def nodes(self) -> list[Pod] | None:
        """Return all nodes; None: we may not see them, or there are too many to look through."""
        try:
            found = self._asked("list", lambda core: core.list_node(limit=MAX_NODES, **RAW))
        except ApiException as error:
            if error.status == FORBIDDEN:
                return None
            raise self._refusal(error, "nodes") from error
        if (found.get("metadata") or {}).get("continue"):
            return None
        return [dict(node) for node in found["items"]]

    def log_lines(self, name: str, *, follow: bool, since: float | None) -> Iterator[str]:
        """Yield the stage's lines, each with its time in front; no retries: logs fail no task."""
        core = self._client()
        answer = core.read_namespaced_pod_log(
            name,
            self.namespace,
            container=CONTAINER,
            follow=follow,
            timestamps=True,
            **({} if since is None else {"since_seconds": max(1, int(since) + 1)}),
            _preload_content=False,
            _request_timeout=(QUICK[0], LOG_QUIET_SECONDS if follow else QUICK[1]),
        )
        rest = b""
        try:
            for piece in iter(lambda: answer.read1(65536), b""):  # what is there, at once
                *whole, rest = (rest + piece).split(b"\n")
                yield from (line.decode(errors="replace") for line in whole)
            if rest:
                yield rest.decode(errors="replace")
        finally:
            answer.release_conn()

    def _client(self) -> CoreV1Api:
        if self._core is None:
            self._core = self._connected()
        return self._core

    def _reconnect(self) -> None:
        """Read the credentials anew: they are short-lived."""
        if self._core is not None:
            self._forget(self._core)
        self._core = None

    def _asked(self, what: str, ask: Callable[[CoreV1Api], Any]) -> Any:
        deadline = time.monotonic() + self.patience.seconds
        pause = FIRST_PAUSE
        while True:
            try:
                return json.loads(ask(self._client()).data)
            except ApiException as error:
                if not _passes(error, what):
                    raise
                said: Exception = error
                if error.status == UNAUTHORIZED:
                    self._reconnect()
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                said = error
                self._reconnect()  # its address or certificate may be another one by now
            wait = max(pause, _asked_pause(said))
            if time.monotonic() + wait > deadline:
                message = (
                    f"Kubernetes API: expected an answer to {what} in namespace {self.namespace} "
                    f"within {self.patience.seconds:g} s, found: {said}; the pod, if any, goes on "
                    "and the next try takes it up"
                )
                raise ApiAwayError(bounded(message)) from said
            self.patience.pause(wait)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _refusal(self, error: ApiException, name: str) -> Exception:
        said = f"Kubernetes API: {name} in namespace {self.namespace}: "
        said += f"answered {error.status}: {_message(error)}"
        if error.status == FORBIDDEN and "exceeded quota" in said:
            return QuotaFullError(said)
        if error.status in REFUSED:
            return BadRequestError(said)
        return AirflowException(bounded(said))


@dataclass(frozen=True, kw_only=True)
class LogPlace:
    """How far a log has been read: lines of one nanosecond are told apart by their number."""

    stamp: str = ""
    lines: int = 0

    def seconds_ago(self, now: datetime) -> float | None:
        """Return how old the last line is at most, or None before the first one."""
        if not self.stamp:
            return None
        read = datetime.fromisoformat(self.stamp[:19]).replace(tzinfo=UTC)
        return max(0.0, (now - read).total_seconds()) + CLOCK_SKEW_SECONDS

    def after(self, stamp: str) -> LogPlace:
        """Return the place behind a line of that time."""
        same = stamp == self.stamp
        return LogPlace(stamp=stamp, lines=self.lines + 1 if same else 1)


def stamped(line: str) -> tuple[str, str]:
    """Split a line into its time, in a form that sorts, and its text."""
    found = _STAMPED.fullmatch(line)
    if found is None:
        return "", line
    seconds, fraction, _, text = found.groups()
    return f"{seconds}.{(fraction or '').ljust(9, '0')}", text


def unseen(lines: Iterator[str], place: LogPlace) -> Iterator[tuple[LogPlace, str]]:
    """Yield the lines behind `place`, each with the place behind it."""
    again = 0
    for line in lines:
        stamp, text = stamped(line)
        if stamp and stamp < place.stamp:
            continue
        if stamp and stamp == place.stamp and again < place.lines:
            again += 1
            continue
        again = place.lines + 1  # from here on every line is new
        place = place.after(stamp or place.stamp)
        yield place, text


def _passes(error: ApiException, what: str) -> bool:
    """Say whether asking again may help; a 404 or 409 counts only in the API's own words."""
    about = _status(error)
    if error.status == ABSENT:
        return about.get("reason") != "NotFound"
    if error.status == TAKEN:  # a conflict on something else, such as a quota's count, passes
        return what == "read" or (about.get("details") or {}).get("kind") not in _OURS
    return error.status in TRANSIENT


def _no_such_pod(error: ApiException) -> bool:
    return error.status == ABSENT and (_status(error).get("details") or {}).get("kind") == "pods"


def _message(error: ApiException) -> str:
    return bounded(str(_status(error).get("message") or error.reason or error), 600)


def _status(error: ApiException) -> Mapping[str, Any]:
    try:
        body = json.loads(error.body or "{}")
    except (TypeError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


def _asked_pause(error: Exception) -> float:
    headers = getattr(error, "headers", None) or {}
    try:
        return min(float(headers.get("Retry-After") or 0), LONGEST_PAUSE * 4)
    except ValueError:
        return 0.0
