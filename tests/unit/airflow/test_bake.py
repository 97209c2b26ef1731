from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from headrace_airflow.bake import Bake, BakeTrigger, plan_bake

from tasks.contracts.requests import ReleaseRequest, plan_named

RELEASE = ReleaseRequest(
    release_id="r7",
    model="recommender",
    dataset="ml-1m",
    as_of="2026-01-31T00:00:00Z",
    recipe="markov",
    compression="int8",
    plan=plan_named("replay"),
)


def bake(tmp_path: Path, seconds: float, renewal: str = "pass", lease: float = 600) -> Bake:
    return Bake(
        until=(datetime.now(tz=UTC) + timedelta(seconds=seconds)).isoformat(),
        used_up=str(tmp_path / "used-up"),
        renewal=(sys.executable, "-c", renewal),
        lease_seconds=lease,
    )


async def _first_event(trigger: BakeTrigger) -> dict[str, Any]:
    async for event in trigger.run():
        return dict(event.payload)
    raise AssertionError("the trigger ended without an event")


def fire(asked: Bake) -> tuple[dict[str, Any], float]:
    started = time.monotonic()
    event = asyncio.run(_first_event(BakeTrigger(**asdict(asked))))
    return event, time.monotonic() - started


def test_a_bake_counts_from_the_ledgers_time(deployment: Any) -> None:
    planned = plan_bake(RELEASE, 3, "2026-11-24T01:00:00+00:00", deployment)
    assert planned.until == "2026-11-24T01:10:00+00:00"  # the third step bakes 600 s
    traffic = deployment.state_dir / "recommender" / "traffic"
    assert planned.used_up == str(traffic / "replayed-r7-step-3")


def test_a_bake_ends_in_time(tmp_path: Path) -> None:
    event, seconds = fire(bake(tmp_path, 1))
    assert not event["failed"]
    assert 0.9 <= seconds < 5


def test_a_bake_whose_time_is_over_ends_at_once(tmp_path: Path) -> None:
    assert fire(bake(tmp_path, -60))[1] < 0.5


def test_a_bake_ends_when_the_replay_is_used_up(tmp_path: Path) -> None:
    (tmp_path / "used-up").touch()
    event, seconds = fire(bake(tmp_path, 60))
    assert "used up" in event["sentence"]
    assert seconds < 5


def test_the_lease_is_renewed_while_it_bakes(tmp_path: Path) -> None:
    renewals = tmp_path / "renewals"
    fire(bake(tmp_path, 3, f"open({str(renewals)!r}, 'a').write('x')", lease=1.5))
    assert 2 <= len(renewals.read_text()) <= 6  # at once and every half second, polled


def test_a_lease_that_cannot_be_renewed_ends_the_bake_as_failed(tmp_path: Path) -> None:
    event, _ = fire(bake(tmp_path, 60, "raise SystemExit('the share lapsed')"))
    assert event["failed"]
    assert "the share lapsed" in event["sentence"]


def test_a_trigger_is_made_again_from_what_it_serializes(tmp_path: Path) -> None:
    asked = bake(tmp_path, 60)
    path, values = BakeTrigger(**asdict(asked)).serialize()
    assert path == "headrace_airflow.bake.BakeTrigger"
    assert BakeTrigger(**values).bake == asked


def test_the_longest_bake_may_be_cut(deployment: Any) -> None:
    short = replace(RELEASE, plan=plan_named("replay", bake_seconds=5))
    planned = plan_bake(short, 1, "2026-11-24T01:00:00Z", deployment)
    assert planned.until == "2026-11-24T01:00:05+00:00"


@pytest.mark.parametrize("started", ("None", "yesterday"))
def test_a_step_without_a_time_is_refused(deployment: Any, started: str) -> None:
    with pytest.raises(Exception, match="ISO 8601"):
        plan_bake(RELEASE, 1, started, deployment)
