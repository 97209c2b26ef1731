"""The `headrace` command and the local stack that it starts and stops."""

from tasks.cli.command import main

__all__ = ["main"]
