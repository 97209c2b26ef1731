"""Which pod belongs to which task instance: its name, its marks, and what Airflow keeps of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, cast

from tasks.contracts.errors import BadRequestError
from tasks.contracts.json_types import Json, digest_of_json

RECORD_KEY = "headrace_pod"  # of Airflow's task state store; renaming it loses pods in flight
MANAGED_BY = {"app.kubernetes.io/managed-by": "headrace"}
TASK_LABEL = "headrace/task"
REQUEST = "headrace/request"
REQUEST_DIGEST = "headrace/request-digest"
_DAG, _RUN, _TASK = "headrace/dag-id", "headrace/run-id", "headrace/task-id"
_MAP, _MADE, _ATTEMPT = "headrace/map-index", "headrace/run-made", "headrace/attempt"
MAX_TRIES = "headrace/max-tries"
_SLUG_LENGTH = 30
# Airflow's states of a task instance that no try goes on with.
ENDED_STATES = frozenset({"failed", "success", "skipped", "removed", "upstream_failed"})


@dataclass(frozen=True, kw_only=True)
class TaskKey:
    """One task instance, whatever its try; `run_made` tells two runs of one name apart."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    run_made: str = ""

    @classmethod
    def of(cls, context: Mapping[str, Any]) -> TaskKey:
        """Return the key of the running task instance."""
        ti, run = context["ti"], context.get("dag_run")
        map_index = ti.map_index
        made = getattr(run, "run_after", None)
        return cls(
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            task_id=ti.task_id,
            map_index=-1 if map_index is None else int(map_index),
            run_made="" if made is None else made.isoformat(),
        )

    @classmethod
    def of_pod(cls, pod: Mapping[str, Any]) -> TaskKey | None:
        """Return whose pod it is, or None for a pod that is not ours."""
        marks = pod["metadata"].get("annotations") or {}
        try:
            return cls(
                dag_id=marks[_DAG],
                run_id=marks[_RUN],
                task_id=marks[_TASK],
                map_index=int(marks[_MAP]),
                run_made=marks[_MADE],
            )
        except (KeyError, ValueError):
            return None

    @property
    def digest(self) -> str:
        """Return 16 hex digits that stand for this task instance in names and labels."""
        parts = [self.dag_id, self.run_id, self.task_id, self.map_index, self.run_made]
        return digest_of_json(parts)[:16]

    def pod_name(self, attempt: int) -> str:
        """Return the one name of the pod of an attempt."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.task_id.lower()).strip("-")[:_SLUG_LENGTH]
        return f"{slug.strip('-') or 'stage'}-{self.digest}-{attempt}"

    def annotations(self, attempt: int) -> dict[str, str]:
        """Return the marks that say in full whose pod it is."""
        return {
            _DAG: self.dag_id,
            _RUN: self.run_id,
            _TASK: self.task_id,
            _MAP: str(self.map_index),
            _MADE: self.run_made,
            _ATTEMPT: str(attempt),
        }


def attempt_of(pod: Mapping[str, Any]) -> int:
    """Return the attempt that a pod of ours belongs to."""
    return int((pod["metadata"].get("annotations") or {}).get(_ATTEMPT, 0))


def made_before_a_clear(pod: Mapping[str, Any], max_tries: int) -> bool:
    """Say whether the pod is of before a clear, which alone changes the number of tries allowed."""
    found = (pod["metadata"].get("annotations") or {}).get(MAX_TRIES)
    return found is not None and found != str(max_tries)  # pods of older versions do not say


def is_ours(pod: Mapping[str, Any], key: TaskKey, attempt: int) -> bool:
    """Say whether the pod was made for this attempt of this task instance: its name proves nothing."""
    return TaskKey.of_pod(pod) == key and attempt_of(pod) == attempt


class PodOutcome(StrEnum):
    """How an attempt was closed; the next one may start."""

    SEALED = "sealed"
    FAILED = "failed"  # refused, crashed, timed out
    DISRUPTED = "disrupted"  # preempted, evicted, deleted by others
    REMOVED = "removed"  # by us, since a person ended or cleared the task


@dataclass(frozen=True, kw_only=True)
class PodRecord:
    """What Airflow's task state store keeps: the attempt, its pod's uid, how it was closed."""

    attempt: int
    name: str
    max_tries: int  # grows when a person clears the task, never on a retry
    uid: str | None = None  # None: we meant to create it and may have
    disruptions: int = 0  # in a row
    outcome: PodOutcome | None = None
    request: str = ""  # of a sealed attempt: digest of what was asked,
    sentence: str = ""  # and the last sentence, which names what was sealed
    members: int = 0  # of a group: pods beside this one, once all are made

    @classmethod
    def first(cls, key: TaskKey, max_tries: int) -> PodRecord:
        """Return the record of the first attempt."""
        return cls(attempt=1, name=key.pod_name(1), max_tries=max_tries)

    def next(self, key: TaskKey, max_tries: int) -> PodRecord:
        """Return the record of the attempt after a closed one."""
        disrupted = self.outcome is PodOutcome.DISRUPTED
        return PodRecord(
            attempt=self.attempt + 1,
            name=key.pod_name(self.attempt + 1),
            max_tries=max_tries,
            disruptions=self.disruptions if disrupted else 0,
        )

    def with_pod(self, uid: str) -> PodRecord:
        """Return the record once the pod's uid is known."""
        return replace(self, uid=uid)

    def with_members(self, members: int) -> PodRecord:
        """Return the record once all other pods of its group are made: none is made again."""
        return replace(self, members=members)

    def closed(self, outcome: PodOutcome) -> PodRecord:
        """Return the record of an attempt that has ended."""
        more = 1 if outcome is PodOutcome.DISRUPTED else 0
        return replace(self, outcome=outcome, disruptions=self.disruptions + more)

    def sealed(self, request_digest: str, sentence: str) -> PodRecord:
        """Return the record of an attempt whose work is sealed: a try cut off now has it again."""
        return replace(self, outcome=PodOutcome.SEALED, request=request_digest, sentence=sentence)

    def to_json(self) -> dict[str, Json]:
        """Return the record as the state store keeps it."""
        return {
            "format": "pod_record/1",
            "attempt": self.attempt,
            "name": self.name,
            "max_tries": self.max_tries,
            "uid": self.uid,
            "disruptions": self.disruptions,
            "outcome": None if self.outcome is None else self.outcome.value,
            "request": self.request,
            "sentence": self.sentence,
            "members": self.members,
        }

    @classmethod
    def parse(cls, value: object) -> PodRecord:
        """Read a record; anything else is refused, for guessing would start a second pod."""
        record = cast("Mapping[str, Any]", value)
        try:
            outcome = {"pod_record/1": record["outcome"]}[record["format"]]
            return cls(
                attempt=int(record["attempt"]),
                name=str(record["name"]),
                max_tries=int(record["max_tries"]),
                uid=record["uid"],
                disruptions=int(record["disruptions"]),
                outcome=None if outcome is None else PodOutcome(outcome),
                request=str(record["request"]),
                sentence=str(record["sentence"]),
                members=int(record.get("members", 0)),  # records of before know no groups
            )
        except (KeyError, TypeError, ValueError) as error:
            message = (
                f"task state {RECORD_KEY}: expected a pod_record/1, found {value!r:.300}; look for "
                "a pod of this task, then delete the key on the task's page"
            )
            raise BadRequestError(message) from error
