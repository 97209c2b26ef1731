"""N pods that begin and end together: one rank each, rank 0 is the pod that Airflow drives. Pure.

The other ranks and the headless Service belong to rank 0's pod: the cluster removes them with it.
No rank works before all are there: torchrun's rendezvous lets them pass together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from headrace_airflow.pod_news import (
    CONCLUSIVE,
    CONTAINER,
    PodNews,
    PodState,
    deletion_asked,
    read_news,
    scheduled_at,
)
from headrace_airflow.pod_profiles import MAX_RANKS
from tasks.contracts.errors import BadRequestError, bounded

GROUP_LABEL, RANK_LABEL = "headrace/group", "headrace/rank"
LAUNCHER = ("python", "-m", "tasks.training.launch", "tasks")
RENDEZVOUS_PORT = 29400
# A rank whose peer is lost fails too, and the API may tell us of it first.
SETTLE_SECONDS = 5.0

Pod = Mapping[str, Any]  # in the API's own words (camelCase)


@dataclass(frozen=True, kw_only=True)
class PodGroup:
    """The ranks of one attempt; `name` is the Service's, the label's and the domain's."""

    name: str
    ranks: int
    join_seconds: float  # a rank waits so long for the others

    def __post_init__(self) -> None:
        """Refuse groups of one and groups beyond what is sensible for plain pods."""
        if not 2 <= self.ranks <= MAX_RANKS:
            message = f"pod group {self.name}: expected 2 to {MAX_RANKS} ranks, found {self.ranks}"
            raise BadRequestError(message)

    @classmethod
    def of_pod(cls, pod_name: str, ranks: int, join_seconds: float) -> PodGroup:
        """Return the group whose rank 0 has that name; a Service's name begins with a letter."""
        _, digest, attempt = pod_name.rsplit("-", 2)
        return cls(name=f"group-{digest}-{attempt}", ranks=ranks, join_seconds=join_seconds)

    def environment(self, rank: Any) -> list[dict[str, Any]]:
        """Return torchrun's variables; the static rendezvous keeps rank 0 where its pod is."""
        values = {
            "PET_NNODES": str(self.ranks),
            "PET_NPROC_PER_NODE": "1",
            "PET_RDZV_BACKEND": "static",
            "PET_RDZV_ENDPOINT": f"rank-0.{self.name}:{RENDEZVOUS_PORT}",
            "PET_RDZV_ID": self.name,
            "PET_RDZV_CONF": f"timeout={int(self.join_seconds)}",
        }
        listed: list[dict[str, Any]] = [{"name": key, "value": one} for key, one in values.items()]
        told = {"value": str(rank)} if isinstance(rank, int) else {"valueFrom": rank}
        return [*listed, {"name": "PET_NODE_RANK", **told}]

    def as_rank(self, pod: Pod, rank: int) -> dict[str, Any]:
        """Return the pod as one rank of the group: its label, its host name, its variables."""
        metadata, spec = pod["metadata"], pod["spec"]
        labels = {**metadata.get("labels", {}), GROUP_LABEL: self.name, RANK_LABEL: str(rank)}
        return {
            **pod,
            "metadata": {**metadata, "labels": labels},
            "spec": {
                **self._spec(spec, self.environment(rank)),
                "hostname": f"rank-{rank}",
                "subdomain": self.name,
            },
        }

    def members(self, pod: Pod, uid: str) -> list[dict[str, Any]]:
        """Return ranks 1 to N-1, owned by rank 0's pod; `pod` is the body that rank 0 was made of."""
        return [self._owned(self.as_rank(pod, rank), rank, uid) for rank in range(1, self.ranks)]

    def _owned(self, pod: Pod, rank: int, uid: str) -> dict[str, Any]:
        name = pod["metadata"]["name"]
        metadata = {
            **pod["metadata"],
            "name": f"{name}-r{rank}",
            "ownerReferences": [_owner(name, uid)],
        }
        return {**pod, "metadata": metadata}

    def service(self, pod: Pod, uid: str) -> dict[str, Any]:
        """Return the Service that gives each rank a name: rank-K.<name>."""
        return _headless(
            self.name, pod, {"ownerReferences": [_owner(pod["metadata"]["name"], uid)]}
        )

    def indexed_job(self, pod: Pod) -> list[dict[str, Any]]:
        """Return the group as a headless Service and an indexed Job, for clusters that admit Jobs whole.

        Rendered and checked against the schemas of newer Kubernetes; nothing here creates it.
        """
        metadata = pod["metadata"]
        labels = {**metadata.get("labels", {}), GROUP_LABEL: self.name}
        labels.pop(RANK_LABEL, None)
        index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        spec = self._spec(pod["spec"], self.environment({"fieldRef": {"fieldPath": index}}))
        endpoint = f"{self.name}-0.{self.name}:{RENDEZVOUS_PORT}"  # a Job names its hosts itself
        spec = self._spec(spec, [{"name": "PET_RDZV_ENDPOINT", "value": endpoint}])
        template = {
            "metadata": {"labels": labels, "annotations": metadata.get("annotations", {})},
            "spec": {
                **{name: value for name, value in spec.items() if name != "hostname"},
                "subdomain": self.name,
                "restartPolicy": "Never",
            },
        }
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": self.name, "labels": labels},
            "spec": {
                "completionMode": "Indexed",
                "completions": self.ranks,
                "parallelism": self.ranks,
                "backoffLimit": 0,  # one failed rank ends them all
                "template": template,
            },
        }
        return [_headless(self.name, pod, {}), job]

    def _spec(self, spec: Pod, environment: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        containers = [
            _with_environment(one, environment) if one["name"] == CONTAINER else one
            for one in spec["containers"]
        ]
        return {**spec, "containers": containers}


def _headless(name: str, pod: Pod, more: Mapping[str, Any]) -> dict[str, Any]:
    labels = dict(pod["metadata"].get("labels", {}))
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": {**labels, GROUP_LABEL: name}, **more},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {GROUP_LABEL: name},
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT}],
        },
    }


