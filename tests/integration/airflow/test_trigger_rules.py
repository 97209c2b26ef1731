"""A table of failures and skips, decided by Airflow's own scheduler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
STEPS_OF_REPLAY = 3
pytestmark = pytest.mark.trial


@dataclass(frozen=True, kw_only=True)
class Case:
    """Which tasks fail or skip by their own rule, and what must come of it."""

    name: str
    failed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ("approval", "hold_share")  # nobody asked for one
    waiting: tuple[str, ...] = ()  # for somebody who never comes
    late: tuple[str, ...] = ()  # begin when nothing else is left to begin
    planned: int = STEPS_OF_REPLAY
    run: str
    promote: str
    rollback: str
    mirror: str = "success"


CASES = (
    Case(name="all goes well", run="success", promote="success", rollback="skipped"),
    Case(
        name="a first release takes no step",
        planned=0,
        run="success",
        promote="success",
        rollback="skipped",
    ),
    Case(
        name="a plan of eight steps",
        planned=8,
        run="success",
        promote="success",
        rollback="skipped",
    ),
    Case(
        name="an approved release",
        skipped=(),
        run="success",
        promote="success",
        rollback="skipped",
    ),
    Case(
        name="the same bytes serve already",
        skipped=("stage_bundle", "approval", "hold_share"),
        run="success",
        promote="skipped",
        rollback="skipped",
    ),
    Case(
        name="a bad request",
        failed=("request_release",),
        run="failed",
        promote="upstream_failed",
        rollback="skipped",
    ),
    Case(
        name="a gate before staging refuses",
        failed=("gate_feature_set",),
        run="failed",
        promote="upstream_failed",
        rollback="skipped",
    ),
    Case(
        name="the last gate before staging refuses",
        failed=("gate_evaluation",),
        run="failed",
        promote="upstream_failed",
        rollback="skipped",
    ),
    Case(
        name="staging itself fails half way",
        failed=("stage_bundle",),
        run="failed",
        promote="upstream_failed",
        rollback="success",
    ),
    Case(
        name="the staged slot answers wrongly",
        failed=("gate_staged_slot",),
        run="failed",
        promote="upstream_failed",
        rollback="success",
    ),
    Case(
        name="traffic cannot be shifted",
        failed=("step_2.shift_traffic",),
        run="failed",
        promote="upstream_failed",
        rollback="success",
    ),
    Case(
        name="the lease lapses while a step bakes",
        failed=("step_1.bake",),
        run="failed",
        promote="upstream_failed",
        rollback="success",
    ),
    Case(
        name="the judge crashes for good",
        failed=("step_3.judge_step",),
        run="failed",
        promote="upstream_failed",
        rollback="success",
    ),
    Case(
        name="the gate of the last step refuses, skipped steps behind it",
        failed=("step_3.gate_step",),
        run="failed",
        promote="upstream_failed",
        rollback="success",
    ),
    Case(
        name="the gate of the eighth step refuses",
        failed=("step_8.gate_step",),
        planned=8,
        run="failed",
        promote="upstream_failed",
        rollback="success",
    ),
    Case(
        name="a person rejects",
        failed=("approval",),
        skipped=(),
        run="failed",
        promote="upstream_failed",
        rollback="success",
    ),
    Case(
        name="a person rejects a first release",
        failed=("approval",),
        skipped=(),
        planned=0,
        run="failed",
        promote="upstream_failed",
        rollback="success",
    ),
    Case(
        name="cut while a person decides",
        failed=("hold_share",),
        skipped=(),
        waiting=("approval",),
        run="running",
        promote="None",
        rollback="success",
        mirror="None",
    ),
    Case(
        name="the renewals fail when the release is out",
        failed=("hold_share",),
        late=("hold_share",),
        skipped=(),
        run="success",
        promote="success",
        rollback="skipped",
    ),
    Case(
        name="cut while a person decides, who then approves",
        failed=("hold_share", "promote_release"),
        skipped=(),
        run="failed",
        promote="failed",
        rollback="success",
    ),
    Case(
        name="promotion fails",
        failed=("promote_release",),
        run="failed",
        promote="failed",
        rollback="success",
    ),
    Case(
        name="the rollback fails too",
        failed=("step_1.gate_step", "roll_back_release"),
        run="failed",
        promote="upstream_failed",
        rollback="failed",
    ),
    Case(
        name="MLflow is away",
        skipped=("approval", "hold_share", "mirror_release"),  # its last try ends as skipped
        run="success",
        promote="success",
        rollback="skipped",
        mirror="skipped",
    ),
    Case(
        name="MLflow is away when a gate refused",
        failed=("step_1.gate_step",),
        skipped=("approval", "hold_share", "mirror_release"),
        run="failed",
        promote="upstream_failed",
        rollback="success",
        mirror="skipped",
    ),
)


@pytest.fixture(scope="session")
def decided(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("airflow")
    environment = {name: text for name, text in os.environ.items() if "HEADRACE" not in name} | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")]),
        "HEADRACE_RUNTIME": "local",
        "HEADRACE_STORE": f"file://{home}/store",
        "HEADRACE_STATE": str(home / "state"),
    }
    airflow = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(airflow, env=environment, check=True, capture_output=True, timeout=120)
    script = str(Path(__file__).with_name("simulate_runs.py"))
    asked = [
        {name: getattr(case, name) for name in ("failed", "skipped", "waiting", "late", "planned")}
        for case in CASES
    ]
    done = subprocess.run(
        [sys.executable, script],
        env=environment,
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    line = next(one for one in done.stdout.splitlines() if one.startswith("RESULT "))
    results = json.loads(line.removeprefix("RESULT "))
    return {case.name: found for case, found in zip(CASES, results, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_fails_rolls_back_and_never_promotes(case: Case, decided: dict[str, Any]) -> None:
    found = decided[case.name]
    tasks = found["tasks"]
    names = ("promote_release", "roll_back_release", "mirror_release")
    assert (found["run"], *[tasks[name] for name in names]) == (
        case.run,
        case.promote,
        case.rollback,
        case.mirror,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_promotion_and_rollback_never_both_change_something(
    case: Case, decided: dict[str, Any]
) -> None:
    tasks = decided[case.name]["tasks"]
    assert {tasks["promote_release"], tasks["roll_back_release"]} != {"success"}


@pytest.mark.parametrize("planned", (0, STEPS_OF_REPLAY, 8))
def test_exactly_the_planned_steps_run_in_order(planned: int, decided: dict[str, Any]) -> None:
    name = {
        0: "a first release takes no step",
        STEPS_OF_REPLAY: "all goes well",
        8: "a plan of eight steps",
    }[planned]
    parts = ("shift_traffic", "bake", "judge_step", "gate_step")
    found = decided[name]
    ran = [one for one in found["started"] if one.startswith("step_")]
    ran = [one for one in ran if found["tasks"][one] == "success"]
    assert ran == [f"step_{step}.{part}" for step in range(1, planned + 1) for part in parts]
