"""The local stack from outside: is it running, start it, stop it, ask how it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tasks.cli.airflow_api import TIMEOUT_SECONDS, Airflow
from tasks.cli.home import CHECKOUT, Home, Secrets, read_json, write_private
from tasks.cli.installed import demand_installed
from tasks.cli.parts import Status
from tasks.cli.processes import Identity, stop, wait_gone
from tasks.cli.stack_plan import AIRFLOW_USER, clean_environment
from tasks.cli.supervisor import clear_leftovers, holder_of, is_held, last_line
from tasks.contracts.errors import BadRequestError, HeadraceError
from tasks.contracts.json_types import Json, pretty_json
from tasks.contracts.log_lines import FILE_VARIABLE, FORMAT_VARIABLE, Form

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.cli.console import Console

POLL_SECONDS = 0.2
SUPERVISOR_SECONDS = 20.0
AIRFLOW_SECONDS = 240.0
STOP_SECONDS = 60.0
DAMAGED = "run `headrace down`: it ends what runs, by its marks, and sets the file aside"


@dataclass(frozen=True, kw_only=True)
class PartReport:
    """How one part of the stack is doing."""

    name: str
    status: Status
    restarts: int
    note: str
    log: Path
    process: Identity | None

    @property
    def pid(self) -> int | None:
        """Return the process's pid, None where none runs."""
        return None if self.process is None else self.process.pid


