"""`headrace down`: stop the local stack, and prove that nothing of it is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.cli.home import Home
from tasks.cli.processes import leftovers
from tasks.cli.stack import readable, stop_all
from tasks.cli.supervisor import is_held
from tasks.contracts.errors import HeadraceError
from tasks.contracts.exit_codes import ExitCode

if TYPE_CHECKING:
    import argparse

    from tasks.cli.console import Console


def run(_options: argparse.Namespace, console: Console) -> int:
    """Stop everything this home has started."""
    home = Home.from_environment()
    was_running = is_held(home.lock_file)
    if was_running:
        console.say("stopping the stack")
    ended = stop_all(home)
    report = readable(home)
    left = leftovers(home.root, None if report is None else report.stack_id)
    if left:
        pids = ", ".join(str(process.pid) for process in left[:10])
        message = (
            f"expected no process of the stack, found {len(left)} that cannot be ended: {pids}"
        )
        raise HeadraceError(message)
    if ended:
        console.say(f"ended {ended} processes that had been left running")
    console.say("stopped" if was_running else f"nothing was running for {home.root}")
    return int(ExitCode.DONE)
