"""`headrace up`: start the local stack and say where its parts are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.cli.home import Home
from tasks.cli.stack import start
from tasks.contracts.exit_codes import ExitCode

if TYPE_CHECKING:
    import argparse

    from tasks.cli.console import Console


def run(_options: argparse.Namespace, console: Console) -> int:
    """Start what does not run yet."""
    report = start(Home.from_environment(), console)
    for name, address in report.addresses.items():
        console.say(f"{name:8} {address}")
    return int(ExitCode.DONE)
