"""Slots that are processes, killed and stopped beside a real Envoy and the keeper, without load.

The bounds on harm need requests; that a slot is gone is seen without any.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tasks.contracts.errors import BadRequestError
from tasks.rollout.envoy_stats import Statistics
from tasks.rollout.metrics import metrics_file
from tasks.rollout.phases import Phase
from tests.integration.rollout.conftest import Deployment, deployed, eventually
from tests.integration.rollout.process_slot import ProcessSlot
from tests.integration.rollout.test_router import name_of, users_of_candidate

pytestmark = pytest.mark.integration
NOTHING_COUNTED = Statistics(variants={}, slots={})


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Deployment]:
    with deployed(tmp_path, lambda _files: NOTHING_COUNTED, ProcessSlot) as made:
        made.first_release()
        made.begin(1)  # 5 % of users
        eventually(lambda: both_have_answered(made))
        yield made


def both_have_answered(deployment: Deployment) -> bool:
    """Say whether the keeper has heard of both: a slot that never answered may be loading."""
    path = metrics_file(deployment.files)
    text = path.read_text() if path.exists() else ""
    return all(
        f'headrace_slot_ready{{model="shop",slot="{colour}"}} 1' in text
        for colour in ("blue", "green")
    )


def phase(deployment: Deployment) -> Phase:
    return deployment.state.peek().status.phase


def answers(deployment: Deployment, user: str | None) -> str | None:
    try:
        answer = deployment.ask(user)
    except httpx.TransportError:
        return None
    return name_of(answer) if answer.status_code == 200 else None


def slot(found: object) -> ProcessSlot:
    assert isinstance(found, ProcessSlot)
    return found


def test_when_stable_is_killed_the_candidate_takes_everybody_until_a_person_decides(
    processes: Deployment,
) -> None:
    state, stable = processes.state, slot(processes.stable)
    others = [f"user-{number}" for number in range(40)]
    began = time.monotonic()
    stable.stop()
    eventually(lambda: phase(processes) is Phase.HALTED)
    assert time.monotonic() - began < 8
    entry = state.history()[-1]
    assert (entry.kind, entry.who, entry.share) == ("halted", "keeper", 10_000)
    # Also requests without a user, and bodies that are too large to be asked again.
    eventually(lambda: answers(processes, None) == "green")
    assert {answers(processes, user) for user in others} == {"green"}
    large = processes.client.post(
        f"{processes.url}/v1/models/shop:predict",
        content=b"x" * 5_000_000,
        headers={"x-model": "shop", "x-user-id": "ann"},
    )
    assert name_of(large) == "green"
    with pytest.raises(BadRequestError, match="stable does not answer and the candidate does"):
        state.roll_back("second")
    stable.start()
    eventually(lambda: state.peek().unready == ())
    assert phase(processes) is Phase.HALTED
    state.roll_back("second")
    eventually(lambda: {answers(processes, user) for user in others} == {"blue"})
    assert state.verify() == []


def test_a_candidate_that_is_stopped_is_paused_without_a_request_and_its_step_goes_on_later(
    processes: Deployment,
) -> None:
    state, candidate = processes.state, slot(processes.candidate)
    (user,) = users_of_candidate(processes, 1)
    candidate.signal(signal.SIGSTOP)
    began = time.monotonic()
    eventually(lambda: phase(processes) is Phase.PAUSED, seconds=15)
    took = time.monotonic() - began
    assert 3 <= took < 13  # a machine that is busy for a moment pauses nobody
    entry = state.history()[-1]
    assert (entry.kind, entry.who, entry.details) == ("paused", "keeper", {"paused_by": "slot"})
    eventually(lambda: answers(processes, user) == "blue")
    with pytest.raises(BadRequestError, match="the candidate's slot does not answer"):
        state.resume("second")
    candidate.signal(signal.SIGCONT)
    eventually(lambda: state.peek().unready == ())
    state.resume("second")
    eventually(lambda: answers(processes, user) == "green")


def test_with_both_slots_dead_the_candidate_gets_nobody(processes: Deployment) -> None:
    slot(processes.stable).stop()
    slot(processes.candidate).stop()
    eventually(lambda: phase(processes) in {Phase.PAUSED, Phase.HALTED})
    eventually(lambda: len(processes.state.peek().unready) == 2)
    assert processes.state.peek().status.share in {0, 10_000}
    slot(processes.stable).start()
    eventually(lambda: phase(processes) is Phase.PAUSED)
    eventually(lambda: answers(processes, "ann") == "blue")


def test_healthy_slots_are_asked_and_nothing_follows(processes: Deployment) -> None:
    time.sleep(6)
    assert phase(processes) is Phase.STEPPING
    assert processes.state.peek().unready == ()
