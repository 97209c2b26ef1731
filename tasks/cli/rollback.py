"""`headrace rollback`: end the release in progress, or serve the previous one; needs no Airflow."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

from tasks.cli.home import Home
from tasks.cli.ledgers import state_of
from tasks.contracts.errors import BadRequestError
from tasks.contracts.exit_codes import ExitCode
from tasks.rollout.state import Note

if TYPE_CHECKING:
    import argparse

    from tasks.cli.console import Console


def run(options: argparse.Namespace, console: Console) -> int:
    """Move the roles back and write who and why into the ledger."""
    state = state_of(Home.from_environment(), options.model)
    record = state.peek()
    stable = record.stable
    release_id = record.release_id or (None if stable is None else stable.release_id)
    if release_id is None:
        message = f"{options.model}: expected a release to take back, found none"
        raise BadRequestError(message)
    state.roll_back(release_id, note=Note(who=f"person {getpass.getuser()}", why=options.reason))
    now = state.peek().stable
    serves = "nobody serves" if now is None else f"release {now.release_number} serves"
    console.say(f"{options.model}: {release_id} rolled back; {serves}")
    return int(ExitCode.DONE)
