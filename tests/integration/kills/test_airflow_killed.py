"""Airflow, all of it, killed with -9 in a 5 % step and while a person decides: nobody renews, nobody pays.

The lease is the plan's own (600 s), so this takes more than twenty minutes, most of it waiting.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.cli.processes import marked
from tasks.cli.stack import airflow_of
from tasks.contracts.catalogues import RELEASE_DAGS, Material
from tasks.contracts.requests import PLANS
from tasks.rollout.envoy import router_files
from tasks.rollout.phases import Pause, Phase
from tasks.rollout.record import StateRecord
from tasks.rollout.state import open_state
from tests.integration.kills.driver import problems
from tests.integration.kills.test_stack import (
    MODEL,
    PATIENCE_SECONDS,
    Stack,
    patiently,
    run_id,
    seen_running,
    stack,
)

__all__ = ["stack"]  # the fixture
pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
LEASE_SECONDS = PLANS["replay"].lease_seconds
PROMISED_SECONDS = LEASE_SECONDS + 2
STEP_1_BASIS_POINTS, STEP_3_BASIS_POINTS = 500, 5000


@dataclass
class Users:
    """Somebody asks all the time; every answer or failure is kept."""

    stack: Stack
    answers: Counter[str] = field(default_factory=Counter)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        while not self.stop.wait(0.2):
            try:
                self.stack.ask()
                self.answers["answered"] += 1
            except OSError as error:
                self.answers[str(error)] += 1


@contextmanager
def users_asking(stack: Stack) -> Iterator[Users]:
    users = Users(stack=stack)
    thread = threading.Thread(target=users.ask)
    thread.start()
    try:
        yield users
    finally:
        users.stop.set()
        thread.join()


def record(stack: Stack) -> StateRecord:
    return open_state(stack.home.state, MODEL).peek()


@contextmanager
def airflow_dead(stack: Stack) -> Iterator[None]:
    """Kill every process of Airflow and keep it away: who would start it again is suspended."""
    report = stack.report
    assert report.supervisor is not None
    os.kill(report.supervisor.pid, signal.SIGSTOP)
    try:
        names = [part.name for part in report.parts if part.name.startswith("airflow")]
        assert len(names) >= 4, names
        for process in (one for name in names for one in marked(report.stack_id, name)):
            os.kill(process.pid, signal.SIGKILL)
        assert not [name for name in names if marked(report.stack_id, name)]
        yield
    finally:
        os.kill(report.supervisor.pid, signal.SIGCONT)


def paused_within_the_lease(stack: Stack, share: int) -> None:
    """Kill Airflow; see the candidate out within the lease plus 2 s, and no request fail."""
    assert record(stack).status.share == share
    routes = router_files(stack.home.state).routes
    with users_asking(stack) as users, airflow_dead(stack):
        killed = time.monotonic()
        patiently(lambda: record(stack).status.share == 0, PROMISED_SECONDS + 60)
        took = time.monotonic() - killed
        now = record(stack)
        assert took <= PROMISED_SECONDS
        assert (now.status.phase, now.status.paused_by) == (Phase.PAUSED, Pause.LEASE)
        patiently(lambda: f"r{now.candidate.release_number}:" not in routes.read_text(), 5)  # type: ignore[union-attr]
    print(f"{share / 100:g} %: out {took:.1f} s after the kill; users: {dict(users.answers)}")
    assert set(users.answers) == {"answered"}
    assert users.answers["answered"] > 100


def approve(stack: Stack, run: str, reason: str) -> None:
    airflow = airflow_of(stack.home, stack.report)
    path = f"/api/v2/dags/{RELEASE_DAGS[Material.EVENTS]}/dagRuns/{run}/taskInstances/approval/-1/hitlDetails"
    answer = {"chosen_options": ["Approve"], "params_input": {"reason": reason}}
    airflow._call("PATCH", path, answer)  # type: ignore[arg-type]


def test_airflow_killed_in_a_step_and_at_the_approval_gives_everybody_to_stable_and_goes_on(
    stack: Stack, tmp_path: Path
) -> None:
    stack.run(*stack.release_words("popularity"))
    assert stack.served == 1
    log = tmp_path / "second.log"
    second = stack.release("markov", log, "--approval")
    run = run_id(log)

    seen_running(stack, run, "step_1.bake")
    patiently(lambda: record(stack).status.share == STEP_1_BASIS_POINTS)
    paused_within_the_lease(stack, STEP_1_BASIS_POINTS)

    patiently(lambda: stack.states(run).get("approval") == "awaiting_input")
    patiently(lambda: stack.states(run).get("hold_share") in {"running", "deferred"})
    paused_within_the_lease(stack, STEP_3_BASIS_POINTS)

    patiently(lambda: record(stack).status.share == STEP_3_BASIS_POINTS)  # held again
    assert stack.states(run)["approval"] == "awaiting_input"
    approve(stack, run, "it was worth the wait")
    assert patiently(lambda: stack.ended(run)) == "success", stack.states(run)
    second.wait(timeout=PATIENCE_SECONDS)
    assert stack.served == 2
    store = stack.home.root / "store"
    assert problems(store) == []
    state = open_state(stack.home.state, MODEL, ObjectStore(f"file://{store}"))
    assert state.verify() == []
    assert any("it was worth the wait" in str(entry) for entry in state.history())
    stack.run("verify", "2", "--model", MODEL)
