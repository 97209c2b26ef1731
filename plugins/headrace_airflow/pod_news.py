"""What a pod's status means: one pure reading of the API's object for every part that asks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from headrace_airflow.stage_call import StageEnd
from tasks.contracts.errors import bounded
from tasks.contracts.exit_codes import ExitCode

CONTAINER = "base"
CONCLUSIVE = frozenset({ExitCode.DONE, ExitCode.GATE_REFUSED, ExitCode.BAD_REQUEST})
_SIGNALLED = 128
_HOPELESS = frozenset({"InvalidImageName"})  # no wait can mend it
_IMAGE_TROUBLE = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"}) | _HOPELESS


class PodState(StrEnum):
    """Where a pod is on its way."""

    QUEUED = "queued"  # no node yet: pending, behind a gate or a quota
    INCOMPLETE = "incomplete"  # of a group: some pods hold nodes that the others wait for
    STARTING = "starting"  # on a node: image, volumes, init containers
    RUNNING = "running"
    ENDED = "ended"  # the stage itself ended
    DISRUPTED = "disrupted"  # preempted, evicted, deleted: not the stage's doing


@dataclass(frozen=True, kw_only=True)
class PodNews:
    """One look at a pod. `since` is when the state began, where the API says so."""

    uid: str
    state: PodState
    detail: str = ""
    since: str | None = None
    exit_code: int = 0
    sentence: str = ""
    hopeless: bool = False  # waiting longer cannot help
    due: str | None = None  # when its node must have ended it

    @property
    def over(self) -> bool:
        """Say whether the pod will not work any more."""
        return self.state in {PodState.ENDED, PodState.DISRUPTED}

    @property
    def end(self) -> StageEnd:
        """Return how the stage ended; exit codes over 128 are signals."""
        code = self.exit_code
        return StageEnd(
            exit_code=_SIGNALLED - code if code > _SIGNALLED else code, sentence=self.sentence
        )

    def seconds(self, now: datetime) -> float:
        """Return how long the state has lasted."""
        if self.since is None:
            return 0.0
        return (now - datetime.fromisoformat(self.since)).total_seconds()

    def overdue(self, now: datetime) -> float:
        """Return for how many seconds its node has owed us its end; negative: it is not due yet."""
        if self.due is None:
            return -math.inf
        return (now - datetime.fromisoformat(self.due)).total_seconds()

    def to_json(self) -> dict[str, Any]:
        """Return the news as a trigger's event carries it."""
        return asdict(self) | {"state": self.state.value}

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> PodNews:
        """Read the news out of a trigger's event."""
        return cls(**{**record, "state": PodState(record["state"])})


def utc_now() -> datetime:
    """Return the time, for comparison with the API's."""
    return datetime.now(tz=UTC)


def read_news(pod: Mapping[str, Any]) -> PodNews:
    """Read a pod object (camelCase, as the API writes it)."""
    status = pod.get("status") or {}
    uid = pod["metadata"]["uid"]
    container = _container(status)
    ended = (container.get("state") or {}).get("terminated")
    if status.get("phase") in {"Succeeded", "Failed"} or ended is not None:
        return _over(pod, status, ended)
    scheduled = _condition(status, "PodScheduled")
    if status.get("phase") == "Pending" and scheduled.get("status") != "True":
        reason = scheduled.get("reason") or "Pending"
        detail = f"{reason}: {scheduled.get('message') or 'no node yet'}"
        since = pod["metadata"].get("creationTimestamp")
        return PodNews(uid=uid, state=PodState.QUEUED, detail=detail, since=since)
    if status.get("phase") == "Pending":
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason") or "ContainerCreating"
        detail = f"{reason}: {waiting['message']}" if waiting.get("message") else reason
        if reason in _IMAGE_TROUBLE:
            detail = f"image {container.get('image')}: {detail}"
        return PodNews(
            uid=uid,
            state=PodState.STARTING,
            detail=bounded(detail, 600),
            since=scheduled.get("lastTransitionTime"),
            hopeless=reason in _HOPELESS,
        )
    detail = str(status.get("reason") or "")
    return PodNews(uid=uid, state=PodState.RUNNING, detail=detail, due=_due(pod))


