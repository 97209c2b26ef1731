"""`python -m tasks.rollout.steer STATE MODEL pause|resume WHO WHY`: what only a person does to a step."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.contracts.errors import BadRequestError, HeadraceError
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.record_store import RecordStore
from tasks.rollout.state import ModelState, Note, open_state

ACTIONS = ("pause", "resume")


def steer(state: ModelState, action: str, *, who: str, why: str) -> str:
    """Pause or resume the release in progress and return a sentence; both go into the ledger."""
    if action not in ACTIONS:
        message = f"{state.model}: expected an action of {list(ACTIONS)}, found {action!r:.40}"
        raise BadRequestError(message)
    release_id = state.peek().release_id
    if release_id is None:
        message = f"{state.model}: expected a release in progress to {action}, found none"
        raise BadRequestError(message)
    ask = state.pause if action == "pause" else state.resume
    phase = ask(release_id, note=Note(who=who, why=why))
    share = state.peek().status.share / 100
    return f"{state.model}: {release_id} is {phase} at {share:g} % ({phase.meaning})"


def main(argv: Sequence[str] | None = None, records: RecordStore | None = None) -> int:
    """Pause or resume once; print why it could not be done."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) != 5:
        print("expected: steer STATE_DIR MODEL pause|resume WHO WHY", file=sys.stderr)
        return int(ExitCode.USAGE)
    folder, model, action, who, why = arguments
    try:
        state = open_state(Path(folder), model, records=records)
        print(steer(state, action, who=who, why=why))
    except HeadraceError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    return int(ExitCode.DONE)


if __name__ == "__main__":
    raise SystemExit(main())
