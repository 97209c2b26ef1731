"""`headrace restore`: a model's state record again, from its ledger in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.adapters.object_store import ObjectStore
from tasks.cli.home import Home
from tasks.cli.ledgers import opened
from tasks.contracts.exit_codes import ExitCode
from tasks.rollout.restore import record_from_ledger, restore

if TYPE_CHECKING:
    import argparse

    from tasks.cli.console import Console


def run(options: argparse.Namespace, console: Console) -> int:
    """Print the record that the ledger leads to, or write it where there is none."""
    home = Home.from_environment()
    store = ObjectStore(home.store_url)
    record = record_from_ledger(store, options.model)
    if options.print:
        print(record.to_text(), end="")
        return int(ExitCode.DONE)
    restore(opened(home, options.model), record)
    console.say(
        f"{record.model}: restored from {record.sequence} entries of its ledger: "
        f"{record.status.phase}, {record.status.phase.meaning}"
    )
    return int(ExitCode.DONE)