@dataclass(frozen=True, kw_only=True)
class StackReport:
    """What `stack.json` says (`stack/1`)."""

    stack_id: str
    supervisor: Identity | None
    addresses: Mapping[str, str]
    notes: tuple[str, ...]
    data_folder: str | None
    parts: tuple[PartReport, ...]
    ports: Mapping[str, int] = field(default_factory=dict)
    checkout: str | None = None  # whose code runs; None in records of older versions

    @property
    def unwell(self) -> tuple[PartReport, ...]:
        """Return the parts that ended by themselves and wait to be started again."""
        return tuple(part for part in self.parts if part.status is Status.BACKING_OFF)

    @property
    def not_up_yet(self) -> tuple[PartReport, ...]:
        """Return the parts of which nobody expects an answer: one started again is missed."""
        first = (part for part in self.parts if part.restarts == 0)
        return tuple(part for part in first if not part.status.settled)

    @classmethod
    def read(cls, home: Home) -> StackReport | None:
        """Read the record of the last start, None where there was none."""
        if not home.stack_file.exists():
            return None
        try:
            raw = cast("dict[str, Any]", read_json(home.stack_file))
        except (BadRequestError, OSError) as error:
            message = f"{error}; {DAMAGED}"
            raise BadRequestError(message) from error
        try:
            return cls(
                stack_id=raw["stack_id"],
                supervisor=Identity.from_record(raw["supervisor"]),
                addresses=raw["addresses"],
                notes=tuple(raw["notes"]),
                data_folder=raw["data_folder"],
                parts=tuple(_part(name, row) for name, row in raw["parts"].items()),
                ports=raw.get("ports", {}),
                checkout=raw.get("checkout"),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            message = (
                f"{home.stack_file}: expected a complete stack/1, found a bad field: {error!r}; "
                f"{DAMAGED}"
            )
            raise BadRequestError(message) from error


def _part(name: str, row: Mapping[str, Any]) -> PartReport:
    return PartReport(
        name=name,
        status=Status(row["status"]),
        restarts=row["restarts"],
        note=row["note"],
        log=Path(row["log"]),
        process=Identity.from_record(row["process"]),
    )


def running(home: Home) -> StackReport | None:
    """Return the report of the running stack, None where none runs."""
    report = StackReport.read(home)
    if report is None or report.supervisor is None or not report.supervisor.alive:
        return None
    return report


def the_running(home: Home) -> StackReport:
    """Return the report of the running stack; none is an error that says how to start it."""
    report = running(home)
    if report is None:
        message = f"{home.root}: expected a running stack, found none; run `headrace up`"
        raise BadRequestError(message)
    return report


def airflow_of(
    home: Home, report: StackReport, timeout_seconds: float = TIMEOUT_SECONDS
) -> Airflow:
    """Return the client of the stack's Airflow."""
    password = Secrets.load(home).airflow_password
    return Airflow(
        report.addresses["airflow"],
        user=AIRFLOW_USER,
        password=password,
        timeout_seconds=timeout_seconds,
    )


def start(home: Home, console: Console) -> StackReport:
    """Start the stack unless it runs, and wait until Airflow takes requests."""
    report = running(home)
    if report is not None:
        demand_same_checkout(home, report)
    else:
        demand_installed()
        home.create()
        home.demand_room()
        report = _start_supervisor(home)
        for note in report.notes:
            console.say(note)
    data_folder = os.environ.get("HEADRACE_DATA")
    if data_folder and data_folder != report.data_folder:
        _tell_data_folder(home, report, data_folder)
    _await_airflow(home, report, console)
    return the_running(home)


def demand_same_checkout(home: Home, report: StackReport) -> None:
    """Refuse to use a stack that runs another checkout's code."""
    if report.checkout in {None, str(CHECKOUT)}:
        return
    pid = None if report.supervisor is None else report.supervisor.pid
    message = (
        f"{home.root}: expected a home of this checkout ({CHECKOUT}), found the running stack of "
        f"another one, {report.checkout} (supervisor {pid}); set HEADRACE_HOME to another folder, "
        "or stop that stack first: `headrace down`"
    )
    raise BadRequestError(message)


def _start_supervisor(home: Home) -> StackReport:
    before = StackReport.read(home)
    log = home.logs / "supervisor.log"
    with log.open("ab") as writer:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.cli", "supervise"],
            env=clean_environment(os.environ)
            | {
                "PYTHONPATH": str(CHECKOUT),
                "HEADRACE_HOME": str(home.root),
                FORMAT_VARIABLE: Form.PLAIN.value,
                FILE_VARIABLE: str(home.log_file),
            },
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + SUPERVISOR_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        report = running(home)
        if report is not None and (before is None or report.stack_id != before.stack_id):
            return report
        time.sleep(POLL_SECONDS)
    message = f"the stack's supervisor did not start: {last_line(log)} (see {log})"
    raise HeadraceError(message)


def _tell_data_folder(home: Home, report: StackReport, folder: str) -> None:
    """Restart what runs stages so that they see this HEADRACE_DATA."""
    write_private(settings_file(home), pretty_json({"data_folder": folder}))
    if report.supervisor is None:
        return
    os.kill(report.supervisor.pid, signal.SIGHUP)
    deadline = time.monotonic() + SUPERVISOR_SECONDS
    while the_running(home).data_folder != folder and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def settings_file(home: Home) -> Path:
    """Return the file through which a running supervisor is told new settings."""
    return home.root / "settings.json"


def settings(home: Home) -> dict[str, Json]:
    """Return what the supervisor was told, empty where nothing was."""
    path = settings_file(home)
    return read_json(path) if path.exists() else {}


def _await_airflow(home: Home, report: StackReport, console: Console) -> None:
    airflow, started = airflow_of(home, report), time.monotonic()
    waiting_for = ["api"]
    while waiting_for:
        try:
            waiting_for = list(airflow.unhealthy())
        except HeadraceError:
            waiting_for = ["api"]
        if not waiting_for:
            return
        seconds = time.monotonic() - started
        if seconds > AIRFLOW_SECONDS:
            message = _slow_start(home, seconds, waiting_for)
            raise HeadraceError(message)
        console.say_now_and_then(
            "up", f"Airflow starts: {seconds:3.0f} s, {', '.join(waiting_for)}"
        )
        time.sleep(POLL_SECONDS)


def _slow_start(home: Home, seconds: float, waiting_for: list[str]) -> str:
    unwell = "; ".join(f"{part.name} {part.note}" for part in the_running(home).unwell)
    return (
        f"Airflow: expected it healthy within {seconds:.0f} s, found {', '.join(waiting_for)} not "
        f"so; {unwell or 'no part has ended'}; see {home.logs}"
    )


def stop_all(home: Home) -> int:
    """Stop the stack and everything it left running; return how many leftovers were ended."""
    supervisor = _the_supervisor(home)
    if supervisor is not None:
        os.kill(supervisor.pid, signal.SIGTERM)
        if wait_gone([supervisor], STOP_SECONDS):
            stop(supervisor, polite_seconds=1.0)
    elif is_held(home.lock_file):
        message = (
            f"{home.lock_file}: held by a supervisor that {home.stack_file} does not name; "
            "it is starting or stopping: try again in a few seconds"
        )
        raise HeadraceError(message)
    ended = clear_leftovers(home.stack_file, home.root)
    if readable(home) is None:
        _set_aside(home)
    return ended


def _the_supervisor(home: Home) -> Identity | None:
    """Return the supervisor that runs: the record names it, or the lock where that is damaged."""
    report = readable(home)
    if report is not None and report.supervisor is not None and report.supervisor.alive:
        return report.supervisor
    return holder_of(home.lock_file)


def readable(home: Home) -> StackReport | None:
    """Return the record of the last start, None where there is none that can be read."""
    try:
        return StackReport.read(home)
    except BadRequestError:
        return None


def _set_aside(home: Home) -> None:
    """Let a record that cannot be read make way, for somebody to look at."""
    with suppress(FileNotFoundError):
        home.stack_file.replace(home.stack_file.with_name("stack.damaged.json"))
