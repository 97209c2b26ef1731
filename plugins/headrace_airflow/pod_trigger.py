"""Waits for a pod without a worker: the same news, read by the triggerer, fenced by the same uid."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from airflow.sdk.exceptions import AirflowException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from headrace_airflow.pod_api import (
    ApiAwayError,
    LogPlace,
    Patience,
    PodApi,
    SharedConnection,
    unseen,
)
from headrace_airflow.pod_identity import ENDED_STATES, PodRecord
from headrace_airflow.pod_life import Waits, look
from headrace_airflow.pod_news import PodNews, PodState, utc_now

AWAY_SECONDS = 120.0
SHARED = SharedConnection()  # by all triggers of this triggerer


class PodTrigger(BaseTrigger):
    """Fire when the pod is over or has waited too long; the event carries the news."""

    def __init__(
        self, *, namespace: str, record: Mapping[str, Any], waits: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.namespace = namespace
        self.record = PodRecord.parse(record)
        self.waits = Waits(**waits)
        self._api = PodApi(namespace, Patience(seconds=0), SHARED.connected, SHARED.forget)
        self._log_place = LogPlace()

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what a triggerer needs to make this trigger again."""
        values = {
            "namespace": self.namespace,
            "record": self.record.to_json(),
            "waits": {
                "queue_seconds": self.waits.queue_seconds,
                "start_seconds": self.waits.start_seconds,
                "poll_seconds": self.waits.poll_seconds,
                "disruptions": self.waits.disruptions,
                "group_seconds": self.waits.group_seconds,
            },
        }
        return f"{PodTrigger.__module__}.{PodTrigger.__qualname__}", values

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until there is something to tell."""
        loop = asyncio.get_running_loop()
        answered = began = loop.time()
        while True:
            # First a pause: the task has just created the pod, or looked at it itself.
            await asyncio.sleep(self.waits.before_a_look(loop.time() - began))
            try:
                news = await asyncio.to_thread(look, self._api, self.record)
            except ApiAwayError as away:
                if loop.time() - answered > AWAY_SECONDS:
                    yield TriggerEvent({"away": str(away)})
                    return
            else:
                answered = loop.time()
                await self._pass_log_on(news)
                if news.over or self.waits.verdict(news, utc_now()):
                    await self._remove_if_nobody_listens()
                    yield TriggerEvent({"news": news.to_json()})
                    return

    async def _remove_if_nobody_listens(self) -> None:
        """Tidy up where a person ended the task and the triggerer has not cancelled us yet."""
        try:
            await self.on_kill()
        except Exception as error:  # noqa: BLE001  the task, if it listens, removes its pod itself
            self.log.warning("pod %s: %r", self.record.name, error)

    async def on_kill(self) -> None:
        """Remove the pod of a task that a person ended; a restart of the triggerer is no such end."""
        state = await asyncio.to_thread(self._state_in_airflow)
        # In any other state another triggerer or a new try has the task, and the pod may be theirs.
        if state is None or state in ENDED_STATES:
            self.log.info("pod %s: its task is %s: deleted", self.record.name, state)
            api = PodApi(self.namespace, Patience(seconds=20))
            await asyncio.to_thread(api.delete_own, self.record.name, str(self.record.uid))

    def _state_in_airflow(self) -> str | None:
        ti = self.task_instance
        if ti is None:
            message = f"trigger of pod {self.record.name}: expected a task instance, found none"
            raise AirflowException(message)
        return state_in_airflow(ti)

    async def _pass_log_on(self, news: PodNews) -> None:
        if news.state not in {PodState.RUNNING, PodState.ENDED}:
            return
        try:
            lines = await asyncio.to_thread(self._new_lines)
        except Exception as error:  # noqa: BLE001  log streaming never fails a task
            self.log.debug("log of %s: %r", self.record.name, error)
            return
        for self._log_place, text in lines:
            self.log.info("%s", text)

    def _new_lines(self) -> list[tuple[LogPlace, str]]:
        place = self._log_place
        since = place.seconds_ago(utc_now())
        return list(unseen(self._api.log_lines(self.record.name, follow=False, since=since), place))


def state_in_airflow(ti: Any) -> str | None:
    """Ask Airflow for the task instance's state; None: cleared, or not there any more."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance  # noqa: PLC0415

    map_index = -1 if ti.map_index is None else ti.map_index
    states = RuntimeTaskInstance.get_task_states(
        dag_id=ti.dag_id,
        task_ids=[ti.task_id],
        run_ids=[ti.run_id],
        map_index=map_index,
    )
    name = f"{ti.task_id}_{map_index}" if map_index >= 0 else ti.task_id
    state = states.get(ti.run_id, {}).get(name)
    return None if state is None else str(getattr(state, "value", state))
