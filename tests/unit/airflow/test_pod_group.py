from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import kubernetes_validate
import pytest
from headrace_airflow.pod_group import GROUP_LABEL, LAUNCHER, PodGroup, read_group
from headrace_airflow.pod_news import PodState

from tasks.contracts.errors import BadRequestError
from tasks.contracts.image_tags import STARTED
from tasks.contracts.stages import Image

NOW = datetime(2026, 11, 26, 10, 0, 30, tzinfo=UTC)
GROUP = PodGroup.of_pod("train-model-0123456789abcdef-3", ranks=2, join_seconds=600)
BODY: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "train-model-0123456789abcdef-3",
        "labels": {"headrace/task": "0123456789abcdef"},
        "annotations": {"headrace/attempt": "3"},
    },
    "spec": {
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "base",
                "image": "r/torch:1",
                "env": [{"name": "HEADRACE_STORE", "value": "s"}],
            },
            {"name": "side", "image": "r/side:1"},
        ],
    },
}


def environment(pod: Any) -> dict[str, Any]:
    (base,) = [one for one in pod["spec"]["containers"] if one["name"] == "base"]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in base["env"]}


def test_every_rank_knows_its_number_and_where_rank_0_is() -> None:
    zero = GROUP.as_rank(BODY, 0)
    (one,) = GROUP.members(zero, "u0")
    ranks = [environment(pod) for pod in (zero, one)]
    assert [told["PET_NODE_RANK"] for told in ranks] == ["0", "1"]
    assert {told["PET_NNODES"] for told in ranks} == {"2"}
    place = "rank-0.group-0123456789abcdef-3:29400"
    assert {told["PET_RDZV_ENDPOINT"] for told in ranks} == {place}
    assert {told["HEADRACE_STORE"] for told in ranks} == {"s"}
    assert [pod["spec"]["hostname"] for pod in (zero, one)] == ["rank-0", "rank-1"]
    assert "env" not in zero["spec"]["containers"][1]


def test_the_other_ranks_and_the_service_go_with_the_pod_of_rank_0() -> None:
    zero = GROUP.as_rank(BODY, 0)
    owned = [*GROUP.members(zero, "u0"), GROUP.service(zero, "u0")]
    for one in owned:
        (owner,) = one["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("Pod", "u0")
    assert owned[0]["metadata"]["name"] == "train-model-0123456789abcdef-3-r1"
    assert "ownerReferences" not in zero["metadata"]
    assert BODY["metadata"]["labels"] == {"headrace/task": "0123456789abcdef"}


def test_a_group_of_one_is_no_group() -> None:
    with pytest.raises(BadRequestError, match="expected 2 to 64 ranks, found 1"):
        PodGroup(name="group-a", ranks=1, join_seconds=1)


@pytest.mark.parametrize("kubernetes", ("1.29", "1.36"))
def test_what_is_rendered_is_what_newer_kubernetes_accepts(kubernetes: str) -> None:
    zero = GROUP.as_rank(BODY, 0)
    plain = [zero, *GROUP.members(zero, "u0"), GROUP.service(zero, "u0")]
    for one in (*plain, *GROUP.indexed_job(zero)):
        kubernetes_validate.validate(one, kubernetes, strict=True)


def test_the_schemas_refuse_what_is_misspelt() -> None:
    _, job = GROUP.indexed_job(GROUP.as_rank(BODY, 0))
    job["spec"]["completionMod"] = job["spec"].pop("completionMode")
    with pytest.raises(kubernetes_validate.ValidationError, match="completionMod"):
        kubernetes_validate.validate(job, "1.29", strict=True)


def test_an_indexed_job_ends_with_its_first_failed_rank() -> None:
    service, job = GROUP.indexed_job(GROUP.as_rank(BODY, 0))
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (2, 2, 0)
    assert service["spec"]["selector"] == {GROUP_LABEL: spec["template"]["spec"]["subdomain"]}
    told = environment(spec["template"])
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert told["PET_NODE_RANK"] == {"fieldRef": {"fieldPath": index}}
    assert told["PET_RDZV_ENDPOINT"] == "group-0123456789abcdef-3-0.group-0123456789abcdef-3:29400"
    assert "hostname" not in spec["template"]["spec"]  # all would be called rank-0
    assert "headrace/rank" not in spec["template"]["metadata"]["labels"]


def test_the_launcher_is_part_of_the_tag_of_its_image() -> None:
    assert STARTED[Image.TORCH] == (LAUNCHER[2],)


# --- the group read as one pod -------------------------------------------------------------------


def pod(rank: int, phase: str, *, state: Any = None, deleted: bool = False, **status: Any) -> Any:
    metadata: dict[str, Any] = {"uid": f"u{rank}", "creationTimestamp": "2026-11-26T10:00:00Z"}
    if deleted:
        metadata |= {"deletionTimestamp": "2026-11-26T10:00:31Z", "deletionGracePeriodSeconds": 2}
    statuses = [] if state is None else [{"name": "base", "state": state}]
    return {
        "metadata": metadata,
        "spec": {"containers": []},
        "status": {"phase": phase, "containerStatuses": statuses, **status},
    }


def placed(at: str) -> dict[str, Any]:
    return {"conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": at}]}


