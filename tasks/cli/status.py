"""`headrace status`: one line that says what is wrong, then parts, addresses and releases."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.cli.home import Home
from tasks.cli.ledgers import state_of
from tasks.cli.parts import Status
from tasks.cli.processes import marked
from tasks.cli.stack import StackReport, airflow_of, running
from tasks.cli.stack_plan import AIRFLOW_USER
from tasks.contracts.errors import HeadraceError
from tasks.contracts.exit_codes import ExitCode
from tasks.rollout.state import models_with_state

if TYPE_CHECKING:
    import argparse

    from tasks.cli.airflow_api import Airflow
    from tasks.cli.console import Console

MAX_NOTE = 110


@dataclass(frozen=True, kw_only=True)
class Situation:
    """How the stack is: the line about what is wrong, and whether something is."""

    line: str
    well: bool


def run(options: argparse.Namespace, console: Console) -> int:
    """Say how the stack and its models are; exit 1 when something is wrong."""
    home = Home.from_environment()
    report = running(home)
    situation = assess(home, report)
    if options.json:
        console.say(json.dumps(_record(home, report, situation), indent=2))
    else:
        console.say(situation.line)
        if report is not None:
            _show_parts(home, report, console)
        _show_models(home, console)
    return int(ExitCode.DONE if situation.well else ExitCode.CRASHED)


def assess(home: Home, report: StackReport | None) -> Situation:
    """Return the one line: the worst thing first."""
    if report is None:
        return _not_running(home)
    for part in report.unwell:
        line = f"{part.name} {part.note}; started again {part.restarts} times; see {part.log}"
        return Situation(line=line, well=False)
    starting = [part.name for part in report.parts if not part.status.settled]
    if starting:
        return Situation(line=f"starting: {', '.join(starting)}", well=True)
    wrong = _wrong_with_airflow(airflow_of(home, report))
    return Situation(line=wrong or "all well", well=wrong is None)


def _wrong_with_airflow(airflow: Airflow) -> str | None:
    try:
        unhealthy, errors = airflow.unhealthy(), airflow.import_errors()
    except HeadraceError as error:
        return str(error)
    if unhealthy:
        return f"Airflow is not healthy: {', '.join(unhealthy)}"
    return f"a DAG cannot be read: {errors[0]}" if errors else None


def _not_running(home: Home) -> Situation:
    last = StackReport.read(home)
    left = [] if last is None else marked(last.stack_id)
    if left:
        line = (
            f"the supervisor has ended but left {len(left)} processes running; "
            "`headrace down` ends them, `headrace up` starts anew"
        )
        return Situation(line=line, well=False)
    return Situation(line=f"not running ({home.root}); `headrace up` starts it", well=False)


def _show_parts(home: Home, report: StackReport, console: Console) -> None:
    rows = [
        (
            part.name,
            part.status.value,
            "" if part.pid is None else str(part.pid),
            str(part.restarts),
            part.note[:MAX_NOTE],
        )
        for part in report.parts
        if part.status is not Status.FINISHED
    ]
    console.table("parts", ("part", "status", "pid", "restarts", "note"), rows)
    addresses = list(report.addresses.items())
    console.table("addresses", ("what", "where"), addresses)
    console.say(f"Airflow's user is {AIRFLOW_USER}; the password is in {home.secrets_file}")


def _show_models(home: Home, console: Console) -> None:
    rows = []
    for model in models_with_state(home.state):
        record = state_of(home, model).peek()
        stable, candidate = record.stable, record.candidate
        rows.append(
            (
                model,
                record.status.phase.value,
                "" if stable is None else f"{stable.release_number} {stable.release_id}",
                "" if candidate is None else f"{candidate.release_number} {candidate.release_id}",
                f"{record.status.share / 100:g} %",
            )
        )
    if rows:
        columns = ("model", "phase", "stable", "candidate", "share")
        console.table("releases", columns, rows)


def _record(home: Home, report: StackReport | None, situation: Situation) -> dict[str, object]:
    parts = () if report is None else report.parts
    return {
        "format": "status/1",
        "well": situation.well,
        "line": situation.line,
        "home": str(home.root),
        "addresses": {} if report is None else dict(report.addresses),
        "parts": {part.name: part.status.value for part in parts},
        "models": {
            model: state_of(home, model).peek().status.phase.value
            for model in models_with_state(home.state)
        },
    }
