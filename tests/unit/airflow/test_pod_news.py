from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from headrace_airflow.pod_life import Waits
from headrace_airflow.pod_news import PodNews, PodState, read_news

MADE = "2026-11-25T10:00:00Z"
SCHEDULED = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-25T10:05:00Z"}
WAITS = Waits(queue_seconds=60, start_seconds=30, poll_seconds=1, disruptions=3)


def pod(phase: str, *, state: Any = None, deleted: str | None = None, **status: Any) -> Any:
    statuses = [] if state is None else [{"name": "base", "image": "r/i:1", "state": state}]
    metadata: dict[str, Any] = {"uid": "u1", "creationTimestamp": MADE}
    if deleted:
        metadata |= {"deletionTimestamp": deleted, "deletionGracePeriodSeconds": 30}
    spec = {
        "activeDeadlineSeconds": 600,
        "containers": [{"name": "base", "resources": {"limits": {"memory": "16Gi"}}}],
    }
    return {
        "metadata": metadata,
        "spec": spec,
        "status": {"phase": phase, "containerStatuses": statuses, **status},
    }


def terminated(code: int, **more: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, **more}}


@pytest.mark.parametrize(
    ("given", "state", "part"),
    (
        pytest.param(pod("Pending"), PodState.QUEUED, "no node yet", id="no condition yet: queued"),
        pytest.param(
            pod(
                "Pending",
                conditions=[
                    {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
                ],
            ),
            PodState.QUEUED,
            "SchedulingGated",
            id="behind a gate is queued, not starting",
        ),
        pytest.param(
            pod(
                "Pending",
                conditions=[SCHEDULED],
                state={"waiting": {"reason": "ErrImagePull", "message": "not found"}},
            ),
            PodState.STARTING,
            "image r/i:1: ErrImagePull: not found",
            id="an image that cannot be had is named",
        ),
        pytest.param(pod("Running", state={"running": {}}), PodState.RUNNING, "", id="running"),
        pytest.param(
            pod("Unknown", state={"running": {}}),
            PodState.RUNNING,
            "",
            id="a node that is silent proves nothing: no second pod beside it",
        ),
        pytest.param(
            pod("Running", state={"running": {}}, deleted="2026-11-25T10:30:30Z"),
            PodState.RUNNING,
            "",
            id="a pod on its way out still works",
        ),
        pytest.param(
            pod("Failed", reason="Evicted", message="low on memory"),
            PodState.DISRUPTED,
            "Evicted: low on memory",
            id="evicted",
        ),
        pytest.param(
            pod("Failed", state=terminated(137), reason="Preempting", message="for another"),
            PodState.DISRUPTED,
            "Preempting: for another",
            id="preempted",
        ),
        pytest.param(
            pod(
                "Failed",
                state=terminated(137),
                conditions=[
                    {
                        "type": "DisruptionTarget",
                        "status": "True",
                        "reason": "PreemptionByScheduler",
                        "message": "by gpu-serve",
                    }
                ],
            ),
            PodState.DISRUPTED,
            "PreemptionByScheduler: by gpu-serve",
            id="a newer Kubernetes says so by a condition",
        ),
        pytest.param(
            pod("Failed"), PodState.DISRUPTED, "no container", id="rejected before any container"
        ),
        pytest.param(
            pod(
                "Failed",
                state=terminated(1, finishedAt="2026-11-25T10:30:05Z"),
                deleted="2026-11-25T10:30:30Z",
            ),
            PodState.DISRUPTED,
            "somebody deleted the pod",
            id="whatever code it ends with after its deletion (asked for at 10:30:00)",
        ),
        pytest.param(
            pod(
                "Failed",
                state=terminated(1, finishedAt="2026-11-25T10:29:59Z"),
                deleted="2026-11-25T10:30:30Z",
            ),
            PodState.ENDED,
            "",
            id="a crash before the deletion is a crash",
        ),
        pytest.param(
            pod("Failed", state=terminated(0), reason="Evicted"),
            PodState.ENDED,
            "",
            id="done is done, evicted or not",
        ),
        pytest.param(
            pod("Failed", state=terminated(3), deleted="2026-11-25T10:30:30Z"),
            PodState.ENDED,
            "",
            id="a refusal is a refusal",
        ),
    ),
)
def test_what_a_status_means(given: Any, state: PodState, part: str) -> None:
    news = read_news(given)
    assert news.state is state
    assert part in news.detail


def test_a_kill_for_memory_names_the_limit() -> None:
    news = read_news(pod("Failed", state=terminated(137, reason="OOMKilled")))
    assert (news.end.exit_code, news.state) == (-9, PodState.ENDED)
    assert news.sentence == "killed for memory at its limit of 16Gi"


def test_a_deadline_names_the_limit() -> None:
    news = read_news(pod("Failed", reason="DeadlineExceeded"))
    assert (news.state, news.exit_code) == (PodState.ENDED, 1)
    assert "longer than the 600 s" in news.sentence


def test_the_last_sentence_and_the_code_are_passed_on() -> None:
    news = read_news(pod("Succeeded", state=terminated(0, message="sealed it")))
    assert (news.end.exit_code, news.end.sentence, news.uid) == (0, "sealed it", "u1")


def test_news_survive_an_event() -> None:
    news = read_news(pod("Failed", state=terminated(137, reason="OOMKilled")))
    assert PodNews.parse(news.to_json()) == news


@pytest.mark.parametrize(
    ("state", "waited", "given_up"),
    (
        pytest.param(PodState.QUEUED, 60, False, id="in the queue up to its own limit"),
        pytest.param(PodState.QUEUED, 61, True, id="in the queue for longer"),
        pytest.param(PodState.STARTING, 30, False, id="starting up to its own limit"),
        pytest.param(PodState.STARTING, 31, True, id="starting for longer"),
        pytest.param(PodState.RUNNING, 10_000, False, id="running: its deadline is the pod's own"),
    ),
)
def test_each_wait_has_its_own_limit(state: PodState, waited: int, given_up: bool) -> None:
    now = datetime(2026, 11, 25, 12, tzinfo=UTC)
    since = datetime.fromtimestamp(now.timestamp() - waited, tz=UTC).isoformat()
    assert bool(WAITS.verdict(PodNews(uid="u", state=state, since=since), now)) is given_up


@pytest.mark.parametrize(
    ("more", "minutes", "given_up"),
    (
        pytest.param({"deleted": "2026-11-25T10:30:00Z"}, 34, False, id="its node may be slow"),
        pytest.param({"deleted": "2026-11-25T10:30:00Z"}, 36, True, id="deleted, and no end"),
        pytest.param({"startTime": "2026-11-25T10:20:00Z"}, 34, False, id="600 s, and 5 min"),
        pytest.param({"startTime": "2026-11-25T10:20:00Z"}, 36, True, id="beyond its deadline"),
        pytest.param({}, 59, False, id="nothing due"),
    ),
)
def test_a_node_that_falls_silent_is_not_waited_for_without_end(
    more: dict[str, Any], minutes: int, given_up: bool
) -> None:
    news = read_news(pod("Running", state={"running": {}}, **more))
    verdict = WAITS.verdict(news, datetime(2026, 11, 25, 10, minutes, tzinfo=UTC))
    assert (news.state, bool(verdict)) == (PodState.RUNNING, given_up)
    if given_up:
        assert "2026-11-25T10:30:00" in verdict
        assert "it may still work" in verdict


def test_a_name_that_is_no_image_is_given_up_at_once() -> None:
    waiting = {"waiting": {"reason": "InvalidImageName", "message": "couldn't parse"}}
    news = read_news(pod("Pending", conditions=[SCHEDULED], state=waiting))
    now = datetime(2026, 11, 25, 10, 5, 1, tzinfo=UTC)
    assert "can never start" in WAITS.verdict(news, now)


@pytest.mark.parametrize(
    ("age", "seconds"),
    (
        pytest.param(0, 0.5, id="a pod just made is looked at in half a second"),
        pytest.param(8, 0.8, id="one of eight seconds after a tenth of them"),
        pytest.param(3600, 1, id="an old one never later than the deployment says"),
    ),
)
def test_the_younger_a_pod_the_sooner_is_the_next_look(age: float, seconds: float) -> None:
    assert WAITS.before_a_look(age) == pytest.approx(seconds)
