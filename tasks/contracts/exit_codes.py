"""What the exit code of a stage means to Airflow."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `python -m tasks <stage>` and of the `headrace` command."""

    DONE = 0
    CRASHED = 1  # unknown: Airflow retries
    USAGE = 2  # the command line itself was wrong
    GATE_REFUSED = 3  # the data or the model is bad: a retry would find it just as bad
    BAD_REQUEST = 4  # the caller asked for something impossible: never retried
