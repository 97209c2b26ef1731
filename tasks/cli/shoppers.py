"""`headrace shoppers`: replayed users before the router, over files or over the records of a cluster."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tasks.adapters.config_map_records import named_records
from tasks.rollout import replay


def main(argv: Sequence[str] | None = None) -> int:
    """Replay until SIGTERM."""
    return replay.main(argv, named_records(os.environ))
