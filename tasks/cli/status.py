"""`headrace status`: one line that says what is wrong, then parts, addresses and releases."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.cli.health import problems_of, read_models, records, room, unready
from tasks.cli.home import Home
from tasks.cli.parts import Status
from tasks.cli.processes import leftovers
from tasks.cli.stack import StackReport, running
from tasks.cli.stack_plan import AIRFLOW_USER
from tasks.contracts.errors import BadRequestError
from tasks.contracts.exit_codes import ExitCode

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from tasks.cli.console import Console
    from tasks.cli.health import ServedModel

MAX_NOTE = 110


@dataclass(frozen=True, kw_only=True)
class Situation:
    """How the stack is: one line, the worst problem first, and whether something is wrong."""

    line: str
    problems: tuple[str, ...] = ()

    @property
    def well(self) -> bool:
        """Return whether nothing is wrong."""
        return not self.problems

    @classmethod
    def bad(cls, *problems: str) -> Situation:
        """Return a situation in which at least one thing is wrong."""
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return cls(line=" ".join(problems[0].split()) + more, problems=problems)


def run(options: argparse.Namespace, console: Console) -> int:
    """Say how the stack and its models are; exit 1 when something is wrong."""
    home = Home.from_environment()
    try:
        report = running(home)
        situation = assess(home, report)
    except BadRequestError as error:  # a record that cannot be read is what is wrong
        report, situation = None, Situation.bad(str(error))
    models = read_models(home)
    if options.json:
        console.say(json.dumps(_record(home, report, situation, models), indent=2))
    else:
        console.say(situation.line)
        for problem in situation.problems[1:]:
            console.say(f"also: {problem}")
        if report is not None:
            _show_parts(home, report, console)
        _show_models(models, console)
    return int(ExitCode.DONE if situation.well else ExitCode.CRASHED)


def assess(home: Home, report: StackReport | None) -> Situation:
    """Return the one line: the worst thing first.

    Without a stack, records of a cluster are what there is to say, if HEADRACE_ROLLOUT_STATE names them.
    """
    if report is None:
        place = os.environ.get("HEADRACE_ROLLOUT_STATE")
        return _of_records(home, place) if place else _not_running(home)
    problems = problems_of(home, report)
    if problems:
        return Situation.bad(*problems)
    starting = [part.name for part in report.parts if not part.status.settled]
    return Situation(line=f"starting: {', '.join(starting)}" if starting else "all well")


def _not_running(home: Home) -> Situation:
    last = StackReport.read(home)
    left = leftovers(home.root, None if last is None else last.stack_id)
    if left:
        line = (
            f"the supervisor has ended but left {len(left)} processes running; "
            "`headrace down` ends them, `headrace up` starts anew"
        )
        return Situation.bad(line)
    return Situation.bad(f"not running ({home.root}); `headrace up` starts it", *room(home))


def _of_records(home: Home, place: str) -> Situation:
    models = read_models(home)
    if not models:
        return Situation.bad(
            f"{place}: expected state records of models, found none; see whether it is the rollout's "
            "namespace, and whether a model was released in it"
        )
    problems = [*records(models), *unready(models)]
    if problems:
        return Situation.bad(*problems)
    return Situation(line=f"all well by the records in {place}; nothing else was asked")


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
    console.say(f"logs: {home.logs}/PART.log; of all, as JSON lines: {home.log_file}")
    console.say(f"Airflow's user is {AIRFLOW_USER}; the password is in {home.secrets_file}")


def _show_models(models: Sequence[ServedModel], console: Console) -> None:
    rows = []
    for model in models:
        record = model.record
        if record is None:
            rows.append((model.name, "cannot be read", "", "", ""))
            continue
        stable, candidate = record.stable, record.candidate
        rows.append(
            (
                model.name,
                record.status.phase.value,
                "" if stable is None else f"{stable.release_number} {stable.release_id}",
                "" if candidate is None else f"{candidate.release_number} {candidate.release_id}",
                f"{record.status.share / 100:g} %",
            )
        )
    if rows:
        columns = ("model", "phase", "stable", "candidate", "share")
        console.table("releases", columns, rows)


def _record(
    home: Home, report: StackReport | None, situation: Situation, models: Sequence[ServedModel]
) -> dict[str, object]:
    parts = () if report is None else report.parts
    return {
        "format": "status/1",
        "well": situation.well,
        "line": situation.line,
        "problems": list(situation.problems),
        "home": str(home.root),
        "log": str(home.log_file),
        "addresses": {} if report is None else dict(report.addresses),
        "parts": {part.name: part.status.value for part in parts},
        "models": {
            model.name: None if model.record is None else model.record.status.phase.value
            for model in models
        },
    }