def _owner(name: str, uid: str) -> dict[str, str]:
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}


def _with_environment(container: Pod, more: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = {one["name"] for one in more}
    kept = [one for one in container.get("env", []) if one["name"] not in names]
    return {**container, "env": [*kept, *more]}


def is_owned_by(one: Pod, uid: str) -> bool:
    """Say whether it was made for that very pod."""
    return any(owner["uid"] == uid for owner in one["metadata"].get("ownerReferences") or ())


def rank_of(pod: Pod) -> int:
    """Return the rank of a pod of a group."""
    return int(pod["metadata"]["labels"][RANK_LABEL])


def read_group(pods: Mapping[int, Pod], ranks: int, now: datetime) -> PodNews:
    """Read the group as one pod: `pods` by rank, rank 0 among them."""
    news = {rank: read_news(pods[rank]) for rank in sorted(pods)}
    first = news[0]
    if first.state is PodState.ENDED and first.exit_code == 0:
        return first
    failed = {
        rank: one for rank, one in news.items() if one.state is PodState.ENDED and one.exit_code
    }
    refusals = {rank: one for rank, one in failed.items() if one.exit_code in CONCLUSIVE}
    if refusals:
        return _failure(refusals, ranks, first.uid)
    disruption = _disruption(pods, news, ranks, someone_failed=bool(failed))
    if disruption:
        return PodNews(uid=first.uid, state=PodState.DISRUPTED, detail=bounded(disruption, 600))
    if failed:
        return _settled(failed, news, ranks, now)
    return _progress(pods, news, ranks)


def _disruption(
    pods: Mapping[int, Pod], news: Mapping[int, PodNews], ranks: int, *, someone_failed: bool
) -> str:
    for rank in range(ranks):
        where = f"rank {rank} of {ranks}"
        if rank not in news:
            return f"Gone: {where} is not there any more; we did not delete it"
        if news[rank].state is PodState.DISRUPTED:
            return f"{where}: {news[rank].detail}"
        asked = deletion_asked(pods[rank]["metadata"])
        if someone_failed and asked is not None:  # that is what the others failed of
            return f"{where}: Deleted: somebody deleted the pod, at {asked.isoformat()}"
    return ""


def _settled(
    failed: Mapping[int, PodNews], news: Mapping[int, PodNews], ranks: int, now: datetime
) -> PodNews:
    oldest = max(one.seconds(now) for one in failed.values())
    if oldest < SETTLE_SECONDS and not all(one.over for one in news.values()):
        detail = f"{len(failed)} of {ranks} ranks failed"
        return PodNews(uid=news[0].uid, state=PodState.RUNNING, detail=detail)
    return _failure(failed, ranks, news[0].uid)


def _failure(failed: Mapping[int, PodNews], ranks: int, uid: str) -> PodNews:
    """Name the first to fail as the cause; 1 is what a rank says that has lost another."""
    order = sorted(failed, key=lambda n: (failed[n].since or "", failed[n].exit_code == 1))
    cause = failed[order[0]]
    said = [
        f"rank {rank} of {ranks} ended with exit code {failed[rank].exit_code}: "
        f"{failed[rank].sentence or 'it left no last sentence'}"
        for rank in order[:3]
    ]
    return replace(cause, uid=uid, sentence=bounded("; ".join(said), 2000))


def _progress(pods: Mapping[int, Pod], news: Mapping[int, PodNews], ranks: int) -> PodNews:
    uid = news[0].uid
    queued = [rank for rank, one in news.items() if one.state is PodState.QUEUED]
    if queued:
        rank = queued[0]
        detail = f"rank {rank} of {ranks}: {news[rank].detail}"
        if len(queued) == ranks:
            return replace(news[rank], uid=uid, detail=detail)
        placed = ranks - len(queued)
        since = [scheduled_at(pods[one]) for one in news if one not in queued]
        return PodNews(
            uid=uid,
            state=PodState.INCOMPLETE,
            detail=f"{placed} of {ranks} pods have a node; {detail}",
            since=min((one for one in since if one), default=None),
        )
    for rank, one in news.items():
        if one.state is PodState.STARTING:
            return replace(one, uid=uid, detail=f"rank {rank} of {ranks}: {one.detail}")
    dues = (one.due for one in news.values() if one.due is not None)
    due = min(dues, key=datetime.fromisoformat, default=None)
    return PodNews(uid=uid, state=PodState.RUNNING, due=due)
