"""The life of a stage's pod as Airflow drives it: create or adopt, follow, replace, remove."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow.sdk.exceptions import AirflowException

from headrace_airflow.pod_api import LogPlace, PodApi, QuotaFullError, unseen
from headrace_airflow.pod_group import GROUP_LABEL, PodGroup, is_owned_by, rank_of, read_group
from headrace_airflow.pod_identity import (
    RECORD_KEY,
    REQUEST_DIGEST,
    PodOutcome,
    PodRecord,
    TaskKey,
    is_ours,
    made_before_a_clear,
)
from headrace_airflow.pod_news import PodNews, PodState, read_news, utc_now
from headrace_airflow.pod_settings import GROUP_SECONDS
from tasks.contracts.errors import BadRequestError, bounded

SLICE_SECONDS = 0.2  # how soon we notice that we are asked to end
DRAIN_SECONDS = 10.0  # for the last lines of a log
GONE_SECONDS = 120.0  # for a pod that we deleted: 30 of grace, and a kubelet looks every 60 to 90
SILENT_SECONDS = 300.0  # for a node to say that a pod which must be over is
REOPEN_SECONDS = 2.0
CLOSING_SECONDS = 5.0  # after a log's end the pod's is near: the API tells of it a second later
CLOSING_SLICE_SECONDS = 0.1
SOONEST_LOOK_SECONDS, SHARE_OF_AGE = 0.5, 0.1
MAX_STRANGERS = 20
PodBody = Callable[[PodRecord], Mapping[str, Any]]
Grouping = Callable[[PodRecord], PodGroup]


class NoRoomError(AirflowException):
    """A quota let no pod in for as long as we are willing to wait."""


class AskedToEndError(Exception):
    """The task's process was asked to end: by its worker or, through Airflow, by a person."""


@dataclass(frozen=True, kw_only=True)
class Waits:
    """How long a pod may wait where; its working time is bounded by activeDeadlineSeconds."""

    queue_seconds: float  # for a node, a gate or a quota: nobody's fault
    start_seconds: float  # on a node, before the stage's first line
    poll_seconds: float  # at most, between two looks
    disruptions: int  # in a row; not the user's retries
    group_seconds: float = GROUP_SECONDS  # for the rest of a group, of which some hold nodes

    def before_a_look(self, age: float) -> float:
        """Return how long to wait: the end of a short pod is seen soon, a long one costs few looks."""
        return min(self.poll_seconds, max(SOONEST_LOOK_SECONDS, SHARE_OF_AGE * age))

    def verdict(self, news: PodNews, now: datetime) -> str:
        """Return why the pod has waited long enough, or an empty text."""
        limits = {
            PodState.QUEUED: (self.queue_seconds, "had no node"),
            PodState.INCOMPLETE: (self.group_seconds, "was part of an incomplete group"),
            PodState.STARTING: (self.start_seconds, "did not start on its node"),
        }
        limit, what = limits.get(news.state, (math.inf, ""))
        waited = news.seconds(now)
        if news.hopeless:
            return f"it can never start: {news.detail}"
        if news.overdue(now) > SILENT_SECONDS:
            return (
                f"its node had to end it by {news.due} and has not said that it did for "
                f"{SILENT_SECONDS:g} s, so it may still work: see that the node is up, or off for "
                "good and deleted from the cluster; then clear the task"
            )
        if waited <= limit:
            return ""
        return f"it {what} for {waited:.0f} s (limit {limit:g} s): {news.detail}"


