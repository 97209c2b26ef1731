"""How a group of pods is made, followed and removed, on a Kubernetes that does as told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException
from headrace_airflow.pod_api import Patience, PodApi
from headrace_airflow.pod_group import PodGroup
from headrace_airflow.pod_identity import REQUEST_DIGEST, PodRecord, TaskKey
from headrace_airflow.pod_life import PodLife, Waits, look
from headrace_airflow.pod_news import PodState

from tests.fake_kubernetes import FakeKubernetes, serving, status

KEY = TaskKey(dag_id="d", run_id="r", task_id="train_model")
DIGEST = "a" * 64


class StateStore(dict[str, Any]):
    def set(self, key: str, value: Any) -> None:
        self[key] = value


def group_of(record: PodRecord) -> PodGroup:
    return PodGroup.of_pod(record.name, ranks=3, join_seconds=60)


def body_of(record: PodRecord) -> dict[str, Any]:
    pod = {
        "metadata": {
            "name": record.name,
            "annotations": {**KEY.annotations(record.attempt), REQUEST_DIGEST: DIGEST},
        },
        "spec": {"containers": [{"name": "base"}]},
    }
    return group_of(record).as_rank(pod, 0)


class World:
    def __init__(self, fake: FakeKubernetes) -> None:
        self.fake, self.state, self.said = fake, StateStore(), list[str]()

    def life(self, **waits: float) -> PodLife:
        limits = {"queue_seconds": 5, "start_seconds": 5, "poll_seconds": 0.05, "disruptions": 3}
        return PodLife(
            key=KEY,
            max_tries=2,
            api=PodApi("ns", Patience(seconds=1)),
            state=self.state,
            waits=Waits(**{**limits, **waits}),  # type: ignore[arg-type]
            say=self.said.append,
            pause=lambda seconds: time.sleep(min(seconds, 0.05)),
            group=group_of,
        )

    def names(self) -> list[str]:
        return sorted(name[len(KEY.pod_name(1)) - 1 :] for name in self.fake.pods)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    fake = FakeKubernetes()
    with serving(fake, tmp_path) as config:
        monkeypatch.setenv("KUBECONFIG", str(config))
        yield World(fake)


def running(world: World) -> None:
    for name in list(world.fake.pods):
        state = {"name": "base", "state": {"running": {}}}
        world.fake.say(name, phase="Running", containerStatuses=[state])


def test_all_ranks_and_their_service_are_made_once(world: World) -> None:
    first = world.life().acquire(body_of, DIGEST)
    again = world.life().acquire(body_of, DIGEST)  # as the next try does
    assert first == again
    assert world.names() == ["1", "1-r1", "1-r2"]
    assert len(world.fake.created) == 3
    (service,) = world.fake.services.values()
    assert service["metadata"]["ownerReferences"][0]["uid"] == first.uid


def test_a_try_cut_off_between_the_ranks_goes_on_with_those_that_lack(world: World) -> None:
    def away(method: str, path: str) -> Any:
        late = method == "POST" and len(world.fake.created) == 2
        return (503, status(503, "Unavailable"), {}) if late else None

    world.fake.fault = away
    with pytest.raises(AirflowException, match="expected an answer to create"):
        world.life().acquire(body_of, DIGEST)
    assert world.names() == ["1", "1-r1"]
    world.fake.fault = lambda method, path: None
    world.life().acquire(body_of, DIGEST)
    assert world.names() == ["1", "1-r1", "1-r2"]
    assert len(world.fake.created) == 3


def test_a_rank_that_is_gone_disrupts_the_group_and_none_is_left_of_it(world: World) -> None:
    life = world.life()
    life.acquire(body_of, DIGEST)
    running(world)
    del world.fake.pods[f"{life.record.name}-r2"]
    news = look(life.api, life.record)
    assert (news.state, news.detail[:25]) == (PodState.DISRUPTED, "Gone: rank 2 of 3 is not ")
    life.disrupted(news)
    assert world.names() == []
    life.acquire(body_of, DIGEST)
    assert world.names() == ["2", "2-r1", "2-r2"]
    assert life.record.disruptions == 1


def test_a_stranger_under_a_ranks_name_is_left_alone(world: World) -> None:
    name = f"{KEY.pod_name(1)}-r1"
    stranger = {"metadata": {"name": name, "uid": "theirs"}, "status": {"phase": "Running"}}
    world.fake.pods[name] = stranger
    with pytest.raises(AirflowException, match="found a pod of others"):
        world.life().acquire(body_of, DIGEST)
    assert world.fake.pods == {name: stranger}
    world.life().acquire(body_of, DIGEST)
    assert world.names() == ["1-r1", "2", "2-r1", "2-r2"]


def test_an_incomplete_group_is_removed_with_a_sentence(world: World) -> None:
    life = world.life(group_seconds=2)
    life.acquire(body_of, DIGEST)
    placed = {
        "type": "PodScheduled",
        "status": "True",
        "lastTransitionTime": "2026-11-25T10:00:00Z",
    }
    world.fake.say(life.record.name, phase="Running", conditions=[placed])
    with pytest.raises(AirflowException, match="1 of 3 pods have a node; rank 1 of 3") as raised:
        life.follow()
    assert "was part of an incomplete group for" in str(raised.value)
    assert "(limit 2 s)" in str(raised.value)
    assert life.record.name not in world.fake.pods  # the cluster removes what belongs to it


def test_a_quota_that_lets_only_a_part_in_gives_that_part_back(world: World) -> None:
    def full(method: str, path: str) -> Any:
        late = method == "POST" and len(world.fake.created) == 2
        refusal = status(403, "Forbidden", message="exceeded quota: pods=2")
        return (403, refusal, {}) if late else None

    world.fake.fault = full
    life = world.life(group_seconds=0.2)
    with pytest.raises(AirflowException, match="no room for 0.2 s"):
        life.acquire(body_of, DIGEST)
    assert life.record.outcome == "failed"
    assert life.record.name not in world.fake.pods
