"""`headrace keeper`: the keeper beside Envoy, over files or over the ConfigMaps of a cluster."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tasks.adapters.watched_records import watched_records
from tasks.contracts.log_lines import LineLog, Subject
from tasks.contracts.slot_hosts import COLOURS, slot_folder, slots_text
from tasks.rollout import keeper


def main(argv: Sequence[str] | None = None) -> int:
    """Keep routes until SIGTERM."""
    log = LineLog.from_environment(Subject(process="keeper"))
    watched = watched_records(os.environ, who="keeper", say=log.info)
    slot_host = os.environ.get("HEADRACE_SLOT_HOST") or None
    if watched is None:
        return keeper.main(argv, slot_host=slot_host)
    options = keeper.parser_of_keeper().parse_args(argv)
    for model in watched.names:
        if slot_host is not None:
            slots_text(slot_host, options.state_dir, model)  # a bad template is told at once
        folders = (slot_folder(options.state_dir, model, colour) for colour in COLOURS)
        keeper.demand_folders(*folders)
    watched.start()
    try:
        return keeper.main(
            argv,
            records=watched,
            slot_host=slot_host,
            name=os.environ.get("HEADRACE_POD_NAME", ""),
            unseen=watched.unseen,
        )
    finally:
        watched.close()
