"""State records as a watch has last brought them, for who looks often: keeper and comparator.

The API away, or a ConfigMap deleted, changes nothing here: the last record goes on.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from tasks.adapters.api_answers import ApiAwayError, GoneError
from tasks.adapters.config_map_records import ConfigMapRecords, Kept, config_map_name, named_records
from tasks.contracts.errors import BadRequestError
from tasks.contracts.record_store import TextChange

WATCH_SECONDS = 30.0  # then a new one: a stream that died without a word is not trusted for longer
RETRY_SECONDS = 1.0  # two routers must agree within 2 s of an API that is back
REFUSED_SECONDS = 10.0  # without the right to watch: somebody must act first
BREATH_SECONDS = 0.2  # between two watches, whatever ended the first


@dataclass(kw_only=True)
class WatchedRecords:
    """The records of named models; reads are of memory, updates go to the API and are seen at once."""

    records: ConfigMapRecords
    say: Callable[[str], None] = print
    who: str = "keeper"
    watch_seconds: float = WATCH_SECONDS
    retry_seconds: float = RETRY_SECONDS
    _kept: dict[str, Kept] = field(default_factory=dict)
    _listed: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the models whose records are watched."""
        return self.records.names

    def start(self) -> None:
        """Watch each model in a thread of its own."""
        for model in self.records.names:
            name = f"watch-{model}"
            threading.Thread(target=self._follow, args=(model,), name=name, daemon=True).start()

    def close(self) -> None:
        """Start no further watch; an open one ends with the process, or with its time."""
        self._stop.set()

    def unseen(self) -> list[str]:
        """Return the models whose place the API has not shown yet since the start."""
        with self._lock:
            return sorted(set(self.records.names) - self._listed)

    def models(self) -> list[str]:
        """Return the models whose place was seen, sorted: one without a record has no release yet."""
        with self._lock:
            return sorted({*self._listed, *self._kept})

    def read(self, model: str) -> bytes | None:
        """Return the record as it was last brought."""
        with self._lock:
            kept = self._kept.get(model)
        return None if kept is None else kept.text

    def update(self, model: str, change: TextChange) -> None:
        """Change the newest record, as the API has it; the memory follows at once."""
        self._take(model, self.records.swap(model, change))

    def where(self, model: str) -> str:
        """Return the place of a model's record, for messages."""
        return self.records.where(model)

    def _follow(self, model: str) -> None:
        last = ""
        while not self._stop.is_set():
            pause, said = BREATH_SECONDS, ""
            try:
                self._watch(model, self._list(model))
            except GoneError:  # too old: the list is taken anew
                pass
            except ApiAwayError as error:
                pause, said = self.retry_seconds * random.uniform(0.5, 1.0), str(error)  # noqa: S311
            except Exception as error:  # noqa: BLE001  the watch must outlive every trouble
                pause, said = REFUSED_SECONDS, f"{type(error).__name__}: {error}"
            if said and said != last:
                self.say(f"{self.who}: {model}: the last record goes on: {said}")
            last = said
            self._stop.wait(pause)

    def _list(self, model: str) -> str:
        """Take the ConfigMap as it is and return the version to watch from."""
        path = f"{self._path}?{urlencode({'fieldSelector': _only(model)})}"
        answer = self.records.api.call("GET", path)
        if answer.status != 200:
            message = f"list {config_map_name(model)}: refused with {answer.status}: {answer.words}"
            raise BadRequestError(message)
        for item in answer.body.get("items") or []:
            self._take(model, Kept(body=item))
        with self._lock:
            self._listed.add(model)
        return str(answer.body["metadata"]["resourceVersion"])

    def _watch(self, model: str, version: str) -> None:
        for event in self.records.api.watch_config_maps(
            self.records.namespace, _only(model), version, self.watch_seconds
        ):
            if event["type"] in {"ADDED", "MODIFIED"}:
                self._take(model, Kept(body=event["object"]))
            elif event["type"] == "DELETED":
                self.say(f"{self.who}: {self.where(model)} was deleted; the last record goes on")
            if self._stop.is_set():
                return

    def _take(self, model: str, kept: Kept) -> None:
        """Remember what is newer; an emptied ConfigMap takes no record away."""
        if kept.text is None:
            return
        with self._lock:
            if not _is_older(kept, self._kept.get(model)):
                self._kept[model] = kept

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self.records.namespace}/configmaps"


def watched_records(
    environment: Mapping[str, str], *, who: str, say: Callable[[str], None]
) -> WatchedRecords | None:
    """Return the records that HEADRACE_ROLLOUT_STATE names, not yet watched; None: files.

    BadRequestError: HEADRACE_MODELS names no model to watch.
    """
    records = named_records(environment)
    if records is None:
        return None
    if not records.names:
        message = f"HEADRACE_MODELS: expected the models of this {who} with commas, found none"
        raise BadRequestError(message)
    return WatchedRecords(records=records.impatient(), say=say, who=who)


def _only(model: str) -> str:
    """Return the field selector that a role can be limited to by name."""
    return f"metadata.name={config_map_name(model)}"


def _is_older(kept: Kept, than: Kept | None) -> bool:
    """Return whether an event tells of the time before what an update of ours has returned.

    Versions of one object compare as numbers (Kubernetes' API concepts); one made anew has another
    uid, and comes as it comes.
    """
    if than is None or _uid(kept) != _uid(than):
        return False
    if not (kept.version.isdigit() and than.version.isdigit()):
        return False
    return int(kept.version) < int(than.version)


def _uid(kept: Kept) -> Any:
    return (kept.body or {}).get("metadata", {}).get("uid")