def _due(pod: Mapping[str, Any]) -> str | None:
    """Return when a working pod's node must have ended it: a node that fell silent never says so."""
    ends = [pod["metadata"].get("deletionTimestamp")]  # when its grace is over
    started, longest = ((pod.get("status") or {}).get("startTime"), _longest_run(pod))
    if started and longest is not None:
        ends.append((datetime.fromisoformat(started) + timedelta(seconds=longest)).isoformat())
    return min((one for one in ends if one), key=datetime.fromisoformat, default=None)


def _longest_run(pod: Mapping[str, Any]) -> int | None:
    found = (pod.get("spec") or {}).get("activeDeadlineSeconds")
    return None if found is None else int(found)


def _over(pod: Mapping[str, Any], status: Mapping[str, Any], ended: Any) -> PodNews:
    uid = pod["metadata"]["uid"]
    if ended is not None and ended.get("exitCode") in CONCLUSIVE:
        return PodNews(
            uid=uid,
            state=PodState.ENDED,
            exit_code=ended["exitCode"],
            sentence=ended.get("message") or "",
            since=ended.get("finishedAt"),
        )
    if status.get("reason") == "DeadlineExceeded":
        limit = pod["spec"].get("activeDeadlineSeconds")
        sentence = f"it ran longer than the {limit} s that its profile allows"
        return PodNews(uid=uid, state=PodState.ENDED, exit_code=1, sentence=sentence)
    disruption = _disruption(pod, status, ended)
    if disruption:
        return PodNews(uid=uid, state=PodState.DISRUPTED, detail=bounded(disruption, 600))
    sentence = ended.get("message") or ""
    if ended.get("reason") == "OOMKilled":
        sentence = f"killed for memory at its limit of {_memory_limit(pod)} {sentence}".rstrip()
    return PodNews(
        uid=uid,
        state=PodState.ENDED,
        exit_code=ended["exitCode"],
        sentence=sentence,
        since=ended.get("finishedAt"),
    )


def _disruption(pod: Mapping[str, Any], status: Mapping[str, Any], ended: Any) -> str:
    target = _condition(status, "DisruptionTarget")
    if target.get("status") == "True":
        return f"{target.get('reason')}: {target.get('message') or 'no message'}"
    if status.get("reason"):  # Evicted, Preempting, NodeLost, Shutdown, OutOfmemory, ...
        return f"{status['reason']}: {status.get('message') or 'no message'}"
    if ended is None:
        return "Failed: no container of it ever ran"
    asked = deletion_asked(pod["metadata"])
    finished = ended.get("finishedAt")
    if asked is not None and (finished is None or datetime.fromisoformat(finished) >= asked):
        return f"Deleted: somebody deleted the pod while it worked, at {asked.isoformat()}"
    return ""


def deletion_asked(metadata: Mapping[str, Any]) -> datetime | None:
    """Return when the deletion was asked for; the API's time stamp is that plus the grace."""
    stamp = metadata.get("deletionTimestamp")
    if stamp is None:
        return None
    grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)
    return datetime.fromisoformat(stamp) - grace


def scheduled_at(pod: Mapping[str, Any]) -> str | None:
    """Return when the pod got its node."""
    condition = _condition(pod.get("status") or {}, "PodScheduled")
    return condition.get("lastTransitionTime") if condition.get("status") == "True" else None


def _container(status: Mapping[str, Any]) -> Mapping[str, Any]:
    for one in status.get("containerStatuses") or ():
        if one.get("name") == CONTAINER:
            return dict(one)
    return {}


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    for one in status.get("conditions") or ():
        if one.get("type") == kind:
            return dict(one)
    return {}


def _memory_limit(pod: Mapping[str, Any]) -> str:
    for one in pod["spec"].get("containers") or ():
        if one.get("name") == CONTAINER:
            limits = (one.get("resources") or {}).get("limits") or {}
            return str(limits.get("memory") or "its node")
    return "its node"
