"""Parse the command line, run one command, turn every error into a sentence and an exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from tasks.cli.options import COMMANDS, PASSED_ON, build_parser
from tasks.contracts.errors import HeadraceError, bounded
from tasks.contracts.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.cli.console import Console

INTERRUPTED = 130  # what shells give for Ctrl-C


class CommandModule(Protocol):
    """What the module of a command offers."""

    def run(self, options: argparse.Namespace, console: Console) -> int:
        """Do it and return the exit code."""
        ...


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An error as the command shows it."""

    sentence: str
    exit_code: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `headrace` command and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in PASSED_ON:
        module = importlib.import_module(PASSED_ON[words[0]])
        return int(module.main(words[1:]) or 0)
    parser = build_parser()
    try:
        options = parser.parse_args(words)
    except SystemExit as end:  # argparse has said why
        return int(end.code or 0)
    if options.command is None:
        parser.print_help()
        return int(ExitCode.USAGE)
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    from tasks.cli.console import Console  # noqa: PLC0415  parsing and help stay fast

    console = Console()
    try:
        module = importlib.import_module(COMMANDS[options.command])
        return cast("CommandModule", module).run(options, console)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.DONE)
    except (Exception, KeyboardInterrupt) as error:
        if getattr(options, "debug", False):
            raise
        failure = explain(error)
        console.complain(failure.sentence)
        return failure.exit_code


def explain(error: BaseException) -> Failure:
    """Return the sentence and exit code for an error that a command ended with."""
    if isinstance(error, HeadraceError):
        return Failure(sentence=str(error), exit_code=int(error.exit_code))
    if isinstance(error, KeyboardInterrupt):
        sentence = "interrupted; what runs goes on: `headrace status`, `headrace down`"
        return Failure(sentence=sentence, exit_code=INTERRUPTED)
    if isinstance(error, ModuleNotFoundError):
        sentence = (
            f"half-installed environment: expected the module {error.name}, found none; "
            "run `make install`"
        )
        return Failure(sentence=sentence, exit_code=int(ExitCode.BAD_REQUEST))
    sentence = (
        f"crashed: {type(error).__name__}: {bounded(str(error), 500)}; "
        "the same command with --debug shows where"
    )
    return Failure(sentence=sentence, exit_code=int(ExitCode.CRASHED))
