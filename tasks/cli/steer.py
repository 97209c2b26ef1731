"""`headrace pause` and `headrace resume`: what only a person does to a step; needs no Airflow."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

from tasks.cli.home import Home
from tasks.cli.ledgers import demand_written, state_of
from tasks.contracts.exit_codes import ExitCode
from tasks.rollout.steer import steer

if TYPE_CHECKING:
    import argparse

    from tasks.cli.console import Console


def run(options: argparse.Namespace, console: Console) -> int:
    """Pause or resume the release in progress; who and why go into the ledger."""
    home = Home.from_environment()
    state = state_of(home, options.model)
    who = f"person {getpass.getuser()}"
    console.say(steer(state, options.command, who=who, why=options.reason))
    demand_written(home, state)
    return int(ExitCode.DONE)
