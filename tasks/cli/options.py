"""The command line of `headrace`: commands, options and their help. Imports nothing heavy."""

from __future__ import annotations

import argparse
from types import MappingProxyType
from typing import TYPE_CHECKING

from tasks.contracts.catalogues import COMPRESSIONS, DATASETS, PICTURE_RECIPES, RECIPES
from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import CANDIDATE, MODEL_NAME, PLANS, RELEASE_ID, STABLE, parse_utc

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_MODEL = "recommender"
DEFAULT_GRACE_HOURS = 24.0

# command -> module with run(options, console); imported only when it is asked for
COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "demo": "tasks.cli.demo",
        "release": "tasks.cli.release",
        "status": "tasks.cli.status",
        "predict": "tasks.cli.predict",
        "history": "tasks.cli.history",
        "verify": "tasks.cli.verify",
        "pause": "tasks.cli.steer",
        "resume": "tasks.cli.steer",
        "hotfix": "tasks.cli.hotfix",
        "rollback": "tasks.cli.rollback",
        "restore": "tasks.cli.restore",
        "gc": "tasks.cli.collect",
        "up": "tasks.cli.up",
        "down": "tasks.cli.down",
        "supervise": "tasks.cli.supervise",
    }
)
# command -> module with main(arguments): long-running servers with options of their own
PASSED_ON: Mapping[str, str] = MappingProxyType(
    {
        "serve": "tasks.serving.server",
        "keeper": "tasks.cli.keeper",
        "envoy": "tasks.cli.envoy",
        "shoppers": "tasks.cli.shoppers",
        "shadow": "tasks.cli.shadow",
    }
)
_EXIT_CODES = (
    "exit codes: 0 done, 1 crashed, 2 wrong command line, 3 a gate refused, 4 impossible request"
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="headrace",
        description="Lead shopping events through gates to a served recommender.",
        epilog=f"{_EXIT_CODES}. Everything is kept in $HEADRACE_HOME (default: .headrace).",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    adders = (_demo, _release, _status, _predict, _history, _verify)
    for add in (*adders, _steer, _hotfix, _rollback, _restore, _gc, _stack):
        add(commands)
    return parser


_Commands = argparse._SubParsersAction  # noqa: SLF001  argparse has no public name for it


def _command(
    commands: _Commands[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    added = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=_EXIT_CODES
    )
    added.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of an error",
    )
    return added


def _demo(commands: _Commands[argparse.ArgumentParser]) -> None:
    demo = _command(
        commands, "demo", "from nothing to a promoted, served recommender, with live progress"
    )
    demo.add_argument("--seed", type=_seed, default=1, help="seed of the training (default: 1)")


def _release(commands: _Commands[argparse.ArgumentParser]) -> None:
    release = _command(commands, "release", "make, gate, canary and promote one release")
    add = release.add_argument
    add("--dataset", choices=sorted(DATASETS), default="complete-journey", help="what to read")
    add("--model", type=_model, help="who is released (default: from the data set)")
    recipes = sorted({*RECIPES, *PICTURE_RECIPES})
    add("--recipe", choices=recipes, help="what to train (default: by the data set)")
    add("--compression", choices=sorted(COMPRESSIONS), default="int8", help="default: int8")
    add("--plan", choices=sorted(PLANS), help="traffic plan (default: a replay, by the data set)")
    add("--bake-seconds", type=_positive, help="longest bake of a step (default: the plan's)")
    add("--seed", type=_seed, default=1, help="seed of the training (default: 1)")
    add("--as-of", type=_utc, help="events after this UTC time are in the future")
    add("--approval", action="store_true", help="a person must approve the last step in Airflow")
    add("--first", action="store_true", help="release exactly this recipe, even with no champion")
    own = release.add_argument_group("your own events (--dataset events)")
    own.add_argument("--events-url", help="parquet or CSV: path or fsspec URL")
    own.add_argument("--catalogue-url", help="parquet or CSV of items")
    own.add_argument("--mapping-url", help="mapping file: which column is what")


def _status(commands: _Commands[argparse.ArgumentParser]) -> None:
    status = _command(commands, "status", "what runs, where, and what is wrong, in one line")
    status.add_argument("--json", action="store_true", help="for programs")


def _predict(commands: _Commands[argparse.ArgumentParser]) -> None:
    predict = _command(commands, "predict", "ask the router what to show a user, with titles")
    predict.add_argument("--user", required=True, help="a user id of the served release")
    predict.add_argument("--model", type=_model, default=DEFAULT_MODEL)
    predict.add_argument("-k", type=_positive, default=10, help="how many items (default: 10)")


def _history(commands: _Commands[argparse.ArgumentParser]) -> None:
    history = _command(commands, "history", "who released what, when and why, from the ledger")
    history.add_argument("--model", type=_model, default=DEFAULT_MODEL)
    history.add_argument("--at", type=_utc, metavar="TIME", help="who served at this UTC time")


def _verify(commands: _Commands[argparse.ArgumentParser]) -> None:
    verify = _command(
        commands, "verify", "recompute every digest, gate and ledger link of a release, offline"
    )
    verify.add_argument(
        "release",
        nargs="?",
        default=STABLE,
        help="release id or number; what serves now by default",
    )
    verify.add_argument("--model", type=_model, default=DEFAULT_MODEL)


def _steer(commands: _Commands[argparse.ArgumentParser]) -> None:
    texts = {
        "pause": "give the candidate nobody until somebody resumes; its slot stays loaded",
        "resume": "go on with a paused step",
    }
    for name, text in texts.items():
        steer = _command(commands, name, text)
        steer.add_argument("--model", type=_model, default=DEFAULT_MODEL)
        steer.add_argument("--reason", required=True, help="goes into the ledger")


def _hotfix(commands: _Commands[argparse.ArgumentParser]) -> None:
    hotfix = _command(
        commands, "hotfix", "replace stable's release during an experiment; no user is moved"
    )
    hotfix.add_argument("--model", type=_model, default=DEFAULT_MODEL)
    what = hotfix.add_mutually_exclusive_group(required=True)
    what.add_argument("--bundle", help="serving_bundle/KEY, with a passing gate")
    what.add_argument("--abandon", action="store_true", help="free the slot of one that was begun")
    hotfix.add_argument("--reason", required=True, help="goes into the ledger")


def _rollback(commands: _Commands[argparse.ArgumentParser]) -> None:
    rollback = _command(
        commands, "rollback", "take out the candidate, or the stable release if it is named"
    )
    rollback.add_argument("--model", type=_model, default=DEFAULT_MODEL)
    rollback.add_argument(
        "--release",
        type=_release_named,
        default=CANDIDATE,
        help="candidate (the default), stable (the release before it serves again), or a number or "
        "id of `headrace history`",
    )
    rollback.add_argument("--reason", required=True, help="goes into the ledger")


def _restore(commands: _Commands[argparse.ArgumentParser]) -> None:
    restore = _command(commands, "restore", "make a lost state record again, from the ledger")
    restore.add_argument("--model", type=_model, default=DEFAULT_MODEL)
    restore.add_argument("--print", action="store_true", help="print it instead of writing it")


def _gc(commands: _Commands[argparse.ArgumentParser]) -> None:
    gc = _command(
        commands, "gc", "remove artifacts that the ledger does not reach and are not young"
    )
    gc.add_argument(
        "--grace-hours",
        type=_hours,
        default=DEFAULT_GRACE_HOURS,
        help=f"younger artifacts stay (default: {DEFAULT_GRACE_HOURS:g})",
    )
    gc.add_argument("--dry-run", action="store_true", help="only say what would be removed")


def _stack(commands: _Commands[argparse.ArgumentParser]) -> None:
    _command(commands, "up", "start the local stack: Airflow, MLflow, Envoy, model slots")
    _command(commands, "down", "stop the local stack and whatever it has left running")
    _command(
        commands, "serve", "one model slot: a server that speaks TensorFlow Serving's protocol"
    )
    for internal in ("supervise", "keeper", "shoppers", "shadow"):
        _hidden(commands, internal)


def _hidden(commands: _Commands[argparse.ArgumentParser], name: str) -> None:
    commands.add_parser(name, description="Internal: the stack starts it.")


def _model(text: str) -> str:
    if not MODEL_NAME.fullmatch(text):
        message = f"expected a name of a-z, 0-9 and -, at most 40 long, found {text!r:.60}"
        raise argparse.ArgumentTypeError(message)
    return text


def _release_named(text: str) -> str:
    if not RELEASE_ID.fullmatch(text):
        message = (
            f"expected candidate, stable, or the number or id of a release, found {text!r:.130}"
        )
        raise argparse.ArgumentTypeError(message)
    return text


def _utc(text: str) -> str:
    try:
        parse_utc(text)
    except BadRequestError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        message = f"expected a whole number above 0, found {text!r:.60}"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def _seed(text: str) -> int:
    if not text.isdigit():
        message = f"expected a whole number from 0 on, found {text!r:.60}"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = -1.0
    if not hours >= 0:
        message = f"expected a number of hours from 0 on, found {text!r:.60}"
        raise argparse.ArgumentTypeError(message)
    return hours