class PodLife:
    """The pods of one task instance, one at a time."""

    def __init__(
        self,
        *,
        key: TaskKey,
        max_tries: int,
        api: PodApi,
        state: Any,  # Airflow's task state store
        waits: Waits,
        say: Callable[[str], None],
        pause: Callable[[float], None],
        group: Grouping | None = None,
    ) -> None:
        self.key = key
        self.max_tries = max_tries
        self.api = api
        self.state = state
        self.waits = waits
        self.say = say
        self.pause = pause
        self.group = group
        self.record = self._recorded()
        self.just_created = False  # by us, now: it cannot have got far

    def known_end(self, request_digest: str) -> PodNews | None:
        """Return the end of an attempt whose work is sealed, for a try that was cut off after it."""
        record = self.record
        same = record.request == request_digest and record.max_tries == self.max_tries
        if record.outcome is not PodOutcome.SEALED or not same:
            return None
        self.say(f"pod {record.name} has sealed its work already: no other is started")
        return PodNews(uid=str(record.uid), state=PodState.ENDED, sentence=record.sentence)

    def acquire(self, body: PodBody, request_digest: str) -> PodRecord:
        """Return the record of a pod that exists or did: adopted where it can be, else created."""
        if self.record.outcome is not None:
            self.remove()  # closed, but perhaps still ending, or cut off before its removal
            self._keep(self.record.next(self.key, self.max_tries))
        elif self.record.max_tries != self.max_tries:
            self.replace("the task was cleared")
        for _ in range(MAX_STRANGERS):
            pod = self._own_pod(body)
            if pod is None:
                continue
            marks = pod["metadata"].get("annotations") or {}
            if marks.get(REQUEST_DIGEST) in {request_digest, None}:
                if marks and self.group is not None and not self.record.members:
                    self._complete(self.group(self.record), body(self.record))
                return self.record
            self.replace("its request is another one")
        message = (
            f"pod {self.record.name}: expected a free name within {MAX_STRANGERS} attempts, found "
            f"pods of others in namespace {self.api.namespace}; see who makes them"
        )
        raise BadRequestError(message)

    def _own_pod(self, body: PodBody) -> Mapping[str, Any] | None:
        record = self.record
        if record.uid is not None:
            known = self.api.read_own(record.name, record.uid)
            self.say(f"taking up pod {record.name} (uid {record.uid}) of attempt {record.attempt}")
            return {"metadata": {}} if known is None else known  # gone: the next look says so
        # Its name follows from what is kept, or from nothing kept: no crash leaves a pod unknown.
        pod = self._created(body(record))
        self.just_created = pod is not None
        if pod is None:
            pod = self.api.read(record.name)
            if pod is None:  # it went between our two questions
                return None
            if not is_ours(pod, self.key, record.attempt):
                self.say(
                    f"pod {record.name} is not ours (uid {pod['metadata']['uid']}): left alone"
                )
                self._keep(record.next(self.key, self.max_tries))
                return None
            self.say(f"adopting pod {record.name}: an earlier try made it and was cut off")
        self._keep(record.with_pod(pod["metadata"]["uid"]))
        if made_before_a_clear(pod, self.max_tries):
            self.replace("the task was cleared")
            return None
        return pod

    def _complete(self, group: PodGroup, body: Mapping[str, Any]) -> None:
        """Make what the group lacks; a try that was cut off here goes on here."""
        uid = str(self.record.uid)
        self.api.create_service(group.service(body, uid))
        for member in group.members(body, uid):
            name = member["metadata"]["name"]
            if self._created_beside(member, uid) is None:
                found = self.api.read(name)
                if found is not None and not is_owned_by(found, uid):
                    self.replace(f"its rank {name} is not ours")
                    message = f"pod {name}: expected a free name, found a pod of others; try again"
                    raise AirflowException(message)
        self._keep(self.record.with_members(group.ranks - 1))

    def _created(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return self._created_within(self.waits.queue_seconds, body)

    def _created_beside(self, body: Mapping[str, Any], uid: str) -> Mapping[str, Any] | None:
        """Create a rank beside rank 0, which holds its node meanwhile: that wait is a shorter one."""
        try:
            return self._created_within(self.waits.group_seconds, body)
        except NoRoomError:
            self.api.delete_own(self.record.name, uid)
            self.close(PodOutcome.FAILED)
            raise

    def _created_within(self, seconds: float, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                pod = self.api.create(body)
            except QuotaFullError as full:
                if time.monotonic() > deadline:
                    message = f"no room for {seconds:g} s: {full}"
                    raise NoRoomError(bounded(message)) from full
                self.say(f"waiting for room: {full}")
                self.pause(max(self.waits.poll_seconds, 5.0))
            else:
                if pod is not None:
                    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
                    self.say(f"created pod {name} in namespace {self.api.namespace} (uid {uid})")
                return pod

    def look(self) -> PodNews:
        """Return the news of the recorded pod, and only of that one."""
        return look(self.api, self.record)

    def follow(self) -> PodNews:
        """Wait for the pod's end, its log passed on meanwhile."""
        log: LogFollower | None = None
        said = ""
        began = time.monotonic()
        if self.just_created:
            self._wait_or_wake(None, self.waits.before_a_look(0))
        while not (news := self.look()).over:
            self.demand_patience(news)
            if news.state is PodState.RUNNING and log is None:
                log = self._log()
            if (told := f"{news.state.value} {news.detail}".rstrip()) != said:
                said = told
                self.say(f"pod {self.record.name}: {told}")
            self._wait_or_wake(log, self.waits.before_a_look(time.monotonic() - began))
        if log is None and news.state is PodState.ENDED:
            log = self._log()
        if log is not None:
            log.drain()
        return news

    def print_log(self) -> None:
        """Pass on the whole log of a pod that has ended."""
        self._log().drain()

    def demand_patience(self, news: PodNews) -> None:
        """Give up on a pod that has waited too long; the next attempt waits until it is gone."""
        verdict = self.waits.verdict(news, utc_now())
        if not verdict:
            return
        self.api.delete_own(self.record.name, news.uid)
        self.close(PodOutcome.FAILED)
        raise AirflowException(f"pod {self.record.name}: {verdict}; it was removed")

    def disrupted(self, news: PodNews) -> None:
        """Close an attempt that others ended; fail once their budget is used up."""
        self.remove()
        self.close(PodOutcome.DISRUPTED)
        count, budget = self.record.disruptions, self.waits.disruptions
        text = f"pod {self.record.name} was disrupted ({count} of {budget}): {news.detail}"
        if count >= budget:
            message = f"{text}; look at the node pool's events, then clear the task"
            raise AirflowException(message)
        self.say(f"{text}; a new one goes on from its checkpoint, no retry is used up")
        self._keep(self.record.next(self.key, self.max_tries))

    def replace(self, why: str) -> None:
        """Remove the recorded pod, wait until it is gone, and go on to the next attempt."""
        self.say(f"pod {self.record.name} is removed first: {why}")
        self.remove()
        self.close(PodOutcome.REMOVED)
        self._keep(self.record.next(self.key, self.max_tries))

    def remove(self) -> None:
        """Delete the recorded pod and wait until it has ended or is gone."""
        uid = self._known_uid()
        deadline = time.monotonic() + GONE_SECONDS
        while uid is not None and (left := self._asked_to_go(uid)):
            if time.monotonic() > deadline:
                message = (
                    f"pod {left[0]} (uid of its attempt {uid}): expected it to end within "
                    f"{GONE_SECONDS:g} s of its deletion, found it still there; no other is "
                    "started beside it"
                )
                raise AirflowException(message)
            self.pause(min(self.waits.poll_seconds, 1.0))

    def _asked_to_go(self, uid: str) -> list[str]:
        """Ask for the end of the attempt's pods; return the names of those that may still work."""
        left = []
        for pod in self._pods(uid):
            metadata = pod["metadata"]
            if not metadata.get("deletionTimestamp"):
                self.api.delete_own(metadata["name"], metadata["uid"])
            elif read_news(pod).over:
                continue
            left.append(str(metadata["name"]))
        return left

    def _pods(self, uid: str) -> list[Mapping[str, Any]]:
        own = self.api.read_own(self.record.name, uid)
        others = [] if self.group is None else members(self.api, self.group(self.record).name, uid)
        return [*([] if own is None else [own]), *others]

    def remove_now(self) -> str:
        """Ask for the recorded pod's end without waiting; return its uid or an empty text."""
        uid = self._known_uid()
        if uid is None:
            return ""
        self.api.delete_own(self.record.name, uid)
        self.close(PodOutcome.REMOVED)
        return uid

    def close(self, outcome: PodOutcome) -> None:
        """Keep how the attempt ended: from here on the next one may start."""
        self._keep(self.record.closed(outcome))

    def close_sealed(self, request_digest: str, sentence: str) -> None:
        """Keep that the attempt's work is sealed, and where."""
        self._keep(self.record.sealed(request_digest, sentence))

    def _known_uid(self) -> str | None:
        if self.record.uid is not None:
            return self.record.uid
        pod = self.api.read(self.record.name)
        if pod is None or not is_ours(pod, self.key, self.record.attempt):
            return None
        return str(pod["metadata"]["uid"])

    def _recorded(self) -> PodRecord:
        kept = self.state.get(RECORD_KEY)
        return PodRecord.first(self.key, self.max_tries) if kept is None else PodRecord.parse(kept)

    def _keep(self, record: PodRecord) -> None:
        self.state.set(RECORD_KEY, record.to_json())
        self.record = record

    def _log(self) -> LogFollower:
        return LogFollower(self.api, self.record.name, self.say).started()

    def _wait_or_wake(self, log: LogFollower | None, seconds: float) -> None:
        closing = log is not None and log.closing
        deadline = time.monotonic() + (CLOSING_SLICE_SECONDS if closing else seconds)
        while (left := deadline - time.monotonic()) > 0:
            self.pause(min(left, SLICE_SECONDS))
            if log is not None and log.just_ended():
                return


def look(api: PodApi, record: PodRecord) -> PodNews:
    """Return the news of that very pod; absence is news too."""
    uid = str(record.uid)
    pod = api.read_own(record.name, uid)
    if pod is None:
        detail = f"Gone: pod {record.name} (uid {uid}) is not there any more; we did not delete it"
        return PodNews(uid=uid, state=PodState.DISRUPTED, detail=detail)
    if not record.members:
        return read_news(pod)
    others = members(api, str(pod["metadata"]["labels"][GROUP_LABEL]), uid)
    by_rank = {0: pod, **{rank_of(one): one for one in others}}
    return read_group(by_rank, record.members + 1, utc_now())


def members(api: PodApi, group: str, uid: str) -> list[Mapping[str, Any]]:
    """Return the other pods of a group: those made for that very rank 0."""
    return [one for one in api.labelled(f"{GROUP_LABEL}={group}") if is_owned_by(one, uid)]


class LogFollower:
    """Passes a pod's lines on, in a thread: a log that breaks off is opened again, never repeated."""

    def __init__(self, api: PodApi, name: str, say: Callable[[str], None]) -> None:
        self._api = api
        self._name = name
        self._say = say
        self._place = LogPlace()
        self._done = threading.Event()
        self._closed_at = -CLOSING_SECONDS
        self._ends = 0
        self._told_ends = 0
        self._thread = threading.Thread(target=self._follow, daemon=True, name=f"log-{name}")

    def started(self) -> LogFollower:
        """Start the thread."""
        self._thread.start()
        return self

    def just_ended(self) -> bool:
        """Say once for each end of the stream that it ended: the pod is worth a look."""
        ended = self._ends > self._told_ends
        self._told_ends = self._ends
        return ended

    @property
    def closing(self) -> bool:
        """Say whether a stream that brought lines has just ended."""
        return time.monotonic() - self._closed_at < CLOSING_SECONDS

    def drain(self) -> None:
        """Wait a little for the last lines; the log is a courtesy, not evidence."""
        self._done.set()
        self._thread.join(timeout=DRAIN_SECONDS)

    def _follow(self) -> None:
        while True:
            last_round = self._done.is_set()
            try:
                self._read()
            except Exception as error:  # noqa: BLE001  log streaming never fails a task
                if last_round:
                    self._say(f"the rest of the log of {self._name} cannot be read: {error!r:.200}")
            self._ends += 1
            if last_round:
                return
            self._done.wait(REOPEN_SECONDS)

    def _read(self) -> None:
        since = self._place.seconds_ago(utc_now())
        lines = self._api.log_lines(self._name, follow=not self._done.is_set(), since=since)
        before = self._place
        for place, text in unseen(lines, before):
            self._place = place
            self._say(text)
        if self._place != before:
            self._closed_at = time.monotonic()
