"""`headrace supervise` (internal): the process in the background that keeps the stack running."""

from __future__ import annotations

import json
import os
import uuid
from typing import TYPE_CHECKING

from tasks.cli.home import CHECKOUT, Home, Secrets, write_private
from tasks.cli.ports import LOOPBACK, USUAL_PORTS, PortBook, default_folder
from tasks.cli.processes import Identity
from tasks.cli.slots import SlotBoard
from tasks.cli.stack import settings
from tasks.cli.stack_plan import AIRFLOW_USER, Stack, parts_of, passwords_file
from tasks.cli.supervisor import Supervisor, clear_leftovers, held
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.log_lines import Level
from tasks.rollout.envoy import router_files, write_bootstrap

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from tasks.cli.console import Console
    from tasks.cli.parts import Part
    from tasks.contracts.json_types import Json


def run(_options: argparse.Namespace, console: Console) -> int:
    """Supervise the stack of this home until told to stop."""
    home = Home.from_environment()
    home.create()
    with held(home.lock_file):
        ended = clear_leftovers(home.stack_file, home.root)
        if ended:
            console.say(f"ended {ended} processes that an earlier stack had left running")
        _supervise(home, _said(console))
    return int(ExitCode.DONE)


def _said(console: Console) -> Callable[[str], None]:
    def say(line: str) -> None:
        console.say(line)
        console.note(Level.INFO, line)

    return say


def _supervise(home: Home, say: Callable[[str], None]) -> None:
    book = PortBook(folder=default_folder())
    chosen = book.choose(USUAL_PORTS)
    secrets = Secrets.load_or_make(home)
    write_private(passwords_file(home), json.dumps({AIRFLOW_USER: secrets.airflow_password}))
    stack = Stack(home=home, ports=chosen.ports, secrets=secrets)
    ports = chosen.ports
    write_bootstrap(
        router_files(home.state),
        port=ports["router"],
        admin_port=ports["router-admin"],
        host=LOOPBACK,
    )
    board = SlotBoard(state=home.state, book=book)
    stack_id = uuid.uuid4().hex
    me = Identity.of(os.getpid())

    def plan() -> Sequence[Part]:
        return parts_of(stack, board, data_folder())

    def data_folder() -> str | None:
        told = settings(home).get("data_folder")
        return str(told) if told else os.environ.get("HEADRACE_DATA")

    def about() -> dict[str, Json]:
        return {
            "stack_id": stack_id,
            "supervisor": None if me is None else me.to_record(),
            "checkout": str(CHECKOUT),
            "ports": dict(stack.ports),
            "addresses": dict(stack.addresses),
            "notes": list(chosen.notes),
            "data_folder": data_folder(),
        }

    Supervisor(
        plan=plan,
        logs=home.logs,
        record=home.stack_file,
        about=about,
        stack_id=stack_id,
        say=say,
    ).run()
