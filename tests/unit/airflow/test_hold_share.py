from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from headrace_airflow.hold_share import Hold, HoldShareOperator, HoldShareTrigger

RENEW = "open({log!r}, 'a').write('x')"
UNTIL_DECIDED = RENEW + "; raise SystemExit(4 if open({state!r}).read() == 'decided' else 0)"


def hold(tmp_path: Path, *, seconds: float, lease: float, code: str = UNTIL_DECIDED) -> Hold:
    state = tmp_path / "state.json"
    state.write_text("asked")
    return Hold(
        until=(datetime.now(tz=UTC) + timedelta(seconds=seconds)).isoformat(),
        state=str(state),
        renewal=(
            sys.executable,
            "-c",
            code.format(log=str(tmp_path / "renewals"), state=str(state)),
        ),
        lease_seconds=lease,
        release_id="7",
    )


def renewals(tmp_path: Path) -> int:
    return len((tmp_path / "renewals").read_text())


async def _first_event(trigger: HoldShareTrigger) -> dict[str, Any]:
    async for event in trigger.run():
        return dict(event.payload)
    raise AssertionError("the trigger ended without an event")


def test_the_lease_is_renewed_until_the_longest_wait_is_over(tmp_path: Path) -> None:
    asked = hold(tmp_path, seconds=3, lease=3)
    event = asyncio.run(_first_event(HoldShareTrigger(**asdict(asked))))
    assert "longest wait" in event["sentence"]
    assert 2 <= renewals(tmp_path) <= 4  # at once, then once a second


def test_a_decided_release_ends_the_renewals_soon_even_under_a_long_lease(tmp_path: Path) -> None:
    asked = hold(tmp_path, seconds=60, lease=600)

    async def decide_meanwhile() -> dict[str, Any]:
        fired = asyncio.create_task(_first_event(HoldShareTrigger(**asdict(asked))))
        await asyncio.sleep(0.7)
        Path(asked.state).write_text("decided")  # noqa: ASYNC240  one small local file
        return await fired

    began = time.monotonic()
    event = asyncio.run(decide_meanwhile())
    assert "no longer held" in event["sentence"]
    assert renewals(tmp_path) == 2
    assert time.monotonic() - began < 10


def record(*, release_id: str = "7", verdict: str = "proceed") -> str:
    last = {"kind": "cut", "at": "2026-11-26T10:00:00Z", "who": "keeper", "why": "errors"}
    return json.dumps(
        {
            "release_id": release_id,
            "status": {"phase": "paused", "step": 3, "verdicts": {"3": verdict}},
            "entries": [last],
            "roles": {"stable": None, "previous": None},
            "slots": {},
        }
    )


@pytest.mark.parametrize(
    ("text", "ends"),
    (
        pytest.param(record(verdict="roll_back"), True, id="cut by the keeper"),
        pytest.param(record(), False, id="its last step passed"),
        pytest.param(record(release_id="8", verdict="roll_back"), False, id="another release"),
    ),
)
def test_a_cut_ends_the_renewals_and_fails_the_task(
    tmp_path: Path, deployment: Any, text: str, ends: bool
) -> None:
    asked = hold(tmp_path, seconds=2, lease=60, code=RENEW)
    Path(asked.state).write_text(text)
    event = asyncio.run(_first_event(HoldShareTrigger(**asdict(asked))))
    assert event["cut"] is ends
    operator = HoldShareOperator(task_id="hold_share", release="r", deployment=deployment)
    if ends:
        assert not (tmp_path / "renewals").exists()
        with pytest.raises(AirflowFailException, match="cut by keeper at .*: errors"):
            operator.held({}, event)
    else:
        assert "longest wait" in operator.held({}, event)


def test_a_process_that_cannot_be_started_fails_nothing(tmp_path: Path) -> None:
    asked = replace(hold(tmp_path, seconds=1.5, lease=3), renewal=("/nonexistent/python",))
    event = asyncio.run(_first_event(HoldShareTrigger(**asdict(asked))))
    assert "longest wait" in event["sentence"]


def test_a_candidate_that_stays_silent_is_not_held_for_a_day(tmp_path: Path) -> None:
    since = (datetime.now(tz=UTC) - timedelta(minutes=16)).isoformat()
    kept = json.loads(record())
    kept["status"]["paused_by"], kept["entries"][-1]["at"] = "slot", since
    asked = hold(tmp_path, seconds=5, lease=60, code=RENEW)
    Path(asked.state).write_text(json.dumps(kept))
    assert asyncio.run(_first_event(HoldShareTrigger(**asdict(asked))))["cut"]


def test_a_renewal_that_crashes_is_tried_again_and_fails_nothing(tmp_path: Path) -> None:
    asked = hold(tmp_path, seconds=2.5, lease=3, code=RENEW + "; raise SystemExit(1)")
    event = asyncio.run(_first_event(HoldShareTrigger(**asdict(asked))))
    assert "longest wait" in event["sentence"]
    assert renewals(tmp_path) >= 2


def test_a_trigger_is_made_again_from_what_it_serializes(tmp_path: Path) -> None:
    asked = hold(tmp_path, seconds=60, lease=3)
    path, values = HoldShareTrigger(**asdict(asked)).serialize()
    assert path == "headrace_airflow.hold_share.HoldShareTrigger"
    assert HoldShareTrigger(**values).hold == asked
