"""`headrace history`: the ledger for people, and who served at a given time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.cli.home import Home
from tasks.cli.ledgers import known_state, readable_entries, up_to
from tasks.contracts.exit_codes import ExitCode

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from tasks.cli.console import Console
    from tasks.rollout.ledger import LedgerEntry
    from tasks.rollout.state import ModelState

COLUMNS = ("no", "at (UTC)", "what", "release", "step", "share", "who", "why")
MAX_SHOWN = 5
SERVING_MOVES = frozenset({"promoted", "hotfixed", "rolled_back"})


def run(options: argparse.Namespace, console: Console) -> int:
    """Print the entries, oldest first; with --at, say who served then."""
    state = known_state(Home.from_environment(), options.model)
    entries = up_to(readable_entries(state), options.at)
    console.table(f"ledger of {options.model}", COLUMNS, [_row(entry) for entry in entries])
    when = f"at {options.at}" if options.at else "now"
    problems = ledger_problems(state)
    if not problems:
        console.say(f"{when}: {served_after(entries)}")
        return int(ExitCode.DONE)
    console.say(f"{when}: who served cannot be told, the ledger is not whole:")
    for problem in problems[:MAX_SHOWN]:
        console.say(f"  - {problem}")
    if len(problems) > MAX_SHOWN:
        console.say(f"  (+{len(problems) - MAX_SHOWN} more)")
    verify = f"`headrace verify --model {state.model}`"
    console.say(f"restore these objects from a copy; {verify} names all that is wrong")
    return int(ExitCode.GATE_REFUSED)


def ledger_problems(state: ModelState) -> list[str]:
    """Return why the ledger cannot be believed: a link that is missing, or its record."""
    if state.text() is None:
        return [
            f"{state.where}: expected the state record, which holds the ledger's end, found none"
        ]
    return state.verify()


def _row(entry: LedgerEntry) -> tuple[str, ...]:
    release = "" if entry.release_number is None else f"{entry.release_number} {entry.release_id}"
    return (
        str(entry.sequence),
        entry.at.replace("T", " ").removesuffix("Z"),
        entry.kind,
        release,
        "" if entry.step is None else str(entry.step),
        f"{entry.share / 100:g} %",
        entry.who,
        entry.why,
    )


def served_after(entries: Sequence[LedgerEntry]) -> str:
    """Say which release was stable after these entries, and who else had traffic."""
    moves = [entry for entry in entries if entry.kind in SERVING_MOVES]
    stable = moves[-1].details.get("stable") if moves else None
    if not isinstance(stable, dict):
        return "no release served"
    sentence = f"release {stable['release_number']} ({stable['release_id']}) served"
    last = entries[-1]
    if last.share:
        return f"{sentence}, release {last.release_number} got {last.share / 100:g} % of users"
    return sentence
