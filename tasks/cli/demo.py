"""`headrace demo`: from nothing to a promoted, served recommender; what runs is left running."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tasks.cli.home import Home
from tasks.cli.options import DEFAULT_MODEL
from tasks.cli.release_flow import Form, release_with_opponent
from tasks.cli.stack import start

if TYPE_CHECKING:
    import argparse

    from tasks.cli.console import Console
    from tasks.cli.stack import StackReport

DATASET = "complete-journey"
RECIPE = "blended_transformer"


def run(options: argparse.Namespace, console: Console) -> int:
    """Start the stack, release popularity if nobody serves, then the recipe."""
    started = time.monotonic()
    home = Home.from_environment()
    report = start(home, console)
    console.say(f"stack ready after {time.monotonic() - started:.0f} s")
    form = Form(model=DEFAULT_MODEL, dataset=DATASET, recipe=RECIPE, seed=options.seed)
    ending = release_with_opponent(home, form, console, first=False)
    _say_where(report, home, console)
    console.say(f"demo: {ending.sentence} ({time.monotonic() - started:.0f} s in all)")
    return int(ending.exit_code)


def _say_where(report: StackReport, home: Home, console: Console) -> None:
    for name, address in report.addresses.items():
        console.say(f"{name:8} {address}")
    console.say(f"         Airflow's user is admin, its password in {home.secrets_file}")
    console.say(f"next: headrace predict --user 1 --model {DEFAULT_MODEL}; headrace down")
