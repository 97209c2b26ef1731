"""A stage that waits for its pod without a worker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from airflow.sdk.exceptions import (
    AirflowException,
    TaskDeferred,
)
from headrace_airflow.pod_news import PodNews, PodState
from headrace_airflow.pod_trigger import PodTrigger

from tests.unit.airflow.pod_world import World


def deferred(world: World) -> PodTrigger:
    with pytest.raises(TaskDeferred) as raised:
        world.operator(deferrable=True).execute(world.context)
    path, values = raised.value.trigger.serialize()
    assert path == "headrace_airflow.pod_trigger.PodTrigger"
    assert raised.value.method_name == "resume"
    return PodTrigger(**values)


async def first_event(trigger: PodTrigger) -> Any:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("no event")


def test_a_deferred_task_is_green_by_the_triggers_news_though_the_pod_is_gone(
    world: World,
) -> None:
    trigger = deferred(world)
    (name,) = world.fake.pods
    world.fake.end(name, 0, world.sealed())
    event = asyncio.run(first_event(trigger))
    world.fake.pods.clear()
    address = world.operator(deferrable=True).resume(world.context, event)
    assert world.ti.pushed == {"return_value": address}


def test_a_pod_just_created_is_not_looked_at_before_the_worker_is_free(world: World) -> None:
    deferred(world)
    asked = [one for one in world.fake.asked if "/pods" in one]
    assert [one.partition(" ")[0] for one in asked] == ["POST"]


def test_a_pod_that_was_there_is_looked_at_before_its_task_defers(world: World) -> None:
    deferred(world)
    (name,) = world.fake.pods
    world.fake.end(name, 0, world.sealed())
    address = world.operator(deferrable=True).execute(world.context)
    assert world.ti.pushed == {"return_value": address}


def test_a_disrupted_pod_is_replaced_and_waited_for_again(world: World) -> None:
    trigger = deferred(world)
    world.fake.pods.clear()
    event = asyncio.run(first_event(trigger))
    assert PodNews.parse(event["news"]).state is PodState.DISRUPTED
    with pytest.raises(TaskDeferred):
        world.operator(deferrable=True).resume(world.context, event)
    assert world.record.attempt == 2


def test_news_of_an_older_attempt_are_not_believed(world: World) -> None:
    deferred(world)
    news = PodNews(uid="older", state=PodState.ENDED, sentence=world.sealed())
    with pytest.raises(TaskDeferred):
        world.operator(deferrable=True).resume(world.context, {"news": news.to_json()})
    assert "return_value" not in world.ti.pushed


def test_a_trigger_that_lost_the_api_hands_back(world: World) -> None:
    deferred(world)
    with pytest.raises(TaskDeferred):
        world.operator(deferrable=True).resume(world.context, {"away": "20 s"})
    assert len(world.fake.created) == 1


@pytest.mark.parametrize(
    ("state", "stays"),
    (("failed", False), (None, False), ("deferred", True), ("running", True)),
    ids=("marked failed", "deleted run", "another triggerer has it", "another try has it"),
)
def test_a_trigger_that_is_cancelled_removes_the_pod_of_an_ended_task_only(
    world: World, monkeypatch: pytest.MonkeyPatch, state: str | None, stays: bool
) -> None:
    trigger = deferred(world)
    monkeypatch.setattr(PodTrigger, "_state_in_airflow", lambda self: state)
    asyncio.run(trigger.on_kill())
    assert bool(world.fake.pods) is stays


@pytest.mark.parametrize(
    ("state", "stays"),
    (("failed", False), ("deferred", True), (AirflowException("away"), True)),
    ids=("marked failed", "the task listens", "Airflow does not say"),
)
def test_a_pod_that_ends_when_nobody_listens_any_more_is_removed(
    world: World, monkeypatch: pytest.MonkeyPatch, state: Any, stays: bool
) -> None:
    def said(self: PodTrigger) -> str:
        if isinstance(state, Exception):
            raise state
        return str(state)

    trigger = deferred(world)
    monkeypatch.setattr(PodTrigger, "_state_in_airflow", said)
    (name,) = world.fake.pods
    world.fake.end(name, 0, world.sealed())
    assert "news" in asyncio.run(first_event(trigger))
    assert bool(world.fake.pods) is stays
