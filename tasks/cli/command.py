"""Parse the command line, run one command, turn every error into a sentence and an exit code."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from tasks.cli.options import COMMANDS, PASSED_ON, build_parser
from tasks.contracts.credentials import without_given_credentials
from tasks.contracts.errors import HeadraceError, bounded
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.log_lines import LineLog, Subject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.cli.console import Console

INTERRUPTED = 130  # what shells give for Ctrl-C
RUN_LONG = frozenset({"demo", "release", "up", "supervise"})  # their lines may be JSON

# What the operating system refuses: a retry helps once there is room, not before rights change.
_REFUSED_BY_THE_SYSTEM = {
    errno.ENOSPC: ("free some space (`headrace gc` removes what no release reaches)", True),
    errno.EDQUOT: ("free some space (`headrace gc` removes what no release reaches)", True),
    errno.EROFS: ("set HEADRACE_HOME to a folder that can be written", False),
    errno.EACCES: ("set HEADRACE_HOME to a folder that can be written", False),
    errno.EPERM: ("set HEADRACE_HOME to a folder that can be written", False),
    errno.ENOTDIR: ("set HEADRACE_HOME to a folder, not a path below a file", False),
}


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
        return _run_passed_on(words)
    parser = build_parser()
    try:
        options = parser.parse_args(words)
    except SystemExit as end:  # argparse has said why
        return int(end.code or 0)
    if options.command is None:
        parser.print_help()
        return int(ExitCode.USAGE)
    return _run(options)


def _run_passed_on(words: Sequence[str]) -> int:
    try:
        module = importlib.import_module(PASSED_ON[words[0]])
        return int(module.main(words[1:]) or 0)
    except (HeadraceError, ModuleNotFoundError) as error:
        failure = explain(error)
        sys.stderr.write(f"headrace {words[0]}: {failure.sentence}\n")
        return failure.exit_code


def _run(options: argparse.Namespace) -> int:
    from tasks.cli.console import Console  # noqa: PLC0415  parsing and help stay fast

    console = Console()
    try:
        if options.command in RUN_LONG:
            console.lines = LineLog.from_environment(Subject(process=options.command))
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
            "run `make setup`"
        )
        return Failure(sentence=sentence, exit_code=int(ExitCode.BAD_REQUEST))
    if isinstance(error, OSError) and error.errno in _REFUSED_BY_THE_SYSTEM:
        return _refused_by_the_system(error)
    sentence = (
        f"crashed: {type(error).__name__}: {bounded(without_given_credentials(str(error)), 500)}; "
        "the same command with --debug shows where"
    )
    return Failure(sentence=sentence, exit_code=int(ExitCode.CRASHED))


def _refused_by_the_system(error: OSError) -> Failure:
    next_step, retry_helps = _REFUSED_BY_THE_SYSTEM[error.errno or 0]
    where = error.filename2 or error.filename
    what = f"{where}: {error.strerror}" if where else str(error.strerror)
    code = ExitCode.CRASHED if retry_helps else ExitCode.BAD_REQUEST
    return Failure(sentence=f"{bounded(what, 500)}; {next_step}", exit_code=int(code))
