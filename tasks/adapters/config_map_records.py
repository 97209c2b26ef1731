"""State records in ConfigMaps: one a model, replaced only with the version that was read."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from tasks.adapters.api_answers import Answer, ApiAwayError
from tasks.contracts.errors import BadRequestError, StoreUnavailableError
from tasks.contracts.record_store import TextChange
from tasks.contracts.requests import MODEL_NAME

if TYPE_CHECKING:
    from tasks.adapters.kube_api import KubeApi

KEY = "state.json"
MODEL_LABEL = "headrace/model"
PREFIX = "headrace-rollout-"
PATIENCE_SECONDS = 30.0
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
_OK, _CREATED, _FORBIDDEN, _ABSENT, _CONFLICT = 200, 201, 403, 404, 409
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A ConfigMap as it was read: None is one that is not there."""

    body: Mapping[str, Any] | None = None

    @property
    def text(self) -> bytes | None:
        """Return the record, None where the ConfigMap holds none yet."""
        found = ((self.body or {}).get("data") or {}).get(KEY)
        return None if found is None else str(found).encode()

    @property
    def version(self) -> str:
        """Return the resource version."""
        return str((self.body or {}).get("metadata", {}).get("resourceVersion", ""))


def config_map_name(model: str) -> str:
    """Return the name of the ConfigMap that holds a model's record."""
    return f"{PREFIX}{model}"


def namespace_of(url: str) -> str:
    """Return the namespace that `configmap://NAMESPACE` names."""
    scheme, _, namespace = url.partition("://")
    if scheme != "configmap" or not _NAMESPACE.fullmatch(namespace):
        message = (
            "HEADRACE_ROLLOUT_STATE: expected configmap://NAMESPACE, or nothing for files below "
            f"HEADRACE_STATE, found {url!r:.120}"
        )
        raise BadRequestError(message)
    return namespace


@dataclass(frozen=True, kw_only=True)
class ConfigMapRecords:
    """The state records of one namespace.

    A lost race reads and decides again; so does an answer that got lost, since what asks may be
    repeated and then changes nothing. After `patience_seconds` it is a StoreUnavailableError.
    """

    api: KubeApi
    namespace: str
    names: tuple[str, ...] = ()  # the models; without them, those whose ConfigMap is labelled
    patience_seconds: float = PATIENCE_SECONDS
    monotonic: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    random: random.Random = field(default_factory=random.Random)

    def impatient(self) -> ConfigMapRecords:
        """Return the same for who asks again by itself: an API that is away is said at once."""
        return replace(self, patience_seconds=0.0)

    def models(self) -> list[str]:
        """Return the models that have a record, sorted."""
        if self.names:
            return sorted(name for name in self.names if self.read(name) is not None)
        answer = self._patiently(
            lambda: self.api.call("GET", f"{self._path}?labelSelector={_LABEL}")
        )
        if answer.status != _OK:
            raise self._refusal("list", "ConfigMaps", answer)
        kept = [Kept(body=one) for one in answer.body.get("items") or []]
        names = [_model(one) for one in kept if one.text is not None]
        return sorted(name for name in names if name is not None)

    def read(self, model: str) -> bytes | None:
        """Return a model's record, None where there is none yet."""
        return self._patiently(lambda: self.kept(model)).text

    def update(self, model: str, change: TextChange) -> None:
        """Replace the record by what `change` makes of the newest one, and of no other."""
        self.swap(model, change)

    def swap(self, model: str, change: TextChange) -> Kept:
        """Update, and return what is kept then."""

        def once() -> Kept:
            kept = self.kept(model)
            text = change(kept.text)
            return kept if text is None else self._replace(model, kept, text)

        return self._patiently(once)

    def where(self, model: str) -> str:
        """Return the place of a model's record, for messages."""
        return f"ConfigMap {self.namespace}/{config_map_name(model)}, {KEY}"

    def kept(self, model: str) -> Kept:
        """Read the ConfigMap once."""
        answer = self.api.call("GET", self._path_of(model))
        if answer.status == _ABSENT:
            return Kept()
        if answer.status != _OK:
            raise self._refusal("get", config_map_name(model), answer)
        return Kept(body=answer.body)

    def _replace(self, model: str, kept: Kept, text: str) -> Kept:
        if kept.body is None:
            answer = self.api.call("POST", self._path, self._made(model, text))
        else:
            data = {**(kept.body.get("data") or {}), KEY: text}
            answer = self.api.call("PUT", self._path_of(model), {**kept.body, "data": data})
        if answer.status in {_OK, _CREATED}:
            return Kept(body=answer.body)
        if answer.status == _CONFLICT or (answer.status == _ABSENT and kept.body is not None):
            raise _LostRaceError(f"{self.where(model)}: others changed it again and again")
        raise self._refusal("update" if kept.body else "create", config_map_name(model), answer)

    def _made(self, model: str, text: str) -> dict[str, Any]:
        labels = {"app.kubernetes.io/managed-by": "headrace", MODEL_LABEL: model}
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": config_map_name(model), "labels": labels},
            "data": {KEY: text},
        }

    def _patiently(self, once: Callable[[], T]) -> T:
        deadline = self.monotonic() + self.patience_seconds
        longest = FIRST_PAUSE
        while True:
            try:
                return once()
            except (ApiAwayError, _LostRaceError):
                if self.monotonic() >= deadline:
                    raise
            self.pause(self.random.uniform(0, longest))
            longest = min(LONGEST_PAUSE, 2 * longest)

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/configmaps"

    def _path_of(self, model: str) -> str:
        return f"{self._path}/{config_map_name(model)}"

    def _refusal(self, verb: str, name: str, answer: Answer) -> BadRequestError:
        step = "look at it with kubectl"
        if answer.status == _FORBIDDEN:
            step = "give its service account that right, or let the chart make the ConfigMap"
        message = (
            f"Kubernetes API: {verb} {name} in namespace {self.namespace}: refused with "
            f"{answer.status}: {answer.words}; {step}"
        )
        return BadRequestError(message)


def named_records(environment: Mapping[str, str]) -> ConfigMapRecords | None:
    """Return the records that HEADRACE_ROLLOUT_STATE names; None: files of the state folder.

    HEADRACE_MODELS names the models; who knows its model does not need it.
    """
    url = environment.get("HEADRACE_ROLLOUT_STATE")
    if not url:
        return None
    namespace = namespace_of(url)
    names = [name for name in environment.get("HEADRACE_MODELS", "").split(",") if name]
    for name in names:
        if not MODEL_NAME.fullmatch(name):
            message = f"HEADRACE_MODELS: expected names of models with commas, found {name!r:.80}"
            raise BadRequestError(message)
    from tasks.adapters.kube_api import the_api  # noqa: PLC0415  a second that local runs save

    return ConfigMapRecords(api=the_api(environment), namespace=namespace, names=tuple(names))


class _LostRaceError(StoreUnavailableError):
    """Another one was faster: read and decide again."""


_LABEL = quote(MODEL_LABEL, safe="")


def _model(kept: Kept) -> str | None:
    labels = (kept.body or {}).get("metadata", {}).get("labels") or {}
    found = labels.get(MODEL_LABEL)
    return None if found is None else str(found)
