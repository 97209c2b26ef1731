"""`headrace rollback`: end the release in progress, or a named one; needs no Airflow."""

from __future__ import annotations

import getpass
import time
from typing import TYPE_CHECKING

from tasks.cli.home import Home
from tasks.cli.ledgers import demand_written, state_of
from tasks.cli.predict import served_version
from tasks.cli.stack import running
from tasks.contracts.errors import HeadraceError
from tasks.contracts.exit_codes import ExitCode
from tasks.rollout.state import Note
from tasks.rollout.take_back import take_back

if TYPE_CHECKING:
    import argparse

    from tasks.cli.console import Console

ROUTER_SECONDS = 10.0
POLL_SECONDS = 0.2


def run(options: argparse.Namespace, console: Console) -> int:
    """Move the roles back, write who and why into the ledger, and see the router follow."""
    home = Home.from_environment()
    state = state_of(home, options.model)
    note = Note(who=f"person {getpass.getuser()}", why=options.reason)
    entry = take_back(state, options.release, note=note)
    now = state.peek().stable
    serves = "nobody serves" if now is None else f"release {now.release_number} serves"
    console.say(f"{options.model}: {entry.release_id} rolled back; {serves}")
    if now is not None:
        _see_router_follow(home, options.model, now.release_number)
    demand_written(home, state)
    return int(ExitCode.DONE)


def _see_router_follow(home: Home, model: str, release_number: int) -> None:
    """Users see what the router does, not what the ledger says: wait for it, or say it did not."""
    report = running(home)
    if report is None:
        return
    router, found = report.addresses["router"], None
    deadline = time.monotonic() + ROUTER_SECONDS
    while time.monotonic() < deadline:
        found = served_version(router, model)
        if found == str(release_number):
            return
        time.sleep(POLL_SECONDS)
    message = (
        f"router {router}: expected it to serve release {release_number} within "
        f"{ROUTER_SECONDS:.0f} s, found {found or 'no answer'}; the ledger is right, the keeper "
        "may not be: see `headrace status`"
    )
    raise HeadraceError(message)