def running(rank: int, **more: Any) -> Any:
    return pod(rank, "Running", state={"running": {}}, **placed("2026-11-26T10:00:02Z"), **more)


def queued(rank: int) -> Any:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    return pod(rank, "Pending", conditions=[{**condition, "message": "1 Insufficient gpu."}])


def ended(rank: int, code: int, said: str, at: str = "10:00:29", **more: Any) -> Any:
    state = {"terminated": {"exitCode": code, "message": said, "finishedAt": f"2026-11-26T{at}Z"}}
    return pod(rank, "Failed" if code else "Succeeded", state=state, **more)


@pytest.mark.parametrize(
    ("zero", "one", "state", "part"),
    (
        pytest.param(queued(0), queued(1), PodState.QUEUED, "rank 0 of 2", id="all wait: queued"),
        pytest.param(
            running(0),
            queued(1),
            PodState.INCOMPLETE,
            "1 of 2 pods have a node; rank 1 of 2: Unschedulable: 1 Insufficient gpu.",
            id="one waits while the other holds a node: incomplete",
        ),
        pytest.param(
            running(0),
            pod(1, "Pending", **placed("2026-11-26T10:00:02Z")),
            PodState.STARTING,
            "rank 1 of 2",
            id="one is still starting: the group is starting",
        ),
        pytest.param(running(0), running(1), PodState.RUNNING, "", id="both run"),
        pytest.param(
            running(0), ended(1, 0, ""), PodState.RUNNING, "", id="rank 0 is not done: running"
        ),
        pytest.param(
            running(0), None, PodState.DISRUPTED, "rank 1 of 2 is not there", id="one is gone"
        ),
        pytest.param(
            ended(0, 1, "peer closed"),
            running(1, deleted=True),
            PodState.DISRUPTED,
            "rank 1 of 2: Deleted",
            id="a rank that fails since another is being deleted is disrupted, not at fault",
        ),
        pytest.param(
            running(0),
            ended(1, 7, "gave up"),
            PodState.RUNNING,
            "1 of 2 ranks failed",
            id="one has just failed: its peers may tell more",
        ),
    ),
)
def test_a_group_is_as_far_as_its_last_rank(
    zero: Any, one: Any, state: PodState, part: str
) -> None:
    pods = {0: zero} if one is None else {0: zero, 1: one}
    news = read_group(pods, 2, NOW)
    assert (news.uid, news.state) == ("u0", state)
    assert part in news.detail


def test_an_incomplete_group_counts_from_the_first_node_that_it_holds() -> None:
    news = read_group({0: running(0), 1: queued(1)}, 2, NOW)
    assert news.seconds(NOW) == 28.0


def test_a_group_is_due_when_the_first_of_its_pods_is() -> None:
    news = read_group({0: running(0), 1: running(1, deleted=True)}, 2, NOW)
    assert (news.state, news.due) == (PodState.RUNNING, "2026-11-26T10:00:31Z")


def test_the_sentence_of_rank_0_is_the_group_s_evidence() -> None:
    news = read_group({0: ended(0, 0, "sealed x"), 1: running(1)}, 2, NOW)
    assert (news.state, news.exit_code, news.sentence) == (PodState.ENDED, 0, "sealed x")


@pytest.mark.parametrize(
    ("zero", "one", "code", "first"),
    (
        pytest.param(
            ended(0, 1, "peer closed", "10:00:20"),
            ended(1, 7, "gave up", "10:00:19"),
            7,
            "rank 1 of 2 ended with exit code 7: gave up; rank 0 of 2",
            id="the first to fail is the cause",
        ),
        pytest.param(
            ended(0, 1, "peer closed", "10:00:19"),
            ended(1, 7, "gave up", "10:00:19"),
            7,
            "rank 1 of 2 ended with exit code 7",
            id="within one second a code of its own is the cause, not the crash of a peer",
        ),
        pytest.param(
            running(0),
            ended(1, 7, "gave up", "10:00:20"),
            7,
            "rank 1 of 2 ended with exit code 7: gave up",
            id="a peer that hangs is not waited for",
        ),
        pytest.param(
            running(0),
            ended(1, 3, "the gate refused", "10:00:30"),
            3,
            "rank 1 of 2 ended with exit code 3: the gate refused",
            id="a refusal counts at once",
        ),
    ),
)
def test_one_failed_rank_fails_the_group(zero: Any, one: Any, code: int, first: str) -> None:
    news = read_group({0: zero, 1: one}, 2, NOW)
    assert (news.uid, news.state, news.exit_code) == ("u0", PodState.ENDED, code)
    assert news.sentence.startswith(first)
